"""From a finding about a path to what the ledger and the catalog say of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from structlog.testing import capture_logs

from db import DatabaseError, ErrorKind, Identity, State, Upload
from storage import SourceFile
from tests.s3_server import S3Server
from tests.unit.db.places import LEASE, STEPS
from tests.unit.watcher.test_scanner import give_away
from tests.workshop import VIDEO_ID, Workshop, open_workshop, settings_for
from watcher.detection.completeness import FileStatus, Finished, Unreadable, check_complete
from watcher.filesystem.openat import identity_of, owned

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
CUT = slice(0, -100)
"""What is left of a video that was not written to its end."""

Unprivileged = Callable[[], AbstractContextManager[None]]


def identity(workshop: Workshop, path: str = PATH) -> Identity:
    return identity_of(os.stat(workshop.absolute(path)))


def local_url(workshop: Workshop, path: str = PATH) -> str:
    return f"file://{workshop.absolute(path)}"


def hash_and_bring(workshop: Workshop, row: Upload, *states: State) -> Upload:
    """Let a row know its file's checksum and take it through states."""
    with owned(os.open(workshop.absolute(row.path), os.O_RDONLY)) as fd:
        checksum = SourceFile(fd).checksum()
    row = workshop.app.ledger.record(row, checksum=checksum)
    for state in states:
        facts = {**STEPS.get(state, {})}
        facts.pop("checksum", None)
        row = workshop.app.ledger.advance(row, state, **facts)
    return row


def look(workshop: Workshop, path: str = PATH) -> FileStatus:
    return check_complete(workshop.app.tree, path, previous=None, now=0.0, settle_seconds=0)


def test_a_finished_file_gets_a_pending_row_and_its_local_url_in_the_catalog(
    workshop: Workshop, video: bytes
) -> None:
    with capture_logs() as logs:
        row = workshop.put(PATH, video)
    assert (row.state, row.video_id, row.filename, row.quality) == (
        State.PENDING,
        VIDEO_ID,
        "my_video.mp4",
        "720p",
    )
    assert row.object_key == f"videos/{VIDEO_ID}/my_video_720p.mp4"
    assert row.identity == identity(workshop)
    assert row.due_at <= workshop.app.ledger.now()
    assert workshop.catalog_urls() == [local_url(workshop)]
    (log,) = [log for log in logs if log["event"] == "file_finished"]
    assert (log["path"], log["video_id"], log["quality"], log["upload"]) == (PATH, VIDEO_ID, "720p", row.id)


def test_row_and_catalog_row_are_written_together_or_not_at_all(
    workshop: Workshop, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise DatabaseError(ErrorKind.ENVIRONMENT, "write", "the disk is full", "Make room.")

    workshop.write(PATH, video)
    with monkeypatch.context() as broken:
        broken.setattr(workshop.app.context.catalog, "announce", full_disk)
        with pytest.raises(DatabaseError):
            workshop.settle(PATH)
    assert workshop.app.ledger.current(PATH) is None
    assert workshop.settle(PATH) is not None
    assert workshop.catalog_urls() == [local_url(workshop)]


def test_a_file_that_did_not_change_keeps_its_row(workshop: Workshop, video: bytes) -> None:
    row = workshop.put(PATH, video)
    assert workshop.settle(PATH) == row
    assert len(workshop.app.ledger.uploads()) == 1
    assert len(workshop.catalog_urls()) == 1


@pytest.mark.parametrize(
    "states", [(), (State.VERIFIED,), (State.VERIFIED, State.PUBLISHED)], ids=lambda states: f"{states}"
)
def test_the_same_content_under_a_new_identity_keeps_its_row(
    workshop: Workshop, video: bytes, states: tuple[State, ...]
) -> None:
    """What `copy2` does after the close, what a restored backup does, and what a renumbered device does."""
    row = hash_and_bring(workshop, workshop.put(PATH, video), *states)
    for change in (lambda path: os.utime(path, ns=(1, 1)), replace_by_a_copy):
        change(workshop.absolute(PATH))
        fresh = workshop.settle(PATH)
        assert fresh is not None
        assert (fresh.id, fresh.state, fresh.checksum) == (row.id, row.state, row.checksum)
        assert fresh.identity == identity(workshop) != row.identity
    assert workshop.events(PATH).count("identity") == 2


def replace_by_a_copy(path: str) -> None:
    shutil.copy2(path, f"{path}.copy")
    os.rename(f"{path}.copy", path)


def test_a_row_whose_content_was_never_read_follows_its_file_of_the_same_size(
    workshop: Workshop, video: bytes
) -> None:
    row = workshop.put(PATH, video)
    os.utime(workshop.absolute(PATH), ns=(1, 1))
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.identity) == (row.id, identity(workshop))


def test_a_row_whose_content_was_never_read_does_not_follow_its_file_to_another_size(
    workshop: Workshop, video: bytes
) -> None:
    row = workshop.put(PATH, video)
    fresh = workshop.put(PATH, with_a_free_box(video))
    assert (fresh.id, fresh.size) == (row.id + 1, len(video) + 8)


