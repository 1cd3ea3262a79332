"""A catalog row with values that nothing expects concerns its own file alone, on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from db import State
from tests.compressor.database import add_video
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.harness import VIDEO_ID, Harness, MakeHarness

pytestmark = pytest.mark.long

ODD_VIDEO = VIDEO_ID.replace("0b8e", "1b8e")
ODD_NAME = "odd_720p.mp4"
ODD = f"{ODD_VIDEO}/{ODD_NAME}"
GOOD_NAMES = [f"good{number}_720p.mp4" for number in range(3)]
GOOD = [f"{VIDEO_ID}/{name}" for name in GOOD_NAMES]

TIMES = [None, "infinity", "-infinity", "20000-01-01", "294276-12-31 23:59:59", "4713-01-01 BC", "0001-01-01"]
TIMES += ["9999-12-31 23:59:59.999999", "1969-12-31"]
TEXTS = [
    None,
    "",
    " ",
    "a" * 100_000,
    "%",
    "%ff%00%",
    "http://[bad",
    "..",
    "../../x",
    "\x01\x1b[2J",
    "\u202e",
    "?#",
]
NUMBERS = [None, -1, 0, 2**63 - 1, -(2**63)]
VALUES: dict[str, list[Any]] = {
    "created_at": TIMES,
    "updated_at": TIMES,
    "processing_started_at": TIMES,
    "processing_completed_at": TIMES,
    "quality": TEXTS,
    "url": [*TEXTS, f"{BASE_URL}/{ODD_VIDEO}/%ff", f"{BASE_URL}/{ODD_VIDEO}/", f"{BASE_URL}//{ODD_NAME}"],
    "status": [*TEXTS, "READY", "deleted"],
    "codec": TEXTS,
    "file_size": NUMBERS,
    "frame_count": NUMBERS,
    "is_default": [None, True],
    "fps": [None, "NaN", "-1"],
    "bitrate": [None, -1, 2**31 - 1],
}


@pytest.fixture
def lax_rows(rows: CatalogRows) -> CatalogRows:
    """A table without constraints, whose times are kept by updates."""
    add_video(rows.url, ODD_VIDEO)
    for statement in (
        "ALTER TABLE video_qualities DISABLE TRIGGER video_qualities_touched",
        "ALTER TABLE video_qualities DROP CONSTRAINT video_qualities_quality_is_known",
        "ALTER TABLE video_qualities DROP CONSTRAINT video_qualities_status_is_known",
        *(f"ALTER TABLE video_qualities ALTER {name} TYPE text" for name in ("quality", "status", "codec")),
        *(f"ALTER TABLE video_qualities ALTER {name} DROP NOT NULL" for name in ("quality", "url")),
    ):
        rows.connection.execute(statement)
    return rows


def process_all(harness: Harness) -> None:
    """Do once all that looks at the catalog."""
    catalog_thread = harness.app.catalog_thread
    assert catalog_thread is not None
    harness.admit_waiting()
    for state in (State.PENDING, State.VERIFIED):
        harness.step(state)
    catalog_thread.republisher.check_recent()
    catalog_thread.republisher.check_all()
    assert harness.app.orphans is not None
    harness.app.orphans.process_all()
    harness.step(State.PUBLISHED)
    harness.app.context.catalog.rows(ODD_VIDEO)


def odd_row(rows: CatalogRows, column: str, value: object) -> str:
    row = rows.insert(ODD_NAME, "720p", video_id=ODD_VIDEO, url=f"{BASE_URL}/{ODD}")
    rows.update(row, **{column: value})
    return row


@pytest.mark.parametrize("column", VALUES)
def test_no_value_of_a_row_keeps_other_files_from_being_published(
    make_catalog_harness: MakeHarness, lax_rows: CatalogRows, video: bytes, column: str
) -> None:
    """The row is odd when its file arrives, and when it has been published."""
    harness = make_catalog_harness(DELETE_ORPHANS="true")
    row = odd_row(lax_rows, column, None)
    harness.put(ODD, video)
    for number, value in enumerate(VALUES[column]):
        lax_rows.update(row, **{column: value})
        name = f"good{number}_720p.mp4"
        lax_rows.insert(name, "720p")
        path = f"{VIDEO_ID}/{name}"
        harness.put(path, video)
        process_all(harness)
        assert harness.row(path).state is State.RELEASED, value
        assert harness.app.supervisor.internal_errors() == [], value
    assert harness.row(ODD).state is not State.GONE
    lax_rows.update(row, quality="720p", status="ready", created_at="2026-01-01", updated_at="2026-01-01")
    lax_rows.update(row, url=f"{BASE_URL}/{ODD}")
    process_all(harness)
    assert harness.row(ODD).state in {State.PUBLISHED, State.RELEASED}


@pytest.mark.parametrize(
    ("column", "value"), [("created_at", "infinity"), ("updated_at", "20000-01-01"), ("url", None)]
)
def test_an_odd_row_is_logged_once_and_its_file_is_published_where_it_can_be(
    make_catalog_harness: MakeHarness, lax_rows: CatalogRows, video: bytes, column: str, value: object
) -> None:
    harness = make_catalog_harness()
    row = odd_row(lax_rows, column, value)
    harness.put(ODD, video)
    with capture_logs() as logs:
        process_all(harness)
    assert harness.row(ODD).state in {State.PUBLISHED, State.RELEASED}
    assert [row.url for row in harness.app.context.catalog.rows(ODD_VIDEO)] == [harness.row(ODD).url]
    (line,) = [line for line in logs if line["event"] == "catalog_row_odd"]
    assert (line["row"], line["reason"]) == (row, f"It has no usable value in {column}.")


@pytest.mark.parametrize("column", ["quality", "status"])
def test_a_file_whose_row_does_not_say_what_it_is_waits_until_it_does(
    make_catalog_harness: MakeHarness, lax_rows: CatalogRows, video: bytes, column: str
) -> None:
    harness = make_catalog_harness()
    row = odd_row(lax_rows, column, None)
    harness.put(ODD, video)
    process_all(harness)
    assert (harness.row(ODD).state, harness.row(ODD).awaits_row) == (State.PENDING, True)
    lax_rows.update(row, quality="720p", status="ready")
    process_all(harness)
    assert harness.row(ODD).state is State.RELEASED
