"""The rules about publishing, and about the local copy, which goes last or not at all."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from db import DatabaseError, ErrorKind, Ledger, State
from tests.fault_proxy import Answer, FaultProxy
from tests.integration.conftest import OpenWorkshop
from tests.peer import writer
from tests.s3_server import S3Server
from tests.workshop import BUCKET, VIDEO_ID, Workshop
from watcher.errors import LOCAL_CHANGED, OBJECT_REPLACED
from watcher.filesystem import removal

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
FREE_BOX = b"\0\0\0\x08free"


def published(shop: Workshop, video: bytes, path: str = PATH) -> None:
    """Bring a new file to `published`."""
    shop.put(path, video)
    shop.step(State.PENDING)
    shop.step(State.VERIFIED)
    assert shop.row(path).state is State.PUBLISHED


def content(shop: Workshop, path: str = PATH) -> bytes:
    with open(shop.absolute(path), "rb") as file:
        return file.read()


def test_players_get_the_local_url_until_the_object_is_confirmed(
    workshop: OpenWorkshop, video: bytes
) -> None:
    """The row is there as soon as the file is settled, and changes only after the confirmation."""
    shop = workshop()
    shop.put(PATH, video)
    assert shop.catalog_urls() == [f"file://{shop.app.tree.root}/{PATH}"]
    shop.step(State.PENDING)
    assert shop.catalog_urls() == [f"file://{shop.app.tree.root}/{PATH}"]
    (row,) = shop.step(State.VERIFIED)
    assert row.state is State.PUBLISHED
    assert shop.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_row_and_ledger_change_together_or_not_at_all(
    workshop: OpenWorkshop, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails between the two writes of a publication leaves neither of them."""
    shop = workshop()
    shop.put(PATH, video)
    shop.step(State.PENDING)

    class Interrupted(BaseException):
        pass

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(shop.app.ledger, "advance", interrupt)
        with pytest.raises(Interrupted):
            shop.step(State.VERIFIED)
    assert shop.catalog_urls() == [f"file://{shop.app.tree.root}/{PATH}"]
    assert shop.row(PATH).state is State.VERIFIED


def test_a_catalog_row_that_was_deleted_is_made_again(workshop: OpenWorkshop, video: bytes) -> None:
    shop = workshop()
    shop.put(PATH, video)
    shop.step(State.PENDING)
    with shop.app.database.transaction():
        shop.app.database.tables.qualities.delete().execute()
    shop.step(State.VERIFIED)
    assert shop.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_without_a_catalog_a_file_is_uploaded_and_released(workshop: OpenWorkshop, video: bytes) -> None:
    shop = workshop(CATALOG="none")
    shop.put(PATH, video)
    row = shop.finish(PATH)
    assert row.state is State.RELEASED
    assert row.published_at is not None
    assert shop.object(row) == video
    assert not os.path.exists(shop.absolute(PATH))


def test_the_copy_goes_only_after_the_retention(workshop: OpenWorkshop, video: bytes) -> None:
    shop = workshop(RELEASE_AFTER_SECONDS=3600)
    published(shop, video)
    assert shop.step(State.PUBLISHED) == []
    row = shop.row(PATH)
    assert row.published_at is not None
    assert row.due_at == row.published_at + timedelta(hours=1)
    shop.app.policy.retention = timedelta(0)
    shop.app.ledger.reschedule_published(timedelta(0))
    (released,) = shop.step(State.PUBLISHED)
    assert released.state is State.RELEASED
    assert not os.path.exists(shop.absolute(PATH))
    assert shop.waited == [1.0]