def test_a_file_of_the_same_size_that_is_broken_now_is_not_taken_for_the_one_before(
    workshop: Workshop, video: bytes
) -> None:
    row = workshop.put(PATH, video)
    fresh = workshop.put(PATH, bytes(len(video)))
    assert (fresh.id, fresh.state) == (row.id + 1, State.REJECTED)


@pytest.mark.parametrize(
    "states",
    [(), (State.VERIFIED,), (State.VERIFIED, State.PUBLISHED), (State.FAILED,), (State.GONE,)],
    ids=lambda states: f"{states}",
)
@pytest.mark.parametrize("same_size", [True, False])
def test_new_content_gets_a_row_of_its_own_and_the_old_one_is_kept_as_superseded(
    workshop: Workshop, video: bytes, states: tuple[State, ...], same_size: bool
) -> None:
    old = hash_and_bring(workshop, workshop.put(PATH, video), *states)
    changed = video[:-1] + bytes([video[-1] ^ 1]) if same_size else with_a_free_box(video)
    fresh = workshop.put(PATH, changed)
    assert (fresh.id, fresh.state, fresh.checksum) == (old.id + 1, State.PENDING, None)
    (kept,) = workshop.app.ledger.uploads(ids=[old.id])
    assert (kept.state, kept.checksum, kept.identity) == (State.SUPERSEDED, old.checksum, old.identity)


def test_what_can_not_be_hashed_any_more_is_not_taken_for_what_was_hashed(
    workshop: Workshop, video: bytes
) -> None:
    """A published row that took over an identity it has never seen would give up a file never uploaded."""
    old = hash_and_bring(workshop, workshop.put(PATH, video), State.VERIFIED, State.PUBLISHED)
    workshop.write(f"{PATH}.part", bytes(len(video)))
    other = identity(workshop, f"{PATH}.part")
    os.unlink(workshop.absolute(PATH))
    assert workshop.app.enqueuer.take(PATH, Finished(other, None))
    (kept,) = workshop.app.ledger.uploads(ids=[old.id])
    assert (kept.state, kept.identity) == (State.SUPERSEDED, old.identity)


def with_a_free_box(video: bytes) -> bytes:
    return video + (8).to_bytes(4, "big") + b"free"


def test_a_released_row_stays_when_a_file_comes_to_its_path_again(workshop: Workshop, video: bytes) -> None:
    old = hash_and_bring(workshop, workshop.put(PATH, video), State.VERIFIED, State.PUBLISHED, State.RELEASED)
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (old.id + 1, State.PENDING)
    assert workshop.app.ledger.uploads(ids=[old.id]) == [old]


def test_a_file_that_comes_back_makes_its_row_pending_again(workshop: Workshop, video: bytes) -> None:
    row = workshop.put(PATH, video)
    workshop.app.ledger.advance(row, State.GONE, error="It disappeared.", error_code="local-missing")
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.last_error) == (row.id, State.PENDING, None)


def test_an_unreadable_file_fails_in_view_and_is_picked_up_when_mended(
    workshop: Workshop, video: bytes, unprivileged: Unprivileged
) -> None:
    workshop.write(PATH, video)
    os.chmod(workshop.absolute(PATH), 0)
    with unprivileged():
        found = look(workshop)
    assert isinstance(found, Unreadable)
    for _ in range(2):
        workshop.enqueuer.take(PATH, found)
        row = workshop.row(PATH)
        assert (row.state, row.error_code, row.last_error) == (State.FAILED, "unreadable", found.reason)
    assert len(workshop.app.ledger.uploads()) == 1
    assert workshop.catalog_urls() == []
    os.chmod(workshop.absolute(PATH), 0o644)
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.last_error) == (row.id, State.PENDING, None)
    assert workshop.catalog_urls() == [local_url(workshop)]


def test_a_file_that_can_be_read_at_last_and_is_incomplete_is_rejected(
    workshop: Workshop, video: bytes
) -> None:
    workshop.write(PATH, video[CUT])
    workshop.enqueuer.take(PATH, Unreadable("The system says: Permission denied."))
    row = workshop.row(PATH)
    assert row.state is State.FAILED
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.error_code) == (row.id, State.REJECTED, "incomplete")
    assert workshop.catalog_urls() == []


def test_a_waiting_row_whose_file_became_unreadable_fails(workshop: Workshop, video: bytes) -> None:
    row = workshop.put(PATH, video)
    workshop.enqueuer.take(PATH, Unreadable("Reading it failed."))
    fresh = workshop.row(PATH)
    assert (fresh.id, fresh.state, fresh.error_code) == (row.id, State.FAILED, "unreadable")


def test_a_row_that_a_worker_holds_is_left_to_it(workshop: Workshop, video: bytes) -> None:
    workshop.put(PATH, video)
    (row,) = workshop.app.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=LEASE)
    workshop.enqueuer.take(PATH, Unreadable("Reading it failed."))
    assert workshop.row(PATH) == row


