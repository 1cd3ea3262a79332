"""Enqueuing: what each file status changes in the ledger and the catalog."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from structlog.testing import capture_logs

from db import DatabaseError, ErrorKind, Identity, State, Upload
from storage import SourceFile
from tests.support.databases import LEASE, STATE_FACTS
from tests.support.harness import VIDEO_ID, Harness, open_harness, settings_for
from tests.support.s3_server import S3Server
from tests.support.unprivileged import give_away
from watcher.detection import Reading
from watcher.detection.completeness import FileStatus, Finished, Unreadable, check_complete
from watcher.errors import incomplete_reason
from watcher.filesystem.openat import Owned, identity_of

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
CUT = slice(0, -100)
"""Truncates a video."""

Unprivileged = Callable[[], AbstractContextManager[None]]


def identity(harness: Harness, path: str = PATH) -> Identity:
    return identity_of(os.stat(harness.absolute(path)))


def local_url(harness: Harness, path: str = PATH) -> str:
    return f"file://{harness.absolute(path)}"


def hash_and_advance(harness: Harness, row: Upload, *states: State) -> Upload:
    """Record a row's checksum and advance it through states."""
    with Owned(os.open(harness.absolute(row.path), os.O_RDONLY)) as fd:
        checksum = SourceFile(fd).checksum()
    row = harness.app.ledger.record(row, checksum=checksum)
    for state in states:
        facts = {**STATE_FACTS.get(state, {})}
        facts.pop("checksum", None)
        row = harness.app.ledger.advance(row, state, **facts)
    return row


def examine(harness: Harness, path: str = PATH) -> FileStatus:
    return check_complete(harness.app.tree, path, previous=None, now=0.0, settle_seconds=0)


def test_a_finished_file_gets_a_pending_row_and_its_local_url_in_the_catalog(
    harness: Harness, video: bytes
) -> None:
    with capture_logs() as logs:
        row = harness.put(PATH, video)
    assert (row.state, row.video_id, row.filename, row.quality) == (
        State.PENDING,
        VIDEO_ID,
        "my_video.mp4",
        "720p",
    )
    assert row.object_key == f"videos/{VIDEO_ID}/my_video_720p.mp4"
    assert row.identity == identity(harness)
    assert row.due_at <= harness.app.ledger.now()
    assert harness.catalog_urls() == [local_url(harness)]
    (log,) = [log for log in logs if log["event"] == "file_finished"]
    assert (log["path"], log["video_id"], log["quality"], log["upload"]) == (PATH, VIDEO_ID, "720p", row.id)


def test_row_and_catalog_row_are_written_together_or_not_at_all(
    harness: Harness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise DatabaseError(ErrorKind.ENVIRONMENT, "write", "the disk is full", "Make room.")

    harness.write(PATH, video)
    with monkeypatch.context() as broken:
        broken.setattr(harness.app.context.catalog, "announce", full_disk)
        with pytest.raises(DatabaseError):
            harness.settle(PATH)
    assert harness.app.ledger.current(PATH) is None
    assert harness.settle(PATH) is not None
    assert harness.catalog_urls() == [local_url(harness)]


def test_a_file_that_did_not_change_keeps_its_row(harness: Harness, video: bytes) -> None:
    row = harness.put(PATH, video)
    assert harness.settle(PATH) == row
    assert len(harness.app.ledger.uploads()) == 1
    assert len(harness.catalog_urls()) == 1


@pytest.mark.parametrize(
    "states", [(), (State.VERIFIED,), (State.VERIFIED, State.PUBLISHED)], ids=lambda states: f"{states}"
)
def test_the_same_content_under_a_new_identity_keeps_its_row(
    harness: Harness, video: bytes, states: tuple[State, ...]
) -> None:
    """As after `copy2` sets the times, after a restored backup, or after the device number changed."""
    row = hash_and_advance(harness, harness.put(PATH, video), *states)
    for change in (lambda path: os.utime(path, ns=(1, 1)), replace_by_a_copy):
        change(harness.absolute(PATH))
        fresh = harness.settle(PATH)
        assert fresh is not None
        assert (fresh.id, fresh.state, fresh.checksum) == (row.id, row.state, row.checksum)
        assert fresh.identity == identity(harness) != row.identity
    assert harness.events(PATH).count("identity") == 2


def replace_by_a_copy(path: str) -> None:
    shutil.copy2(path, f"{path}.copy")
    os.rename(f"{path}.copy", path)


def test_a_row_whose_content_was_never_read_follows_its_file_of_the_same_size(
    harness: Harness, video: bytes
) -> None:
    row = harness.put(PATH, video)
    os.utime(harness.absolute(PATH), ns=(1, 1))
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.identity) == (row.id, identity(harness))


