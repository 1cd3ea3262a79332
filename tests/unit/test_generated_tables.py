"""The tables of docs/settings.md, docs/events.md and docs/metrics.md are those that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.generated_tables import EVENTS, METRICS, TABLES, cells_of, marks, metrics_table, with_table
from watcher.telemetry.metrics import Metrics


@pytest.mark.parametrize("document", TABLES, ids=lambda document: document.name)
def test_a_document_has_the_table_that_is_made_for_it(document: Path) -> None:
    """`python -m tests.support.generated_tables` writes them."""
    text = document.read_text(encoding="utf-8")
    assert [text.count(mark) for mark in marks(document)] == [1, 1]
    assert text == with_table(document, text)


@pytest.mark.parametrize("document", TABLES, ids=lambda document: document.name)
def test_every_row_has_a_meaning(document: Path) -> None:
    """That of an event is written into the document, from which it is kept."""
    meanings = {cells[0]: cells[-1] for cells in cells_of(document.read_text(encoding="utf-8"))}
    assert len(meanings) > 40
    assert [name for name, meaning in meanings.items() if not meaning.strip()] == []


def test_an_event_keeps_its_meaning_and_nothing_else() -> None:
    begin, end = marks(EVENTS)
    row = "| `upload_verified` | {} | {} | its meaning \\| in the document |\n"
    old = row.format("error", "x") + "| `gone` | info | | left |\n"
    made = with_table(EVENTS, f"above\n{begin}{old}{end}below\n")
    assert row.format("info", "`confirmed_by`, `etag`, `size`") in made
    assert "`gone`" not in made
    assert made.startswith(f"above\n{begin}| event | level |")
    assert made.endswith(f"{end}below\n")


def test_every_metric_that_is_exported_has_a_row() -> None:
    suffixes = {"counter": "_total"}
    exported = {family.name + suffixes.get(family.type, "") for family in Metrics().registry.collect()}
    described = {row[0].strip("`").partition("{")[0] for row in metrics_table()}
    assert {name for name in exported if not name.startswith("process_")} <= described
    assert METRICS in TABLES
