"""`CONTRIBUTING.md` draws the package as it is."""

import re

from documents import ROOT, read
from test_layering import APART, ROOMS

PAGE = "CONTRIBUTING.md"


def test_the_rooms_are_those_of_the_layering() -> None:
    """In the order in which imports go, from the bottom up."""
    table = re.findall(r"^\| \[(\w+)\]", read(PAGE), re.MULTILINE)
    assert table == ROOMS


def test_the_rooms_apart_are_named() -> None:
    """Those that import nothing of ours."""
    text = read(PAGE)
    assert all(f"[{room}](bakrypt_proxy/{room}/" in text for room in APART)


def test_the_make_targets_exist() -> None:
    """Each that the page names."""
    targets = set(re.findall(r"`make ([\w-]+)`", read(PAGE)))
    assert len(targets) > 3
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