def test_a_row_whose_content_was_never_read_does_not_follow_its_file_to_another_size(
    harness: Harness, video: bytes
) -> None:
    row = harness.put(PATH, video)
    fresh = harness.put(PATH, with_a_free_box(video))
    assert (fresh.id, fresh.size) == (row.id + 1, len(video) + 8)


def test_a_file_of_the_same_size_that_is_broken_now_is_not_taken_for_the_one_before(
    harness: Harness, video: bytes
) -> None:
    row = harness.put(PATH, video)
    fresh = harness.put(PATH, bytes(len(video)))
    assert (fresh.id, fresh.state) == (row.id + 1, State.REJECTED)


@pytest.mark.parametrize(
    "states",
    [(), (State.VERIFIED,), (State.VERIFIED, State.PUBLISHED), (State.FAILED,), (State.GONE,)],
    ids=lambda states: f"{states}",
)
@pytest.mark.parametrize("same_size", [True, False])
def test_new_content_gets_a_row_of_its_own_and_the_old_one_is_kept_as_superseded(
    harness: Harness, video: bytes, states: tuple[State, ...], same_size: bool
) -> None:
    old = hash_and_advance(harness, harness.put(PATH, video), *states)
    changed = video[:-1] + bytes([video[-1] ^ 1]) if same_size else with_a_free_box(video)
    fresh = harness.put(PATH, changed)
    assert (fresh.id, fresh.state, fresh.checksum) == (old.id + 1, State.PENDING, None)
    (kept,) = harness.app.ledger.uploads(ids=[old.id])
    assert (kept.state, kept.checksum, kept.identity) == (State.SUPERSEDED, old.checksum, old.identity)


def test_a_file_that_cannot_be_hashed_is_not_taken_for_the_hashed_one(harness: Harness, video: bytes) -> None:
    """A published row with an identity it never hashed would release a file that was never uploaded."""
    old = hash_and_advance(harness, harness.put(PATH, video), State.VERIFIED, State.PUBLISHED)
    harness.write(f"{PATH}.part", bytes(len(video)))
    other = identity(harness, f"{PATH}.part")
    os.unlink(harness.absolute(PATH))
    assert harness.app.enqueuer.handle(PATH, Finished(other, None), Reading())
    (kept,) = harness.app.ledger.uploads(ids=[old.id])
    assert (kept.state, kept.identity) == (State.SUPERSEDED, old.identity)


def with_a_free_box(video: bytes) -> bytes:
    return video + (8).to_bytes(4, "big") + b"free"


def test_a_released_row_stays_when_a_file_comes_to_its_path_again(harness: Harness, video: bytes) -> None:
    old = hash_and_advance(harness, harness.put(PATH, video), State.VERIFIED, State.PUBLISHED, State.RELEASED)
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (old.id + 1, State.PENDING)
    assert harness.app.ledger.uploads(ids=[old.id]) == [old]


