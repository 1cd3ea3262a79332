"""Objects whose catalog rows were deleted: found in a thread of its own, and deleted only after two looks."""

from __future__ import annotations

import os
import threading
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from db import State, Upload
from tests.compressor.database import add_video
from tests.support.catalog_rows import CatalogRows
from tests.support.fault_proxy import FaultProxy, no_fault, s3_error
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from watcher.catalog import Orphans, orphans
from watcher.operations import Audit, Issue
from watcher.supervision.backoff import Backoff

pytestmark = pytest.mark.long

NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"


@pytest.fixture
def rows(rows: CatalogRows) -> CatalogRows:
    """The compressor's rows, with one of another video: an empty table is never believed."""
    other = str(uuid4())
    add_video(rows.url, other)
    rows.insert("another.mp4", "original", video_id=other)
    return rows


def orphans_of(harness: Harness) -> Orphans:
    assert harness.app.orphans is not None
    return harness.app.orphans


def pass_time(rows: CatalogRows, time: str) -> None:
    """Make everything that was found by looks older."""
    for table, column in (("orphans", "missing_since"), ("orphan_looks", "looked_at")):
        rows.connection.execute(
            f"UPDATE video_uploader.{table} SET {column} = {column} - %s::interval", [time]
        )


def release(harness: Harness, rows: CatalogRows, video: bytes, name: str = NAME) -> tuple[Upload, str]:
    """Take a file to `released`; returns its upload and its row's id."""
    row = rows.insert(name, "720p")
    path = f"{VIDEO_ID}/{name}"
    harness.put(path, video)
    harness.admit_waiting()
    upload = harness.finish(path)
    assert upload.state is State.RELEASED
    return upload, row


@pytest.mark.parametrize("deletes", [False, True])
def test_an_object_is_kept_and_reported_or_deleted_at_the_second_look(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, deletes: bool
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=deletes)
    upload, row = release(harness, rows, video)
    found = orphans_of(harness)
    assert (found.process_all(), found.kept) == (0, 0)
    rows.delete(row)
    for _ in range(3):
        assert (found.process_all(), found.kept) == (0, 1)
    pass_time(rows, "59 minutes")
    assert (found.process_all(), found.kept) == (0, 1)
    pass_time(rows, "1 minute")
    assert found.process_all() == deletes
    assert found.kept == (not deletes)
    assert harness.object(upload) == (None if deletes else video)
    assert (found.process_all(), found.kept) == (0, not deletes)


