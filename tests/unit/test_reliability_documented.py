"""docs/reliability.md names only events, metrics and limits that exist, and the limits as they are."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLACES = {"status", "status --all", "explain", "audit", "doctor"}


def rows(first: str) -> list[list[str]]:
    """The rows of the tables whose first column has this title."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    tables = re.findall(rf"^\| {first} \|.*\n\|[ :|-]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def described(document: str, pattern: str) -> set[str]:
    """The names that the table of a document describes."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return set(re.findall(pattern, text, flags=re.MULTILINE))


def value_of(constant: str) -> float:
    """The value of a constant, or of an attribute of one, by its full name."""
    parts = constant.split(".")
    cut = next(number for number, part in enumerate(parts) if part.isupper())
    value: Any = reduce(getattr, parts[cut:], import_module(".".join(parts[:cut])))
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


@pytest.mark.parametrize("row", rows("odd thing"), ids=lambda row: row[0])
def test_who_is_told_is_an_event_a_metric_or_a_command(row: list[str]) -> None:
    named = set(re.findall(r"`([^`]+)`", row[3]))
    events = described("events.md", r"^\| `([a-z_]+)` \| [a-z, ]+ \|")
    metrics = described("metrics.md", r"`(video_uploader_\w+)")
    assert named - events - metrics - PLACES == set()


@pytest.mark.parametrize("row", rows("limit"), ids=lambda row: row[0])
def test_a_limit_is_what_its_constant_says(row: list[str]) -> None:
    values = [float(value.replace(",", "")) for value in row[1].split(", ")]
    assert values == [value_of(constant) for constant in re.findall(r"`([^`]+)`", row[2])]
