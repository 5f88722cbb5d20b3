"""Links lead somewhere, and no line of a document is too long to read."""

import pytest
from documents import DOCUMENTS, ROOT, Link, headings, links, read

LINKS = [link for document in DOCUMENTS for link in links(document)]


def test_every_document_is_looked_at() -> None:
    """The pages, the decisions, and those that GitHub looks for."""
    wanted = {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "examples/README.md"}
    assert wanted <= set(DOCUMENTS)
    assert {document.split("/")[1] for document in DOCUMENTS if document.startswith("docs/")} >= {
        "settings.md",
        "decisions",
    }


@pytest.mark.parametrize("link", LINKS, ids="-".join)
def test_links_lead_somewhere(link: Link) -> None:
    """To a file of this repository, and to a heading where the link names one."""
    target = ROOT / link.document
    if link.path:
        target = target.parent / link.path
    assert target.exists()
    if link.heading:
        assert link.heading in headings(str(target.resolve().relative_to(ROOT)))


@pytest.mark.parametrize("page", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_every_page_is_found_from_the_readme(page: str) -> None:
    """Directly, or by a page that the README links."""
    found, new = set[str](), {"README.md"}
    while new:
        found |= new
        paths = {
            (ROOT / document).parent.joinpath(link.path).resolve()
            for document in new
            for link in links(document)
        }
        new = {str(path.relative_to(ROOT)) for path in paths if path.suffix == ".md"} - found
        new &= set(DOCUMENTS)
    assert page in found


@pytest.mark.parametrize("document", [*DOCUMENTS, ".env.example", ".flaskenv"])
def test_lines_fit_an_editor(document: str) -> None:
    """Tables too: a row that does not fit is a paragraph."""
    assert [line for line in read(document).splitlines() if len(line) > 100] == []