def test_what_was_found_survives_a_restart_and_a_row_that_came_back_begins_anew(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    url = rows.url_of(row)
    rows.delete(row)
    assert orphans_of(harness).process_all() == 0
    pass_time(rows, "2 hours")
    back = rows.insert(NAME, "720p", url=url)
    assert orphans_of(make_catalog_harness(DELETE_ORPHANS=True)).process_all() == 0
    rows.delete(back)
    assert orphans_of(harness).process_all() == 0
    assert harness.object(upload) == video
    pass_time(rows, "1 hour")
    assert orphans_of(make_catalog_harness(DELETE_ORPHANS=True)).process_all() == 1


def test_an_empty_table_deletes_nothing_however_often_it_is_looked_at(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """A TRUNCATE, or a restore that has only begun; what was missing before stays so."""
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    rows.delete(row)
    found = orphans_of(harness)
    assert found.process_all() == 0
    rows.connection.execute("CREATE TABLE kept AS SELECT * FROM video_qualities")
    rows.connection.execute("TRUNCATE video_qualities")
    with capture_logs() as logs:
        for _ in range(3):
            pass_time(rows, "2 days")
            assert found.process_all() == 0
    assert [(log["event"], log["log_level"]) for log in logs] == [("orphans_doubted", "warning")]
    assert "empty" in (found.doubt or "")
    assert harness.object(upload) == video
    findings = list(Audit(harness.app, fix=True).findings())
    assert [(finding.issue, finding.is_fixed) for finding in findings] == [(Issue.UNKNOWN, False)]
    rows.connection.execute("INSERT INTO video_qualities SELECT * FROM kept")
    assert (found.process_all(), found.doubt) == (1, None)


def test_a_table_that_has_lost_many_rows_is_believed_after_a_day_and_two_more_looks(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    others = [rows.insert(f"x{number}_720p.mp4", "720p") for number in range(10)]
    found = orphans_of(harness)
    assert found.process_all() == 0
    rows.delete(*others)
    assert (found.process_all(), found.doubt) == (0, None)
    others = [rows.insert(f"x{number}_720p.mp4", "720p") for number in range(10)]
    found.process_all()
    rows.delete(row, *others)
    for _ in range(3):
        pass_time(rows, "7 hours")
        assert found.process_all() == 0
        assert "has 1 rows and had 12" in (found.doubt or "")
    pass_time(rows, "3 hours")
    assert (found.process_all(), found.doubt, found.kept) == (0, None, 1)
    assert harness.object(upload) == video
    pass_time(rows, "1 hour")
    assert found.process_all() == 1


def test_a_row_that_appears_just_before_the_deletion_keeps_the_object(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    rows.delete(row)
    found = orphans_of(harness)
    assert found.process_all() == 0
    pass_time(rows, "1 hour")
    uploads_of_key = harness.app.ledger.uploads_of_key

    def compressed_again(key: str) -> list[Upload]:
        rows.insert(NAME, "720p")
        return uploads_of_key(key)

    monkeypatch.setattr(harness.app.ledger, "uploads_of_key", compressed_again)
    assert found.process_all() == 0
    assert harness.object(upload) == video


def test_the_audit_says_what_would_be_deleted_and_deletes_no_sooner(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    rows.delete(row)

    def audited(*, fix: bool) -> tuple[str, bool]:
        (finding,) = Audit(harness.app, fix=fix).findings()
        assert finding.issue is Issue.ORPHAN
        return finding.detail, finding.is_fixed

    assert "if they are still missing at a look an hour after" in audited(fix=False)[0]
    pass_time(rows, "1 hour")
    # An audit that repairs nothing is no look.
    assert audited(fix=True) == (audited(fix=False)[0], False)
    pass_time(rows, "1 hour")
    assert "the daemon deletes it at its next look" in audited(fix=False)[0]
    assert harness.object(upload) == video
    assert audited(fix=True) == ("Its catalog rows were deleted; it was deleted.", True)
    assert harness.object(upload) is None


def test_an_object_is_not_deleted_while_any_row_references_it(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """Not even one of another video that was edited by hand."""
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    upload, row = release(harness, rows, video)
    other = VIDEO_ID.replace("0b8e", "1b8e")
    add_video(rows.url, other)
    public = harness.app.context.naming.public_url(upload)
    pointed = rows.insert("another_480p.mp4", "480p", video_id=other, url=public)
    rows.delete(row)
    found = orphans_of(harness)
    for _ in range(2):
        assert (found.process_all(), found.kept) == (0, 0)
        pass_time(rows, "1 hour")
    assert harness.object(upload) == video
    rows.delete(pointed)
    assert found.process_all() == 0
    pass_time(rows, "1 hour")
    assert found.process_all() == 1


def publish(harness: Harness, rows: CatalogRows, video: bytes) -> str:
    """Take a file to `published`; returns its row's id."""
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert harness.row(PATH).state is State.PUBLISHED
    return row


def test_an_object_whose_copy_is_still_to_be_released_is_deleted_after_that(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """Deleting it before would send it again."""
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    rows.delete(publish(harness, rows, video))
    found = orphans_of(harness)
    with capture_logs() as logs:
        assert (found.process_all(), found.kept) == (0, 1)
        pass_time(rows, "1 hour")
        assert (found.process_all(), found.kept) == (0, 1)
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("orphan_kept", "debug"),
        ("orphans_kept", "info"),
    ]
    (upload,) = harness.step(State.PUBLISHED)
    assert upload.state is State.RELEASED
    assert found.process_all() == 1


def test_with_copies_kept_for_good_the_object_is_deleted_and_the_file_waits_for_a_row(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True, KEEP_LOCAL=True)
    rows.delete(publish(harness, rows, video))
    assert orphans_of(harness).process_all() == 0
    pass_time(rows, "1 hour")
    assert orphans_of(harness).process_all() == 1
    (upload,) = harness.step(State.PENDING)
    assert (upload.state, upload.awaits_row) == (State.PENDING, True)
    assert os.path.exists(harness.absolute(PATH))


def test_an_object_whose_row_was_deleted_before_publication_is_an_orphan_too(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    rows.delete(row)
    (upload,) = harness.step(State.VERIFIED)
    assert upload.state is State.GONE
    found = orphans_of(harness)
    assert found.process_all() == 0
    pass_time(rows, "1 hour")
    assert found.process_all() == 1
    assert harness.object(upload) is None
    assert found.process_all() == 0


def test_an_object_that_a_policy_protects_keeps_no_other_from_being_deleted(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    released = [release(harness, rows, video, f"{name}_720p.mp4") for name in ("a", "b")]
    rows.delete(*(row for _, row in released))
    found = orphans_of(harness)
    found.process_all()
    pass_time(rows, "1 hour")
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied")
        if request.method == "DELETE" and "a_720p" in request.path
        else forward()
    )
    with capture_logs() as logs:
        assert (found.process_all(), found.kept) == (1, 1)
    assert [log["path"] for log in logs if log["event"] == "orphan_undeleted"] == [f"{VIDEO_ID}/a_720p.mp4"]
    proxy.fault = no_fault
    assert (found.process_all(), found.kept) == (1, 0)


@pytest.mark.long
def test_a_look_is_bounded_rounds_in_a_thread_of_its_own_that_resume_after_an_error(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's thread takes no part, and each round reads the whole table once whatever its candidates."""
    harness = make_catalog_harness(DELETE_ORPHANS=True)
    released = [release(harness, rows, video, f"{number}_720p.mp4") for number in range(6)]
    rows.delete(*(row for _, row in released))
    monkeypatch.setattr("db.catalog.publications.WINDOW", 1)
    monkeypatch.setattr(orphans, "BATCH", 2)
    found, table = orphans_of(harness), orphans_of(harness)._catalog.table
    shown_urls, asked, threads, done = table.shown_urls, list[int](), set[str](), threading.Event()

    def look(urls: set[str]) -> set[str]:
        asked.append(len(urls))
        threads.add(threading.current_thread().name)
        if len(asked) == 2:
            raise TimeoutError("the second round fails once")
        if len(asked) == 4:
            done.set()
        return shown_urls(urls)

    monkeypatch.setattr(table, "shown_urls", look)
    harness.app.supervisor._backoff = Backoff(base=0.001, factor=1.0, cap=0.001)
    assert harness.app.catalog_thread is not None
    harness.app.catalog_thread.start()
    with capture_logs():
        found.start()
        try:
            assert done.wait(30)
        finally:
            for worker in (found, harness.app.catalog_thread):
                worker.request_stop()
                assert worker.join(30)
    assert threads == {"orphans"}
    assert asked == [2, 2, 2, 2]


def test_a_look_that_a_restart_interrupts_continues_where_it_was(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is restarted after each round finishes its looks all the same."""
    harness = make_catalog_harness()
    released = [release(harness, rows, video, f"{number}_720p.mp4") for number in range(3)]
    rows.delete(*(row for _, row in released))
    monkeypatch.setattr("db.catalog.publications.WINDOW", 1)
    monkeypatch.setattr(orphans, "WINDOWS", 1)
    begun: list[int] = []
    for _ in range(4):
        found = orphans_of(make_catalog_harness())
        of_deleted_rows = found._catalog.publications.of_deleted_rows

        def read(after: int, *, gone_code: str, read: Any = of_deleted_rows) -> Any:
            begun.append(after)
            return read(after, gone_code=gone_code)

        monkeypatch.setattr(found._catalog.publications, "of_deleted_rows", read)
        assert found.run_due() == 0.0
    assert begun == [0, *(upload.id for upload, _ in released)]
    after_the_look = orphans_of(make_catalog_harness())
    assert after_the_look.run_due() > 0.0
    assert after_the_look.kept == 3
