"""The daemon accepts live containers of originals, unless a setting or a row decides otherwise."""

from __future__ import annotations

import pytest

from db import State
from tests.support.catalog_rows import CatalogRows
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.media import Media
from watcher.detection import Reading
from watcher.detection.completeness import FileStatus, Finished, QuietPeriod
from watcher.operations.dry_run import open_planner

ORIGINAL = f"{VIDEO_ID}/recorded.webm"
RENDITION = f"{VIDEO_ID}/recorded_720p.webm"


@pytest.fixture
def live(media: Media) -> bytes:
    with open(media.live, "rb") as file:
        return file.read()


def check(harness: Harness, path: str) -> FileStatus:
    """Check a file as the daemon does, a quiet period after the first time if there is one."""
    check_complete = harness.app.settler._check_complete
    found = check_complete(path, None, 0.0)
    return check_complete(path, found.observation, found.until) if isinstance(found, QuietPeriod) else found


def finding(harness: Harness, path: str) -> str | None:
    found = check(harness, path)
    assert isinstance(found, Finished)
    return found.finding


def test_a_recorded_original_is_uploaded_and_a_rendition_like_it_is_rejected(
    make_harness: MakeHarness, live: bytes
) -> None:
    """A rendition without a size is what an encoder that was killed leaves."""
    harness = make_harness()
    for path in (ORIGINAL, RENDITION):
        harness.write(path, live)
        harness.enqueuer.handle(path, check(harness, path), Reading())
    assert harness.finish(ORIGINAL).state is State.RELEASED
    assert harness.object(harness.row(ORIGINAL)) == live
    assert harness.row(RENDITION).state is State.REJECTED
    assert "never closed" in (harness.row(RENDITION).last_error or "")


def test_an_original_that_is_truncated_in_its_last_cluster_is_rejected(
    make_harness: MakeHarness, live: bytes
) -> None:
    harness = make_harness()
    harness.write(ORIGINAL, live[:-1])
    assert "is truncated" in (finding(harness, ORIGINAL) or "")


def test_a_setting_refuses_live_containers(make_harness: MakeHarness, live: bytes) -> None:
    harness = make_harness(ACCEPT_LIVE_CONTAINERS="false")
    harness.write(ORIGINAL, live)
    assert "never closed" in (finding(harness, ORIGINAL) or "")


def test_the_dry_run_says_that_it_is_uploaded_unless_it_changes(
    make_harness: MakeHarness, live: bytes
) -> None:
    harness = make_harness()
    harness.write(ORIGINAL, live)
    with open_planner(harness.app.settings) as planner:
        (plan,) = planner.plans()
    assert plan.action == "upload"
    assert plan.reason.endswith("if it does not change for 5 s")


def test_with_the_compressors_rows_the_row_of_an_original_decides(
    make_catalog_harness: MakeHarness, rows: CatalogRows, live: bytes
) -> None:
    harness = make_catalog_harness()
    for path in (ORIGINAL, RENDITION):
        harness.write(path, live)
        harness.enqueuer.handle(path, check(harness, path), Reading())
    rows.insert("recorded.webm", "original")
    rows.insert("recorded_720p.webm", "720p")
    assert harness.admit_waiting() == 2
    assert harness.finish(ORIGINAL).state is State.PUBLISHED
    assert harness.row(RENDITION).state is State.REJECTED