def test_a_row_that_a_worker_claims_at_this_moment_is_left_to_it(
    workshop: Workshop, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = workshop.put(PATH, video)
    ledger = workshop.app.ledger
    (row,) = ledger.claim(State.PENDING, 1, lease=LEASE, horizon=LEASE)
    with monkeypatch.context() as late:
        late.setattr(ledger, "current", lambda _: seen)
        workshop.enqueuer.take(PATH, Unreadable("Reading it failed."))
    assert workshop.row(PATH) == row


def test_an_unreadable_directory_makes_no_row_and_no_exception(
    workshop: Workshop, video: bytes, unprivileged: Unprivileged
) -> None:
    workshop.write(PATH, video)
    give_away(os.path.dirname(workshop.app.tree.root))
    os.chmod(workshop.absolute(VIDEO_ID), 0)
    with unprivileged():
        found = look(workshop)
        workshop.enqueuer.take(PATH, found)
    os.chmod(workshop.absolute(VIDEO_ID), 0o755)
    assert isinstance(found, Unreadable)
    assert workshop.app.ledger.current(PATH) is None


def test_a_file_with_a_second_name_is_refused_and_said_so_once(workshop: Workshop, video: bytes) -> None:
    workshop.write(PATH, video)
    os.link(workshop.absolute(PATH), workshop.absolute(f"{VIDEO_ID}/second"))
    with capture_logs() as logs:
        assert [workshop.settle(PATH) for _ in range(2)] == [None, None]
    told = [(log["event"], log["log_level"]) for log in logs]
    assert told == [("file_refused", "warning")]
    assert "2 names" in logs[0]["reason"]


def test_a_waiting_row_whose_file_gets_a_second_name_fails_until_that_is_gone(
    workshop: Workshop, video: bytes
) -> None:
    row = workshop.put(PATH, video)
    os.link(workshop.absolute(PATH), workshop.absolute(f"{VIDEO_ID}/second"))
    failed = workshop.settle(PATH)
    assert failed is not None
    assert (failed.id, failed.state, failed.error_code) == (row.id, State.FAILED, "not-ours")
    os.unlink(workshop.absolute(f"{VIDEO_ID}/second"))
    fresh = workshop.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (row.id, State.PENDING)


def test_an_incomplete_container_is_rejected_and_not_announced(workshop: Workshop, video: bytes) -> None:
    with capture_logs() as logs:
        row = workshop.put(PATH, video[CUT])
    assert (row.state, row.error_code) == (State.REJECTED, "incomplete")
    assert row.last_error
    assert workshop.catalog_urls() == []
    assert [(log["event"], log["log_level"]) for log in logs] == [("upload_rejected", "warning")]
    assert workshop.settle(PATH) == row


def test_a_key_that_is_too_long_fails_with_what_to_do(
    place: str, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(place, "http://127.0.0.1:9", AWS_S3_VIDEOS_PREFIX="p" * 900)
    path = f"{VIDEO_ID}/{'n' * 200}_720p.mp4"
    with open_workshop(settings, S3Server()) as workshop:
        row = workshop.put(path, video)
        assert (row.state, row.error_code) == (State.FAILED, "key-too-long")
        assert row.last_error is not None
        assert "shorter name" in row.last_error
        assert workshop.catalog_urls() == []
        assert workshop.settle(path) == row


def test_what_the_template_does_not_name_is_no_concern_of_the_ledger(
    workshop: Workshop, video: bytes
) -> None:
    assert workshop.settle(workshop.write(f"{VIDEO_ID}/notes.txt", video)) is None
    assert workshop.settle(workshop.write("a/b/c_720p.mp4", video)) is None


def test_a_missing_or_busy_file_changes_nothing(workshop: Workshop, video: bytes) -> None:
    row = workshop.put(PATH, video)
    with open(workshop.absolute(PATH), "ab"):
        assert workshop.settle(PATH) == row
    os.unlink(workshop.absolute(PATH))
    assert workshop.settle(PATH) == row


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
def test_a_stopped_row_without_a_file_is_given_to_the_first_stage(
    workshop: Workshop, video: bytes, state: State
) -> None:
    row = workshop.app.ledger.advance(
        workshop.put(PATH, video), state, error="Because.", error_code="key-taken"
    )
    workshop.enqueuer.reconsider_missing(row)
    assert workshop.row(PATH).state is State.PENDING
    workshop.enqueuer.reconsider_missing(row)
    assert workshop.row(PATH).state is State.PENDING


def test_a_row_that_is_reopened_by_hand_at_this_moment_needs_no_second_time(
    workshop: Workshop, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = workshop.app.ledger
    gone = ledger.advance(
        workshop.put(PATH, video), State.GONE, error="It disappeared.", error_code="local-missing"
    )
    reopened = ledger.reopen(gone.id, reason="by hand")
    with monkeypatch.context() as late:
        late.setattr(ledger, "current", lambda _: gone)
        workshop.enqueuer.take(PATH, Finished(gone.identity, None))
    assert workshop.row(PATH) == reopened
