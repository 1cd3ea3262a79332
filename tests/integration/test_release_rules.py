"""The rules of publishing, and of releasing the local copy last or not at all."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from db import DatabaseError, ErrorKind, Ledger, State
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET, VIDEO_ID, MakeHarness
from tests.support.peer_process import writer
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import content, published
from tests.support.video_files import FREE_BOX, PATH
from watcher.errors import Code
from watcher.filesystem import removal
from watcher.filesystem.quarantine_names import quarantine_name


def test_players_get_the_local_url_until_the_object_is_confirmed(
    make_harness: MakeHarness, video: bytes
) -> None:
    """The catalog row exists as soon as the file is settled, and changes only after the confirmation."""
    harness = make_harness()
    harness.put(PATH, video)
    assert harness.catalog_urls() == [f"file://{harness.app.tree.root}/{PATH}"]
    harness.step(State.PENDING)
    assert harness.catalog_urls() == [f"file://{harness.app.tree.root}/{PATH}"]
    (row,) = harness.step(State.VERIFIED)
    assert row.state is State.PUBLISHED
    assert harness.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_row_and_ledger_change_together_or_not_at_all(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between the two writes of a publication leaves neither of them."""
    harness = make_harness()
    harness.put(PATH, video)
    harness.step(State.PENDING)

    class Interrupted(BaseException):
        pass

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(harness.app.ledger, "advance", interrupt)
        with pytest.raises(Interrupted):
            harness.step(State.VERIFIED)
    assert harness.catalog_urls() == [f"file://{harness.app.tree.root}/{PATH}"]
    assert harness.row(PATH).state is State.VERIFIED


