"""Files that settings ignore although their catalog rows are ready are counted and told."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from tests.support.catalog_rows import CatalogRows
from tests.support.daemon_process import command, place_file, running_daemon
from tests.support.harness import VIDEO_ID, MakeHarness, MakeSettings
from tests.support.media import Media

HIDDEN, BARE, FLV = ".hidden_720p.mp4", "no extension", "a b.flv"


@pytest.fixture
def ignored(rows: CatalogRows) -> set[str]:
    """The paths of files with a ready row that are ignored; others have none, or one that is not ready."""
    for name in (HIDDEN, BARE, "a%20b.flv"):
        rows.insert(name, "original")
    rows.insert("unready.flv", "original", "processing")
    return {f"{VIDEO_ID}/{name}" for name in (HIDDEN, BARE, FLV)}


def test_ignored_files_of_ready_rows_are_told_once(
    make_catalog_harness: MakeHarness, rows: CatalogRows, ignored: set[str], video: bytes
) -> None:
    harness = make_catalog_harness(VIDEO_EXTENSIONS=".mp4")
    found = harness.app.ignored_files
    assert found is not None
    for path in (*ignored, f"{VIDEO_ID}/unready.flv", f"{VIDEO_ID}/notes.txt", "not a video/x.flv"):
        harness.write(path, video)
    with capture_logs() as logged:
        for _ in range(2):
            found.check(harness.app.scanner.scan().ignored_paths)
    assert found.paths.keys() == ignored
    assert ".flv is not in VIDEO_EXTENSIONS" in found.paths[f"{VIDEO_ID}/{FLV}"]
    assert [(line["event"], line["files"]) for line in logged] == [("ready_files_ignored", 3)]
    rows.connection.execute("DELETE FROM video_qualities")
    found.check(harness.app.scanner.scan().ignored_paths)
    assert found.paths == {}


@pytest.mark.long
def test_the_daemon_tells_in_its_status(
    settings: MakeSettings, rows: CatalogRows, ignored: set[str], media: Media
) -> None:
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", VIDEO_EXTENSIONS=".mp4")
    for path in ignored:
        place_file(chosen, path, media.faststart)
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        daemon.expect("ready_files_ignored", files=3)
        told: dict[str, str] = {}
        for _ in range(30):
            # The next heartbeat, within five seconds, has it.
            report = json.loads(command(chosen, "status", "--json").stdout)["report"]
            told = report["ready_files_ignored"]["first"]
            if told:
                break
    assert told.keys() == ignored
