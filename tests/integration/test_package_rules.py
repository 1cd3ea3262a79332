"""No file of a package is sent, published, renamed or released, whenever its playlist appears."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from db import State
from tests.support.daemon_process import command
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.media import encode
from watcher.errors import Code
from watcher.operations.dry_run import open_planner

PLAYLIST = f"{VIDEO_ID}/index.m3u8"
SEGMENT = f"{VIDEO_ID}/clip1.mp4"
RENDITION = f"{VIDEO_ID}/movie_720p.mp4"


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness(VIDEO_EXTENSIONS=".mp4,.ts")


def write_playlist(harness: Harness, *names: str) -> None:
    harness.write(PLAYLIST, "\n".join(("#EXTM3U", "#EXT-X-TARGETDURATION:4", *names)).encode())


def test_segments_are_ignored_with_the_reason_and_renditions_beside_them_are_not(
    harness: Harness, video: bytes
) -> None:
    """As ffmpeg writes them, and as a scan, the dry run and `explain` see them."""
    harness.write(RENDITION, video)
    encode(harness.absolute(PLAYLIST), "-c:v", "mpeg2video", "-r", "25", "-hls_time", "0.2")
    segments = {f"{VIDEO_ID}/{name}" for name in os.listdir(harness.absolute(VIDEO_ID)) if name[-3:] == ".ts"}
    assert len(segments) > 1
    report = harness.app.scanner.scan()
    assert (report.files, report.noticed, report.ignored) == (1, 1, len(segments) + 1)
    assert set(report.ignored_paths) == segments | {PLAYLIST}
    assert all(harness.settle(path) is None for path in segments)
    with open_planner(harness.app.settings) as planner:
        plans = {plan.path: plan for plan in planner.plans()}
    assert plans[RENDITION].action == "upload"
    assert {plans[path].action for path in segments} == {"ignore"}
    assert all(f"the playlist {PLAYLIST} names it" in plans[path].reason for path in segments)
    harness.put(RENDITION, video)
    explained = command(harness.app.settings, "explain", min(segments)).stdout
    assert f"On disk: It is ignored: the playlist {PLAYLIST} names it" in explained


def test_a_segment_that_was_enqueued_before_its_playlist_is_not_sent(harness: Harness, video: bytes) -> None:
    harness.put(SEGMENT, video)
    write_playlist(harness, "clip1.mp4")
    with capture_logs() as logged:
        (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.REJECTED, Code.IN_PACKAGE)
    assert f"the playlist {PLAYLIST} names it" in (row.last_error or "")
    assert f"retry {row.id}" in (row.last_error or "")
    assert [line["code"] for line in logged if line["event"] == "upload_rejected"] == ["in-package"]
    assert harness.object(row) is None
    os.remove(harness.absolute(PLAYLIST))
    harness.app.ledger.reopen(row.id, reason="retry")
    assert harness.step(State.PENDING)[0].state is State.VERIFIED


def test_a_segment_that_was_sent_before_its_playlist_is_not_published(harness: Harness, video: bytes) -> None:
    harness.put(SEGMENT, video)
    harness.step(State.PENDING)
    write_playlist(harness, "clip1.mp4")
    (row,) = harness.step(State.VERIFIED)
    assert (row.state, row.error_code) == (State.VERIFIED, Code.IN_PACKAGE)
    assert all(url.startswith("file:") for url in harness.catalog_urls())
    os.remove(harness.absolute(PLAYLIST))
    harness.app.ledger.make_due(State.VERIFIED)
    assert harness.step(State.VERIFIED)[0].state is State.PUBLISHED


def test_a_segment_that_was_published_before_its_playlist_is_neither_renamed_nor_released(
    harness: Harness, video: bytes
) -> None:
    """So it was with earlier versions. Its directory is the same before and after, and while it waits."""
    harness.put(SEGMENT, video)
    for state in (State.PENDING, State.VERIFIED):
        harness.step(state)
    write_playlist(harness, "clip1.mp4")
    names = os.listdir(harness.absolute(VIDEO_ID))
    harness.while_waiting = lambda: pytest.fail("a file is in quarantine")
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, Code.IN_PACKAGE)
    assert sorted(os.listdir(harness.absolute(VIDEO_ID))) == sorted(names)
    os.remove(harness.absolute(PLAYLIST))
    harness.while_waiting = lambda: None
    harness.app.ledger.make_due(State.PUBLISHED)
    assert harness.step(State.PUBLISHED)[0].state is State.RELEASED
