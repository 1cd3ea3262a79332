"""docs/s3.md has a row for each provider that is played, and names the dialects of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.dialects import DIALECTS

DOCUMENT = Path(__file__).parents[2] / "docs/s3.md"


def rows() -> dict[str, str]:
    """By provider, how it was tried."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Works with\n")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if len(row) == 4}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_played_dialect_has_a_row(name: str) -> None:
    provider = DIALECTS[name].provider
    assert provider in rows()
    assert f"`{name}`" in rows()[provider]


def test_no_row_names_a_dialect_that_is_not_played() -> None:
    named = {word for tried in rows().values() for word in re.findall(r"`([^`]+)`", tried)}
    assert named == set(DIALECTS)