def test_a_file_that_comes_back_makes_its_row_pending_again(harness: Harness, video: bytes) -> None:
    row = harness.put(PATH, video)
    harness.app.ledger.advance(row, State.GONE, error="It disappeared.", error_code="local-missing")
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.last_error) == (row.id, State.PENDING, None)


def test_an_unreadable_file_fails_visibly_and_is_reopened_when_readable(
    harness: Harness, video: bytes, unprivileged: Unprivileged
) -> None:
    harness.write(PATH, video)
    os.chmod(harness.absolute(PATH), 0)
    with unprivileged():
        found = examine(harness)
    assert isinstance(found, Unreadable)
    for _ in range(2):
        harness.enqueuer.handle(PATH, found, Reading())
        row = harness.row(PATH)
        assert (row.state, row.error_code, row.last_error) == (State.FAILED, "unreadable", found.reason)
    assert len(harness.app.ledger.uploads()) == 1
    assert harness.catalog_urls() == []
    os.chmod(harness.absolute(PATH), 0o644)
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.last_error) == (row.id, State.PENDING, None)
    assert harness.catalog_urls() == [local_url(harness)]


def test_a_file_that_can_be_read_at_last_and_is_incomplete_is_rejected(
    harness: Harness, video: bytes
) -> None:
    harness.write(PATH, video[CUT])
    harness.enqueuer.handle(PATH, Unreadable("The system says: Permission denied."))
    row = harness.row(PATH)
    assert row.state is State.FAILED
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state, fresh.error_code) == (row.id, State.REJECTED, "incomplete")
    assert harness.catalog_urls() == []


def test_a_waiting_row_whose_file_became_unreadable_fails(harness: Harness, video: bytes) -> None:
    row = harness.put(PATH, video)
    harness.enqueuer.handle(PATH, Unreadable("Reading it failed."))
    fresh = harness.row(PATH)
    assert (fresh.id, fresh.state, fresh.error_code) == (row.id, State.FAILED, "unreadable")


def test_a_claimed_row_is_left_to_its_worker(harness: Harness, video: bytes) -> None:
    harness.put(PATH, video)
    (row,) = harness.app.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=LEASE)
    harness.enqueuer.handle(PATH, Unreadable("Reading it failed."))
    assert harness.row(PATH) == row


