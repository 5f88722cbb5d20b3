"""`docs/settings.md` and `.env.example` say what `settings.py` reads."""

from dataclasses import MISSING, Field, fields
from typing import Any

import pytest
from documents import ROOT, rows
from dotenv import dotenv_values

from bakrypt_proxy import Settings

ROWS = {cells[0].strip("`"): cells for cells in rows("docs/settings.md", "`BAKRYPT_")}
FIELDS: dict[str, Field[Any]] = {field.metadata["row"].name: field for field in fields(Settings)}
FILES = {f"{name}_FILE" for name, field in FIELDS.items() if field.metadata["row"].secret}
NETWORK = "BAKRYPT_NETWORK"  # a short form of BAKRYPT_URL


def test_each_setting_has_a_row() -> None:
    """Each that is read, the files of the secrets included, and no other."""
    assert set(ROWS) == {*FIELDS, *FILES, NETWORK}


@pytest.mark.parametrize("name", FIELDS)
def test_the_defaults_are_right(name: str) -> None:
    """The default of a row is one that the setting's own parser reads as the default."""
    shown, default = ROWS[name][1].strip("`"), FIELDS[name].default
    assert default is not MISSING
    if shown:
        assert FIELDS[name].metadata["row"].parse(shown) == default
    else:
        assert default in {None, frozenset()} or name == "BAKRYPT_URL"


def test_the_default_network_is_right() -> None:
    """Setting it changes nothing."""
    shown = ROWS[NETWORK][1].strip("`")
    assert Settings.from_mapping({NETWORK: shown}) == Settings()


def test_the_example_of_the_environment_is_right() -> None:
    """`.env.example` is read without a problem, leaves exchange closed, and names real settings."""
    values = dotenv_values(ROOT / ".env.example")
    assert Settings.from_mapping(values) == Settings()
    assert "BAKRYPT_EXCHANGE_PUBLIC" not in values
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    named = {line.removeprefix("# ").split("=")[0] for line in lines if "=" in line}
    assert len(named) > len(values)
    assert named <= set(ROWS)