def test_a_clock_that_is_set_back_makes_the_retention_begin_anew_and_end(
    workshop: OpenWorkshop, video: bytes
) -> None:
    """A publication in the future would keep the copy until that has come, and its row busy all the time."""
    shop = workshop(RELEASE_AFTER_SECONDS=3600)
    published(shop, video)
    uploads = shop.app.database.tables.uploads
    ahead = shop.app.ledger.now() + timedelta(days=1)
    with shop.app.database.transaction():
        uploads.update(published_at=ahead, due_at=ahead + timedelta(hours=1)).execute()
    (row,) = shop.step(State.PUBLISHED)
    assert row.published_at is not None
    assert row.published_at <= shop.app.ledger.now()
    assert row.due_at <= shop.app.ledger.now() + timedelta(hours=1)
    assert shop.step(State.PUBLISHED) == []
    shop.app.policy.retention = timedelta(0)
    shop.app.ledger.reschedule_published(timedelta(0))
    (released,) = shop.step(State.PUBLISHED)
    assert released.state is State.RELEASED
    assert "the local copy was removed" in shop.app.ledger.events(released.id)[-1].detail


def test_a_retention_that_grew_is_kept_by_rows_that_are_due_already(
    workshop: OpenWorkshop, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    shop.app.policy.retention = timedelta(hours=1)
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.last_error) == (State.PUBLISHED, None)
    assert row.due_at > shop.app.ledger.now() + timedelta(minutes=50)
    assert os.path.exists(shop.absolute(PATH))


def test_keep_local_wins(workshop: OpenWorkshop, video: bytes) -> None:
    shop = workshop(KEEP_LOCAL=True)
    published(shop, video)
    assert not shop.app.runners[State.PUBLISHED].stage.is_enabled()


