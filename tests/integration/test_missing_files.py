"""Ready catalog rows whose files do not exist and were never uploaded are counted and told."""

from __future__ import annotations

import json
import os
import shutil
import threading
from urllib.parse import quote
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tests.compressor.database import add_video
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.daemon_process import command, running_daemon
from tests.support.harness import VIDEO_ID, Harness, MakeHarness, MakeSettings
from tests.support.served_site import served_site
from tests.support.unprivileged import without_privileges
from watcher.catalog import MissingFiles, missing_files
from watcher.filesystem.openat import RootUnavailableError

NAME = "lost_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"


class Clock:
    """Monotonic seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def harness(make_catalog_harness: MakeHarness, video: bytes) -> Harness:
    """A harness whose directory has a file, so that it is not taken for one that is not mounted."""
    harness = make_catalog_harness()
    harness.write(f"{VIDEO_ID}/present_720p.mp4", video)
    return harness


def looking(harness: Harness, clock: Clock) -> MissingFiles:
    """What the daemon looks with."""
    app = harness.app
    assert app.orphans is not None
    made = app.orphans.missing_files
    assert made is not None
    made._clock = clock
    return made


def look(found: MissingFiles, clock: Clock) -> set[str]:
    """Make two looks far apart; returns the paths of the second."""
    for _ in range(2):
        clock.now += missing_files.PERIOD_SECONDS
        while not found.run_due():
            pass
    return set(found.found.first)


def test_a_row_is_told_only_if_its_file_stays_away(
    harness: Harness, rows: CatalogRows, clock: Clock, video: bytes
) -> None:
    found = looking(harness, clock)
    for name in ("present_720p.mp4", NAME, "late_720p.mp4"):
        rows.insert(name, "720p")
    rows.insert("unready_720p.mp4", "720p", "processing")
    rows.insert("failed_720p.mp4", "720p", "failed")
    with capture_logs() as logged:
        assert found.run_due() == missing_files.GRACE_SECONDS
        assert found.found.count == 0, "a row that became ready a moment ago"
        harness.write(f"{VIDEO_ID}/late_720p.mp4", video)
        clock.now += missing_files.GRACE_SECONDS
        assert found.run_due() == missing_files.PERIOD_SECONDS
        assert (found.found.count, set(found.found.first)) == (1, {PATH})
        clock.now += missing_files.PERIOD_SECONDS
        assert found.run_due() == missing_files.PERIOD_SECONDS
    assert [(line["event"], line["rows"], line["path"]) for line in logged] == [
        ("ready_files_missing", 1, PATH)
    ]
    harness.write(PATH, video)
    assert look(found, clock) == set()


def test_a_row_that_is_old_in_every_time_zone_is_told_at_the_first_look(
    harness: Harness, rows: CatalogRows, clock: Clock
) -> None:
    found = looking(harness, clock)
    rows.insert(NAME, "720p", updated_at="2020-01-01")
    rows.insert("another_720p.mp4", "720p")
    found.run_due()
    assert set(found.found.first) == {PATH}


def test_rows_of_what_was_uploaded_are_not_missing(
    harness: Harness, rows: CatalogRows, clock: Clock, video: bytes
) -> None:
    """A released file, one whose upload was folded into a receipt, a public URL of ours, and a second row."""
    for name in ("released_720p.mp4", "folded_720p.mp4"):
        rows.insert(name, "720p")
        harness.put(f"{VIDEO_ID}/{name}", video)
        harness.admit_waiting()
        harness.finish(f"{VIDEO_ID}/{name}")
        if name.startswith("folded"):
            harness.app.receipts.run_due(threading.Event())
    naming = harness.app.context.naming
    rows.insert("x", "144p", url=naming.public_url_of(f"{naming.key_prefix}{VIDEO_ID}/x_144p.mp4"))
    rows.connection.execute(
        "UPDATE video_qualities SET url = %s || '/' || video_id || '/released_720p.mp4'"
        " WHERE url LIKE '%%released%%'",
        [BASE_URL],
    )
    rows.connection.execute("DELETE FROM video_uploader.publications")
    assert look(looking(harness, clock), clock) == set()


def test_a_newer_row_of_a_released_file_waits_for_a_file_of_its_own(
    harness: Harness, rows: CatalogRows, clock: Clock, video: bytes
) -> None:
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    harness.finish(PATH)
    newer = rows.insert(NAME, "720p")
    found = looking(harness, clock)
    assert look(found, clock) == {PATH}
    assert newer in found.found.first[PATH]


def test_names_are_found_however_they_are_written(
    harness: Harness, rows: CatalogRows, clock: Clock, video: bytes
) -> None:
    for name in ("a b_720p.mp4", "100%25_720p.mp4", "u\u0308ber_720p.mp4"):
        harness.write(f"{VIDEO_ID}/{name}", video)
    rows.insert(quote("a b_720p.mp4"), "720p")
    rows.insert("100%25_720p.mp4", "720p")
    rows.insert("\u00fcber_720p.mp4", "720p")
    assert look(looking(harness, clock), clock) == set()


def test_odd_rows_leave_only_themselves_out(harness: Harness, rows: CatalogRows, clock: Clock) -> None:
    rows.connection.execute("ALTER TABLE video_qualities ALTER url DROP NOT NULL")
    for time in ("infinity", "-infinity", "0044-03-15 BC"):
        rows.insert("odd_720p.mp4", "720p", updated_at=time)
    rows.update(rows.insert("no url", "720p"), url=None)
    rows.insert("../../../etc/passwd", "720p")
    rows.insert("x" * 300, "720p")
    rows.insert("", "720p")
    rows.insert(NAME, "720p")
    missing = look(looking(harness, clock), clock)
    assert missing == {PATH, f"{VIDEO_ID}/passwd", f"{VIDEO_ID}/{'x' * 300}"}


def test_rows_of_videos_in_another_directory_do_not_count(
    harness: Harness, rows: CatalogRows, clock: Clock, make_catalog_harness: MakeHarness, video: bytes
) -> None:
    rows.insert(NAME, "720p")
    rows.insert("not found there yet_720p.mp4", "720p")
    elsewhere = f"{harness.app.tree.root}-elsewhere"
    os.mkdir(elsewhere)
    other = make_catalog_harness(INSTANCE_ID="another", COMPLETED_DIR=elsewhere)
    other.put(PATH, video)
    assert look(looking(harness, clock), clock) == set()


def test_what_cannot_be_looked_at_is_not_missing(harness: Harness, rows: CatalogRows, clock: Clock) -> None:
    rows.insert(NAME, "720p")
    found = looking(harness, clock)
    directory = harness.absolute(VIDEO_ID)
    os.chmod(directory, 0)
    try:
        with without_privileges():
            assert look(found, clock) == set()
    finally:
        os.chmod(directory, 0o755)
    shutil.rmtree(directory)
    assert look(found, clock) == set(), "an empty directory may not be mounted"
    shutil.rmtree(harness.app.tree.root)
    assert look(found, clock) == set()
    with pytest.raises(RootUnavailableError):
        list(found.find())


def test_a_large_table_is_read_in_pages_and_counted_with_few_paths(
    harness: Harness, rows: CatalogRows, clock: Clock
) -> None:
    videos = [str(uuid4()) for _ in range(3)]
    for video_id in videos:
        add_video(rows.url, video_id)
    rows.connection.execute(
        "INSERT INTO video_qualities (video_id, quality, url, status, updated_at)"
        " SELECT v, '720p', %s || '/' || v || '/' || n || '_720p.mp4', 'ready', now() - interval '3 days'"
        " FROM unnest(%s::uuid[]) AS v, generate_series(1, 400) AS n",
        [BASE_URL, videos],
    )
    found = looking(harness, clock)
    calls = 1
    while not found.run_due():
        calls += 1
    assert calls == 3, "pages of 500 rows"
    assert (found.found.count, len(found.found.first)) == (1200, missing_files.MAX_PATHS)
    assert len(list(found.find())) == 1200


def test_the_page_its_json_and_the_metrics_tell(harness: Harness, rows: CatalogRows, clock: Clock) -> None:
    rows.insert(NAME, "720p", updated_at="2020-01-01")
    looking(harness, clock).run_due()
    with served_site(harness) as site:
        told = json.loads(site.get("/api/status"))["ready_files_missing"]
        assert (told["count"], list(told["first"])) == (1, [PATH])
        assert f'<bdi class="path">{PATH}</bdi>' in site.get("/")
        assert "video_uploader_missing_ready_files 1.0" in site.get("/metrics")


@pytest.mark.long
def test_the_daemon_and_status_tell(settings: MakeSettings, rows: CatalogRows, video: bytes) -> None:
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", VIDEO_EXTENSIONS=".mp4")
    directory = os.path.join(chosen.completed_dir, VIDEO_ID)
    os.makedirs(directory)
    with open(os.path.join(directory, "ignored.flv"), "wb") as file:
        file.write(video)
    rows.insert("ignored.flv", "original")
    rows.insert(NAME, "720p", updated_at="2020-01-01")
    rows.insert("new_720p.mp4", "720p")
    with running_daemon(chosen) as daemon:
        daemon.expect("ready_files_missing", rows=1, path=PATH)
        told: dict[str, str] = {}
        while not told:
            # The next heartbeat, within five seconds, has it.
            told = json.loads(command(chosen, "status", "--json").stdout)["report"]["ready_files_missing"][
                "first"
            ]
        assert told.keys() == {PATH}
        assert "1 ready catalog rows have no file and no object" in command(chosen, "status").stdout
    listed = json.loads(command(chosen, "status", "--ignored", "--json").stdout)
    assert [one["path"] for one in listed["missing"]] == [PATH], "the new row has ten minutes"
    assert [(one["path"], one["row_is_ready"]) for one in listed["files"]] == [
        (f"{VIDEO_ID}/ignored.flv", True)
    ]
    assert (listed["missing_left_out"], listed["catalog_problem"]) == (0, None)
    out = command(chosen, "status", "--ignored").stdout
    assert f"{PATH}: it does not exist; catalog row " in out
    assert "is not in VIDEO_EXTENSIONS; its catalog row is ready" in out
