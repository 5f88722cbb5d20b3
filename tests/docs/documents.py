"""The documents of this repository: their code blocks, tables, headings and links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_INLINE_LINK = re.compile(r"""(?:\]\(|src(?:set)?="|^\[[^\]]+\]: )([^)"\s]+)""", re.MULTILINE)


class Link(NamedTuple):
    """A link from a document to a file of this repository, to a heading of a document, or both."""

    document: str
    path: str
    heading: str


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text("utf-8")


def snippets(document: str, language: str) -> list[str]:
    """Return a document's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(document), re.DOTALL | re.MULTILINE)


def snippet(document: str, heading: str, language: str = "python") -> str:
    """Return the code block in a language of the section below a heading of the second level."""
    section = read(document).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(document: str, first: str) -> list[list[str]]:
    """Return the cells of the table rows whose first cell starts with `first`."""
    lines = [line for line in read(document).splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def headings(document: str) -> set[str]:
    """Return the names by which a document's headings are linked, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", _FENCED.sub("", read(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def links(document: str) -> list[Link]:
    """Return a document's links that stay in this repository."""
    found = _INLINE_LINK.findall(_FENCED.sub("", read(document)))
    inside = [target for target in found if not target.startswith(("http:", "https:"))]
    return [Link(document, *target.partition("#")[::2]) for target in inside]