def test_a_catalog_row_that_was_deleted_is_made_again(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    harness.step(State.PENDING)
    with harness.app.context.database.transaction():
        harness.app.context.database.tables.qualities.delete().execute()
    harness.step(State.VERIFIED)
    assert harness.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_without_a_catalog_a_file_is_uploaded_and_released(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness(CATALOG="none")
    harness.put(PATH, video)
    row = harness.finish(PATH)
    assert row.state is State.RELEASED
    assert row.published_at is not None
    assert harness.object(row) == video
    assert not os.path.exists(harness.absolute(PATH))


def test_the_copy_goes_only_after_the_retention(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    published(harness, video)
    assert harness.step(State.PUBLISHED) == []
    row = harness.row(PATH)
    assert row.published_at is not None
    assert row.due_at == row.published_at + timedelta(hours=1)
    harness.app.policy.retention = timedelta(0)
    harness.app.ledger.reschedule_published(timedelta(0))
    (released,) = harness.step(State.PUBLISHED)
    assert released.state is State.RELEASED
    assert not os.path.exists(harness.absolute(PATH))
    assert harness.waited == [1.0]


def test_a_clock_that_is_set_back_makes_the_retention_begin_anew_and_end(
    make_harness: MakeHarness, video: bytes
) -> None:
    """Otherwise the copy would be kept, and its row claimed again and again, until that time is reached."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    published(harness, video)
    uploads = harness.app.context.database.tables.uploads
    ahead = harness.app.ledger.now() + timedelta(days=1)
    with harness.app.context.database.transaction():
        uploads.update(published_at=ahead, due_at=ahead + timedelta(hours=1)).execute()
    (row,) = harness.step(State.PUBLISHED)
    assert row.published_at is not None
    assert row.published_at <= harness.app.ledger.now()
    assert row.due_at <= harness.app.ledger.now() + timedelta(hours=1)
    assert harness.step(State.PUBLISHED) == []
    harness.app.policy.retention = timedelta(0)
    harness.app.ledger.reschedule_published(timedelta(0))
    (released,) = harness.step(State.PUBLISHED)
    assert released.state is State.RELEASED
    assert "the local copy was removed" in harness.app.ledger.events(released.id)[-1].detail


def test_a_retention_that_grew_is_kept_by_rows_that_are_due_already(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    harness.app.policy.retention = timedelta(hours=1)
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.last_error) == (State.PUBLISHED, None)
    assert row.due_at > harness.app.ledger.now() + timedelta(minutes=50)
    assert os.path.exists(harness.absolute(PATH))


def test_keep_local_wins(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness(KEEP_LOCAL=True)
    published(harness, video)
    assert not harness.app.runners[State.PUBLISHED].stage.is_enabled()


def test_an_object_that_was_lost_is_uploaded_again_while_the_copy_is_here(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    """The HEAD request before the release finds it; players get the local URL until it is uploaded again."""
    harness = make_harness()
    published(harness, video)
    server.client().delete_object(Bucket=BUCKET, Key=harness.row(PATH).object_key)
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.verified_at, row.published_at) == (State.PENDING, None, None)
    assert content(harness) == video
    assert harness.catalog_urls() == [f"file://{harness.app.tree.root}/{PATH}"]
    final = harness.finish(PATH)
    assert final.state is State.RELEASED
    assert harness.object(final) == video
    assert harness.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_a_lost_object_is_requeued_in_row_and_ledger_together_or_not_at_all(
    make_harness: MakeHarness, video: bytes, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    published(harness, video)
    server.client().delete_object(Bucket=BUCKET, Key=harness.row(PATH).object_key)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise DatabaseError(ErrorKind.TRANSIENT, "advance", "the test says so", "Wait.")

    monkeypatch.setattr(harness.app.ledger, "advance", fail)
    (row,) = harness.step(State.PUBLISHED)
    assert row.state is State.PUBLISHED
    assert harness.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_an_object_that_was_replaced_by_other_content_is_not_trusted(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    server.client().put_object(Bucket=BUCKET, Key=harness.row(PATH).object_key, Body=b"x" * len(video))
    (row,) = harness.step(State.PUBLISHED)
    assert row.state is State.PENDING
    assert content(harness) == video


def test_an_object_that_a_later_upload_of_another_instance_replaced_is_left_to_it(
    make_harness: MakeHarness, video: bytes, server: S3Server
) -> None:
    """Otherwise two hosts with a video of the same name would replace each other's object for ever."""
    harness = make_harness()
    published(harness, video)
    row = harness.row(PATH)
    put: Any = server.client().put_object(Bucket=BUCKET, Key=row.object_key, Body=video + FREE_BOX)
    other = Ledger(harness.app.context.database, "another")
    later = other.enqueue(
        PATH,
        video_id=row.video_id,
        filename=row.filename,
        quality=row.quality,
        object_key=row.object_key,
        identity=row.identity,
    )
    assert later is not None
    checksum, etag = "AAAAAAAAAAA=", put["ETag"].strip('"')
    other.advance(later, State.VERIFIED, checksum=checksum, etag=etag, confirmed_by="checksum", url=row.url)
    (kept,) = harness.step(State.PUBLISHED)
    assert (kept.state, kept.error_code) == (State.PUBLISHED, Code.OBJECT_REPLACED)
    assert content(harness) == video
    assert harness.object(kept) == video + FREE_BOX


def test_an_object_that_cannot_be_read_is_not_trusted(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    proxy.fault = lambda request, forward: Answer(403) if request.action == "HeadObject" else forward()
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.attempts) == (State.PUBLISHED, 0)
    assert harness.app.runners[State.PUBLISHED].breaker.failure is not None
    assert content(harness) == video


def test_a_file_replaced_between_confirmation_and_release_survives(
    make_harness: MakeHarness, video: bytes
) -> None:
    """The new content stays at its path, is uploaded in turn, and only then released."""
    harness = make_harness()
    published(harness, video)
    fresh = video + FREE_BOX
    harness.write(PATH + ".part", fresh)
    os.replace(harness.absolute(PATH + ".part"), harness.absolute(PATH))
    (old,) = harness.step(State.PUBLISHED)
    assert old.state is State.PUBLISHED
    assert content(harness) == fresh
    harness.settle(PATH)
    final = harness.finish(PATH)
    assert (final.state, harness.object(final)) == (State.RELEASED, fresh)
    assert harness.app.ledger.uploads(ids=[old.id])[0].state is State.SUPERSEDED


def test_a_file_rewritten_in_place_between_confirmation_and_release_survives(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    fresh = video + FREE_BOX
    harness.write(PATH, fresh)
    (old,) = harness.step(State.PUBLISHED)
    assert old.state is State.PUBLISHED
    assert content(harness) == fresh


def test_a_file_that_is_being_written_is_not_released(make_harness: MakeHarness, video: bytes) -> None:
    """Opened for writing and not written yet: the identity is the same, only a lease shows the writer."""
    harness = make_harness()
    published(harness, video)
    with writer(harness.absolute(PATH), os.O_WRONLY) as process:
        process.expect("opened")
        (row,) = harness.step(State.PUBLISHED)
        assert row.state is State.PUBLISHED
        assert content(harness) == video


def test_a_file_written_while_the_old_one_is_in_quarantine_survives(
    make_harness: MakeHarness, video: bytes
) -> None:
    """Compressed again while it is in quarantine: the writer creates a new file at the path."""
    harness = make_harness()
    published(harness, video)
    fresh = video + FREE_BOX

    def compress_again() -> None:
        assert not os.path.exists(harness.absolute(PATH))
        harness.write(PATH, fresh)

    harness.while_waiting = compress_again
    (old,) = harness.step(State.PUBLISHED)
    assert old.state is State.RELEASED
    assert os.listdir(harness.absolute(VIDEO_ID)) == [os.path.basename(PATH)]
    assert content(harness) == fresh
    harness.while_waiting = lambda: None
    harness.settle(PATH)
    final = harness.finish(PATH)
    assert (final.state, harness.object(final)) == (State.RELEASED, fresh)


def test_a_writer_that_opened_the_quarantined_file_gets_it_back(
    make_harness: MakeHarness, video: bytes
) -> None:
    """It looked the path up before the rename and opens the inode up to a second later.

    The file is put back, and looked at again when the writer is done.
    """
    harness = make_harness()
    published(harness, video)
    with ExitStack() as stack:

        def open_the_inode() -> None:
            (name,) = os.listdir(harness.absolute(VIDEO_ID))
            aside = os.path.join(harness.absolute(VIDEO_ID), name)
            stack.enter_context(writer(aside, os.O_WRONLY)).expect("opened")

        harness.while_waiting = open_the_inode
        (row,) = harness.step(State.PUBLISHED)
    assert harness.waited == [1.0]
    assert (row.state, row.error_code, row.attempts) == (State.PUBLISHED, Code.LOCAL_CHANGED, 0)
    assert len(harness.app.settler) == 1
    assert os.listdir(harness.absolute(VIDEO_ID)) == [os.path.basename(PATH)]


def test_a_stop_during_the_wait_puts_the_file_back(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    published(harness, video)

    def stop() -> None:
        harness.stop_requested = True

    harness.while_waiting = stop
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.claimed_by) == (State.PUBLISHED, None)
    assert content(harness) == video


def test_a_stop_between_two_files_of_a_batch_leaves_the_second_one_in_place(
    make_harness: MakeHarness, video: bytes, proxy: FaultProxy
) -> None:
    """Each takes a request to a server that may not answer, while the first one is in quarantine."""
    harness = make_harness()
    published(harness, video)
    second = f"{VIDEO_ID}/second_720p.mp4"
    harness.put(second, video)
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    proxy.requests.clear()

    def stop_at_first(_request: Request, forward: Forward) -> Answer:
        harness.stop_requested = True
        return forward()

    proxy.fault = stop_at_first
    rows = harness.step(State.PUBLISHED)
    assert [(row.state, row.claimed_by) for row in rows] == [(State.PUBLISHED, None)] * 2
    assert len(proxy.requests) == 1
    assert harness.row(second).attempts == 0


def test_the_objects_of_a_batch_are_asked_for_side_by_side_once_the_server_has_answered(
    make_harness: MakeHarness, video: bytes, proxy: FaultProxy
) -> None:
    """One after the other they take a round trip each, while the first files are in quarantine."""
    harness = make_harness()
    published(harness, video)
    for number in range(3):
        harness.put(f"{VIDEO_ID}/more{number}_720p.mp4", video)
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    proxy.requests.clear()
    together = threading.Barrier(3, timeout=30)

    def wait_for_the_others(request: Request, forward: Forward) -> Answer:
        if request is not proxy.requests[0]:
            together.wait()
        return forward()

    proxy.fault = wait_for_the_others
    rows = harness.step(State.PUBLISHED)
    assert [row.state for row in rows] == [State.RELEASED] * 4
    assert proxy.actions == ["HeadObject"] * 4


def test_a_crash_while_the_file_is_in_quarantine_is_repaired_at_the_next_start(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    row = harness.row(PATH)
    removal.quarantine(harness.app.tree, PATH, row.id, row.identity, token=harness.app.ledger.token)
    assert not os.path.exists(harness.absolute(PATH))
    next_life = make_harness()
    report = next_life.app.scanner.scan()
    next_life.app.quarantine_repair.run(report.quarantined)
    assert content(next_life) == video
    (kept,) = next_life.step(State.PUBLISHED)
    assert (kept.state, kept.error_code) == (State.PUBLISHED, Code.LOCAL_CHANGED)
    # Renaming changed the ctime: the file is released after it was hashed again.
    next_life.settle(PATH)
    (released,) = next_life.step(State.PUBLISHED)
    assert released.state is State.RELEASED


def test_a_crash_between_the_unlink_and_its_record_ends_released(
    make_harness: MakeHarness, video: bytes
) -> None:
    """The copy was removed but that was not recorded: the object is confirmed, so the row is released."""
    harness = make_harness()
    published(harness, video)
    os.unlink(harness.absolute(PATH))
    (row,) = harness.step(State.PUBLISHED)
    assert row.state is State.RELEASED


def test_an_unmounted_directory_releases_and_loses_nothing(
    make_harness: MakeHarness, video: bytes, place: str
) -> None:
    harness = make_harness()
    published(harness, video)
    os.rename(harness.absolute(VIDEO_ID), os.path.join(place, "unmounted"))
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, "root-unavailable")
    assert harness.app.runners[State.PUBLISHED].breaker.failure is not None


def test_a_lost_object_without_a_local_copy_is_reported_and_stays_visible(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    os.unlink(harness.absolute(PATH))
    harness.write(f"{VIDEO_ID}/other.txt", b"")
    server.client().delete_object(Bucket=BUCKET, Key=harness.row(PATH).object_key)
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, "object-lost")


def test_a_directory_is_left_alone_when_its_last_file_goes(make_harness: MakeHarness, video: bytes) -> None:
    """The compressor makes a directory and opens a file in it a moment later."""
    harness = make_harness()
    published(harness, video)
    harness.step(State.PUBLISHED)
    assert os.listdir(harness.absolute(VIDEO_ID)) == []


def test_a_release_that_cannot_be_recorded_is_recorded_later(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails between the unlink and its record."""
    harness = make_harness()
    published(harness, video)
    real = harness.app.ledger.advance

    def fail(*_args: object, **_kwargs: object) -> None:
        raise DatabaseError(ErrorKind.TRANSIENT, "advance", "the test says so", "Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(harness.app.ledger, "advance", fail)
        harness.step(State.PUBLISHED)
    assert harness.app.ledger.advance == real
    assert not os.path.exists(harness.absolute(PATH))
    harness.app.ledger.release_all_claims()
    harness.app.ledger.make_due(State.PUBLISHED)
    (row,) = harness.step(State.PUBLISHED)
    assert row.state is State.RELEASED


def test_of_a_file_with_a_second_name_only_the_name_in_the_directory_goes(
    make_harness: MakeHarness, video: bytes, place: str
) -> None:
    """No disk space was freed, so none is counted."""
    harness = make_harness(ALLOW_HARD_LINKS=True)
    harness.write(PATH, video)
    os.link(harness.absolute(PATH), other := os.path.join(place, "second name"))
    harness.settle(PATH)
    row = harness.finish(PATH)
    assert row.state is State.RELEASED
    assert not os.path.exists(harness.absolute(PATH))
    with open(other, "rb") as file:
        assert file.read() == video
    story = [event.detail for event in harness.app.ledger.events(row.id)]
    assert "the local name was removed; other hard links of the file: 1" in story
    assert harness.app.context.metrics.released._value.get() == 0


def test_a_second_name_that_is_only_our_own_from_a_crash_is_taken_away_where_hard_links_are_allowed(
    make_harness: MakeHarness, video: bytes
) -> None:
    """The crash came between link and unlink of the repair."""
    harness = make_harness(ALLOW_HARD_LINKS=True)
    published(harness, video)
    aside = os.path.join(
        os.path.dirname(harness.absolute(PATH)),
        quarantine_name(os.path.basename(PATH), harness.row(PATH).id, 1, harness.app.ledger.token),
    )
    os.link(harness.absolute(PATH), aside)
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, Code.LOCAL_CHANGED)
    # The link changed the ctime: the file is released after it was hashed again.
    harness.settle(PATH)
    (row,) = harness.step(State.PUBLISHED)
    assert row.state is State.RELEASED
    assert os.listdir(os.path.dirname(aside)) == []
    assert harness.app.context.metrics.released._value.get() == len(video)