def test_a_row_that_is_claimed_concurrently_is_left_to_its_worker(
    harness: Harness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = harness.put(PATH, video)
    ledger = harness.app.ledger
    (row,) = ledger.claim(State.PENDING, 1, lease=LEASE, horizon=LEASE)
    with monkeypatch.context() as late:
        late.setattr(ledger, "current", lambda _: seen)
        harness.enqueuer.handle(PATH, Unreadable("Reading it failed."))
    assert harness.row(PATH) == row


def test_an_unreadable_directory_makes_no_row_and_no_exception(
    harness: Harness, video: bytes, unprivileged: Unprivileged
) -> None:
    harness.write(PATH, video)
    give_away(os.path.dirname(harness.app.tree.root))
    os.chmod(harness.absolute(VIDEO_ID), 0)
    with unprivileged():
        found = examine(harness)
        harness.enqueuer.handle(PATH, found, Reading())
    os.chmod(harness.absolute(VIDEO_ID), 0o755)
    assert isinstance(found, Unreadable)
    assert harness.app.ledger.current(PATH) is None


def test_a_file_with_a_second_name_is_refused_and_logged_once(harness: Harness, video: bytes) -> None:
    harness.write(PATH, video)
    os.link(harness.absolute(PATH), harness.absolute(f"{VIDEO_ID}/second"))
    with capture_logs() as logs:
        assert [harness.settle(PATH) for _ in range(2)] == [None, None]
    told = [(log["event"], log["log_level"]) for log in logs]
    assert told == [("file_refused", "warning")]
    assert "2 names" in logs[0]["reason"]


def test_a_waiting_row_whose_file_gets_a_second_name_fails_until_that_is_gone(
    harness: Harness, video: bytes
) -> None:
    row = harness.put(PATH, video)
    os.link(harness.absolute(PATH), harness.absolute(f"{VIDEO_ID}/second"))
    failed = harness.settle(PATH)
    assert failed is not None
    assert (failed.id, failed.state, failed.error_code) == (row.id, State.FAILED, "not-ours")
    os.unlink(harness.absolute(f"{VIDEO_ID}/second"))
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (row.id, State.PENDING)


def test_an_incomplete_container_is_rejected_and_not_announced(harness: Harness, video: bytes) -> None:
    with capture_logs() as logs:
        row = harness.put(PATH, video[CUT])
    assert (row.state, row.error_code) == (State.REJECTED, "incomplete")
    assert row.last_error
    assert harness.catalog_urls() == []
    assert [(log["event"], log["log_level"]) for log in logs] == [("upload_rejected", "warning")]
    assert harness.settle(PATH) == row


def test_a_key_that_is_too_long_fails_with_what_to_do(
    place: str, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(place, "http://127.0.0.1:9", AWS_S3_VIDEOS_PREFIX="p" * 900)
    path = f"{VIDEO_ID}/{'n' * 200}_720p.mp4"
    with open_harness(settings, S3Server()) as harness:
        row = harness.put(path, video)
        assert (row.state, row.error_code) == (State.FAILED, "key-too-long")
        assert row.last_error is not None
        assert "shorter name" in row.last_error
        assert harness.catalog_urls() == []
        assert harness.settle(path) == row


def test_a_path_that_the_template_does_not_match_gets_no_row(harness: Harness, video: bytes) -> None:
    assert harness.settle(harness.write(f"{VIDEO_ID}/notes.txt", video)) is None
    assert harness.settle(harness.write("a/b/c_720p.mp4", video)) is None


def test_a_missing_or_busy_file_changes_nothing(harness: Harness, video: bytes) -> None:
    row = harness.put(PATH, video)
    with open(harness.absolute(PATH), "ab"):
        assert harness.settle(PATH) == row
    os.unlink(harness.absolute(PATH))
    assert harness.settle(PATH) == row


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
def test_a_stopped_row_without_a_file_is_given_to_the_upload_stage(
    harness: Harness, video: bytes, state: State
) -> None:
    row = harness.app.ledger.advance(
        harness.put(PATH, video), state, error="Because.", error_code="key-taken"
    )
    harness.enqueuer.handle_missing(row)
    assert harness.row(PATH).state is State.PENDING
    harness.enqueuer.handle_missing(row)
    assert harness.row(PATH).state is State.PENDING


def test_a_row_that_is_reopened_concurrently_is_left_as_it_is(
    harness: Harness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = harness.app.ledger
    gone = ledger.advance(
        harness.put(PATH, video), State.GONE, error="It disappeared.", error_code="local-missing"
    )
    reopened = ledger.reopen(gone.id, reason="by hand")
    with monkeypatch.context() as late:
        late.setattr(ledger, "current", lambda _: gone)
        harness.enqueuer.handle(PATH, Finished(gone.identity, None), Reading())
    assert harness.row(PATH) == reopened


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\0\x7f\x9b31m", b"\0\0\x10\0Q#~zabc", b"\0\0\0\x10\x1b[2J" + b"z" * 500, bytes(5000)],
)
def test_a_damaged_file_is_rejected_with_what_to_do_whatever_it_holds(
    harness: Harness, content: bytes
) -> None:
    row = harness.put(PATH, content)
    assert (row.state, row.error_code) == (State.REJECTED, "incomplete")
    assert row.last_error is not None
    assert row.last_error.isprintable()
    assert row.last_error.endswith("two encoders wrote it at once. Compress the video again.")


def test_a_finding_is_bounded() -> None:
    reason = incomplete_reason("\x1b" * 10_000)
    assert len(reason) < 500
    assert reason.isprintable()