def test_an_object_that_was_lost_is_uploaded_again_while_the_copy_is_here(
    workshop: OpenWorkshop, server: S3Server, video: bytes
) -> None:
    """The fresh HEAD before the release finds it; players get the local URL until it is back."""
    shop = workshop()
    published(shop, video)
    server.client().delete_object(Bucket=BUCKET, Key=shop.row(PATH).object_key)
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.verified_at, row.published_at) == (State.PENDING, None, None)
    assert content(shop) == video
    assert shop.catalog_urls() == [f"file://{shop.app.tree.root}/{PATH}"]
    final = shop.finish(PATH)
    assert final.state is State.RELEASED
    assert shop.object(final) == video
    assert shop.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_a_lost_object_is_taken_back_in_row_and_ledger_together_or_not_at_all(
    workshop: OpenWorkshop, video: bytes, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    published(shop, video)
    server.client().delete_object(Bucket=BUCKET, Key=shop.row(PATH).object_key)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise DatabaseError(ErrorKind.TRANSIENT, "advance", "the test says so", "Wait.")

    monkeypatch.setattr(shop.app.ledger, "advance", fail)
    (row,) = shop.step(State.PUBLISHED)
    assert row.state is State.PUBLISHED
    assert shop.catalog_urls() == [f"/{BUCKET}/videos/{PATH}"]


def test_an_object_that_was_replaced_by_other_content_is_not_trusted(
    workshop: OpenWorkshop, server: S3Server, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    server.client().put_object(Bucket=BUCKET, Key=shop.row(PATH).object_key, Body=b"x" * len(video))
    (row,) = shop.step(State.PUBLISHED)
    assert row.state is State.PENDING
    assert content(shop) == video


def test_an_object_that_a_later_upload_of_another_instance_replaced_is_left_to_it(
    workshop: OpenWorkshop, video: bytes, server: S3Server
) -> None:
    """Two hosts with a video of the same name would replace each other's object for ever."""
    shop = workshop()
    published(shop, video)
    row = shop.row(PATH)
    put: Any = server.client().put_object(Bucket=BUCKET, Key=row.object_key, Body=video + FREE_BOX)
    other = Ledger(shop.app.database, "another")
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
    (kept,) = shop.step(State.PUBLISHED)
    assert (kept.state, kept.error_code) == (State.PUBLISHED, OBJECT_REPLACED)
    assert content(shop) == video
    assert shop.object(kept) == video + FREE_BOX


def test_an_object_that_may_not_be_looked_at_is_not_trusted(
    workshop: OpenWorkshop, proxy: FaultProxy, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    proxy.fault = lambda request, forward: Answer(403) if request.action == "HeadObject" else forward()
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.attempts) == (State.PUBLISHED, 0)
    assert shop.app.runners[State.PUBLISHED].breaker.failure is not None
    assert content(shop) == video


def test_a_file_replaced_between_confirmation_and_release_survives(
    workshop: OpenWorkshop, video: bytes
) -> None:
    """The new content stays at its path, is uploaded in turn, and only then released."""
    shop = workshop()
    published(shop, video)
    fresh = video + FREE_BOX
    shop.write(PATH + ".part", fresh)
    os.replace(shop.absolute(PATH + ".part"), shop.absolute(PATH))
    (old,) = shop.step(State.PUBLISHED)
    assert old.state is State.PUBLISHED
    assert content(shop) == fresh
    shop.settle(PATH)
    final = shop.finish(PATH)
    assert (final.state, shop.object(final)) == (State.RELEASED, fresh)
    assert shop.app.ledger.uploads(ids=[old.id])[0].state is State.SUPERSEDED


def test_a_file_rewritten_in_place_between_confirmation_and_release_survives(
    workshop: OpenWorkshop, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    fresh = video + FREE_BOX
    shop.write(PATH, fresh)
    (old,) = shop.step(State.PUBLISHED)
    assert old.state is State.PUBLISHED
    assert content(shop) == fresh


def test_a_file_that_is_being_written_is_not_released(workshop: OpenWorkshop, video: bytes) -> None:
    """Opened for writing and not written yet: the identity is the same, only the lease knows."""
    shop = workshop()
    published(shop, video)
    with writer(shop.absolute(PATH), os.O_WRONLY) as process:
        process.expect("opened")
        (row,) = shop.step(State.PUBLISHED)
        assert row.state is State.PUBLISHED
        assert content(shop) == video


def test_a_file_written_while_the_old_one_is_aside_survives(workshop: OpenWorkshop, video: bytes) -> None:
    """Compressed again in the very second of the release: the writer makes a new file at the path."""
    shop = workshop()
    published(shop, video)
    fresh = video + FREE_BOX

    def compress_again() -> None:
        assert not os.path.exists(shop.absolute(PATH))
        shop.write(PATH, fresh)

    shop.while_waiting = compress_again
    (old,) = shop.step(State.PUBLISHED)
    assert old.state is State.RELEASED
    assert os.listdir(shop.absolute(VIDEO_ID)) == [os.path.basename(PATH)]
    assert content(shop) == fresh
    shop.while_waiting = lambda: None
    shop.settle(PATH)
    final = shop.finish(PATH)
    assert (final.state, shop.object(final)) == (State.RELEASED, fresh)


def test_a_writer_that_opened_the_file_aside_gets_it_back(workshop: OpenWorkshop, video: bytes) -> None:
    """It looked the path up before the rename and opens the inode up to a second later.

    The file is put back, and looked at again when the writer is done.
    """
    shop = workshop()
    published(shop, video)
    with ExitStack() as stack:

        def open_the_inode() -> None:
            (name,) = os.listdir(shop.absolute(VIDEO_ID))
            aside = os.path.join(shop.absolute(VIDEO_ID), name)
            stack.enter_context(writer(aside, os.O_WRONLY)).expect("opened")

        shop.while_waiting = open_the_inode
        (row,) = shop.step(State.PUBLISHED)
    assert shop.waited == [1.0]
    assert (row.state, row.error_code, row.attempts) == (State.PUBLISHED, LOCAL_CHANGED, 0)
    assert len(shop.app.settler) == 1
    assert os.listdir(shop.absolute(VIDEO_ID)) == [os.path.basename(PATH)]


def test_a_stop_during_the_wait_puts_the_file_back(workshop: OpenWorkshop, video: bytes) -> None:
    shop = workshop()
    published(shop, video)

    def stop() -> None:
        shop.stop_requested = True

    shop.while_waiting = stop
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.claimed_by) == (State.PUBLISHED, None)
    assert content(shop) == video


def test_a_crash_while_the_file_is_aside_is_repaired_at_the_next_start(
    workshop: OpenWorkshop, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    row = shop.row(PATH)
    removal.quarantine(shop.app.tree, PATH, row.id, row.identity)
    assert not os.path.exists(shop.absolute(PATH))
    next_life = workshop()
    report = next_life.app.scanner.scan()
    next_life.app.asides.repair(report.asides)
    assert content(next_life) == video
    (released,) = next_life.step(State.PUBLISHED)
    assert released.state is State.RELEASED


def test_a_crash_between_the_unlink_and_its_record_ends_released(
    workshop: OpenWorkshop, video: bytes
) -> None:
    """The copy is gone and the ledger does not know: a fresh HEAD agrees, so the row is released."""
    shop = workshop()
    published(shop, video)
    os.unlink(shop.absolute(PATH))
    (row,) = shop.step(State.PUBLISHED)
    assert row.state is State.RELEASED


def test_an_unmounted_directory_releases_and_loses_nothing(
    workshop: OpenWorkshop, video: bytes, place: str
) -> None:
    shop = workshop()
    published(shop, video)
    os.rename(shop.absolute(VIDEO_ID), os.path.join(place, "unmounted"))
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, "root-unavailable")
    assert shop.app.runners[State.PUBLISHED].breaker.failure is not None


def test_a_lost_object_without_a_local_copy_is_reported_and_kept_in_view(
    workshop: OpenWorkshop, server: S3Server, video: bytes
) -> None:
    shop = workshop()
    published(shop, video)
    os.unlink(shop.absolute(PATH))
    shop.write(f"{VIDEO_ID}/other.txt", b"")
    server.client().delete_object(Bucket=BUCKET, Key=shop.row(PATH).object_key)
    (row,) = shop.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, "object-lost")


def test_a_directory_is_left_alone_when_its_last_file_goes(workshop: OpenWorkshop, video: bytes) -> None:
    """The compressor makes a directory and opens a file in it a moment later."""
    shop = workshop()
    published(shop, video)
    shop.step(State.PUBLISHED)
    assert os.listdir(shop.absolute(VIDEO_ID)) == []


def test_a_release_that_cannot_be_recorded_is_recorded_later(
    workshop: OpenWorkshop, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away between the unlink and the row."""
    shop = workshop()
    published(shop, video)
    real = shop.app.ledger.advance

    def fail(*_args: object, **_kwargs: object) -> None:
        raise DatabaseError(ErrorKind.TRANSIENT, "advance", "the test says so", "Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(shop.app.ledger, "advance", fail)
        shop.step(State.PUBLISHED)
    assert shop.app.ledger.advance == real
    assert not os.path.exists(shop.absolute(PATH))
    shop.app.ledger.release_all_claims()
    shop.app.ledger.make_due(State.PUBLISHED)
    (row,) = shop.step(State.PUBLISHED)
    assert row.state is State.RELEASED


def test_of_a_file_with_a_second_name_only_the_name_in_the_directory_goes(
    workshop: OpenWorkshop, video: bytes, place: str
) -> None:
    """No byte of the disk was given back, so none is counted."""
    shop = workshop(ALLOW_HARD_LINKS=True)
    shop.write(PATH, video)
    os.link(shop.absolute(PATH), other := os.path.join(place, "second name"))
    shop.settle(PATH)
    row = shop.finish(PATH)
    assert row.state is State.RELEASED
    assert not os.path.exists(shop.absolute(PATH))
    with open(other, "rb") as file:
        assert file.read() == video
    story = [event.detail for event in shop.app.ledger.events(row.id)]
    assert "the local name was removed; the file has 1 other names (hard links)" in story
    assert shop.app.metrics.released._value.get() == 0


def test_a_second_name_that_is_only_our_own_from_a_crash_is_taken_away_where_hard_links_are_allowed(
    workshop: OpenWorkshop, video: bytes
) -> None:
    """The crash came between giving the name back and taking the other one away."""
    shop = workshop(ALLOW_HARD_LINKS=True)
    published(shop, video)
    aside = os.path.join(os.path.dirname(shop.absolute(PATH)), removal.quarantine_name(shop.row(PATH).id, 1))
    os.link(shop.absolute(PATH), aside)
    (row,) = shop.step(State.PUBLISHED)
    assert row.state is State.RELEASED
    assert os.listdir(os.path.dirname(aside)) == []
    assert shop.app.metrics.released._value.get() == len(video)
