"""The error policy: the table of the three kinds of errors in docs/reliability.md, line by line."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
import structlog
from structlog.testing import capture_logs

from db import (
    ClaimLostError,
    DatabaseError,
    IllegalTransitionError,
    State,
    Upload,
)
from db import ErrorKind as DatabaseErrorKind
from storage import ErrorKind, KeyTooLongError, SourceChangedError, StorageError, UploadCancelledError
from tests.support.databases import IDENTITY, VIDEO_ID, advance_to, enqueue
from tests.support.harness import Harness
from watcher.errors import DecidedError, DeferError, Failure, FailureKind, ReexamineError, StageError
from watcher.filesystem.openat import FileMissingError, NotOursError, RootUnavailableError, UnreadableError
from watcher.stages.error_policy import REEXAMINE_SECONDS, ErrorPolicy
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker

LEASE = timedelta(seconds=60)
LONGEST = 300.0


def storage_error(kind: ErrorKind, code: str) -> StorageError:
    return StorageError(kind, "upload", "videos/k", code, "Do something.")


def database_error(kind: DatabaseErrorKind) -> DatabaseError:
    return DatabaseError(kind, "write", "it does not answer", "Look after it.")


@dataclass
class ErrorPolicyFixture:
    """An error policy on a real ledger, with the longest possible backoff, that records its calls."""

    harness: Harness
    now: float = 0.0
    reexamined: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        app = self.harness.app
        self.ledger = app.ledger
        self.breaker = CircuitBreaker("upload", clock=lambda: self.now, backoff=Backoff(base=2.0))
        self.error_policy: ErrorPolicy = replace(
            app.runners[State.PENDING].error_policy,
            breaker=self.breaker,
            backoff=Backoff(base=1.0, cap=LONGEST, uniform=lambda _, longest: longest),
            reexamine=self.reexamined.append,
        )
        # In an empty root no file counts as missing.
        self.harness.write("something.txt", b"x")

    def claim(self, path: str = "v/a_720p.mp4", state: State = State.PENDING) -> Upload:
        row = self.ledger.current(path) or enqueue(self.ledger, path)
        if row.state is not state:
            advance_to(self.ledger, row, state)
        (claimed,) = self.ledger.claim(state, 1, lease=LEASE, horizon=timedelta(hours=1))
        return claimed

    def attempt(self, upload: Upload, outcome: Exception | None = None) -> Upload:
        """Make an attempt that raises `outcome` or succeeds; returns the row afterwards."""
        with self.error_policy.handling(upload):
            if outcome is not None:
                raise outcome
        return self.row(upload)

    def row(self, upload: Upload) -> Upload:
        (row,) = self.ledger.uploads(ids=[upload.id])
        return row

    def seconds_to_next_attempt(self, row: Upload) -> float:
        return (row.due_at - self.ledger.now()).total_seconds()


@pytest.fixture
def fixture(harness: Harness) -> ErrorPolicyFixture:
    return ErrorPolicyFixture(harness)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (storage_error(ErrorKind.TRANSIENT, "SlowDown"), "SlowDown"),
        (database_error(DatabaseErrorKind.TRANSIENT), "database"),
        (StageError(FailureKind.TRANSIENT, "object-missing", "It does not exist."), "object-missing"),
        (OSError(errno.EIO, "Input/output error"), "local-io"),
        (UnreadableError("a", "Stale file handle.", errno.ESTALE), "local-io"),
    ],
    ids=["storage", "database", "stage", "file", "handle"],
)
def test_after_a_transient_error_the_row_waits_ever_longer_and_the_stage_continues(
    fixture: ErrorPolicyFixture, trouble: Exception, code: str
) -> None:
    row = fixture.claim()
    for attempts, longest in enumerate([1, 2, 4, 8], start=1):
        with capture_logs() as logs:
            failed = fixture.attempt(row, trouble)
        assert (failed.state, failed.attempts, failed.error_code) == (State.PENDING, attempts, code)
        assert failed.claimed_by is None
        assert failed.last_error
        assert longest - 0.9 < fixture.seconds_to_next_attempt(failed) <= longest
        assert [(log["event"], log["log_level"]) for log in logs] == [("attempt_failed", "warning")]
        # With a horizon of zero every waiting row is due now.
        (row,) = fixture.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=timedelta(0))
    assert fixture.breaker.failure is None
    assert (
        fixture.harness.app.context.metrics.registry.get_sample_value(
            "video_uploader_setbacks_total", {"stage": "upload", "kind": "transient"}
        )
        == 4
    )


def test_there_is_no_limit_on_attempts_and_the_wait_is_capped(fixture: ErrorPolicyFixture) -> None:
    row = fixture.attempt(replace(fixture.claim(), attempts=10_000), storage_error(ErrorKind.TRANSIENT, "x"))
    assert (row.state, row.attempts) == (State.PENDING, 10_001)
    assert LONGEST - 1 < fixture.seconds_to_next_attempt(row) <= LONGEST


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (storage_error(ErrorKind.ENVIRONMENT, "AccessDenied"), "AccessDenied"),
        (database_error(DatabaseErrorKind.ENVIRONMENT), "database"),
        (StageError(FailureKind.ENVIRONMENT, "object-unknown", "403."), "object-unknown"),
        (RootUnavailableError("/completed", "It does not exist."), "root-unavailable"),
        (OSError(errno.ENOSPC, "No space left on device"), "local-system"),
        (UnreadableError("a", "Too many open files.", errno.EMFILE), "local-system"),
    ],
    ids=["storage", "database", "stage", "root", "disk", "descriptors"],
)
def test_an_environment_error_pauses_the_stage_once_and_fails_no_row(
    fixture: ErrorPolicyFixture, trouble: Exception, code: str
) -> None:
    for number in range(3):
        enqueue(fixture.ledger, f"v/{number}_720p.mp4")
    claimed = fixture.ledger.claim(State.PENDING, 3, lease=LEASE, horizon=LEASE)
    with capture_logs() as logs:
        rows = [fixture.attempt(row, trouble) for row in claimed]
    assert len(rows) == 3
    for row in rows:
        assert (row.state, row.attempts, row.error_code, row.claimed_by) == (State.PENDING, 0, code, None)
        assert row.last_error
    assert fixture.breaker.failure is not None
    assert (fixture.breaker.failure.kind, fixture.breaker.failure.code) == (FailureKind.ENVIRONMENT, code)
    assert [(log["event"], log["log_level"]) for log in logs] == [("stage_paused", "error")]


def test_a_success_ends_the_pause_and_is_logged_once(fixture: ErrorPolicyFixture) -> None:
    row = fixture.attempt(fixture.claim(), storage_error(ErrorKind.ENVIRONMENT, "AccessDenied"))
    assert fixture.seconds_to_next_attempt(row) <= 0
    with capture_logs() as logs:
        for _ in range(2):
            row = fixture.claim()
            fixture.attempt(row)
            fixture.ledger.return_claim(row)
    assert fixture.breaker.failure is None
    assert [log["event"] for log in logs] == ["stage_resumed"]


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (storage_error(ErrorKind.OBJECT, "EntityTooLarge"), "EntityTooLarge"),
        (KeyTooLongError("videos/k", 2000, 1024), "key-too-long"),
        (StageError(FailureKind.OBJECT, "key-taken", "Rename one."), "key-taken"),
        (NotOursError("a", "It is a symbolic link."), "not-ours"),
        (UnreadableError("a", "Permission denied.", errno.EACCES), "unreadable"),
    ],
    ids=["too-large", "key", "stage", "link", "unreadable"],
)
def test_an_object_error_fails_this_row_alone_with_what_to_do(
    fixture: ErrorPolicyFixture, trouble: Exception, code: str
) -> None:
    with capture_logs() as logs:
        row = fixture.attempt(fixture.claim(), trouble)
    assert (row.state, row.error_code, row.claimed_by) == (State.FAILED, code, None)
    assert row.last_error == (trouble.failure.sentence if isinstance(trouble, StageError) else str(trouble))
    assert fixture.breaker.failure is None
    assert [(log["event"], log["log_level"]) for log in logs] == [("upload_failed", "error")]


@pytest.mark.parametrize("state", [State.VERIFIED, State.PUBLISHED])
def test_a_row_whose_object_is_safe_never_fails_for_good(fixture: ErrorPolicyFixture, state: State) -> None:
    row = fixture.attempt(fixture.claim(state=state), NotOursError("a", "It is a symbolic link."))
    assert (row.state, row.attempts, row.error_code) == (state, 1, "not-ours")
    assert LONGEST - 1 < fixture.seconds_to_next_attempt(row) <= LONGEST


def test_a_deferred_row_counts_no_attempt_and_no_error(fixture: ErrorPolicyFixture) -> None:
    row = fixture.attempt(fixture.claim(), DeferError("catalog-gate", "The row is not ready yet.", 3.0))
    assert (row.state, row.attempts, row.last_error, row.error_code) == (
        State.PENDING,
        0,
        None,
        "catalog-gate",
    )
    assert 2 < fixture.seconds_to_next_attempt(row) <= 3


@pytest.mark.parametrize(
    "trouble", [SourceChangedError("size was 1 and is 2"), ReexamineError("Another file stands there.")]
)
def test_a_file_that_changed_is_given_back_to_the_settler_and_counts_no_attempt(
    fixture: ErrorPolicyFixture, trouble: Exception
) -> None:
    row = fixture.attempt(fixture.claim(), trouble)
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 0, "local-changed")
    assert 0 < fixture.seconds_to_next_attempt(row) <= REEXAMINE_SECONDS
    assert fixture.reexamined == [row.path]
    assert fixture.breaker.failure is None


def test_an_interrupted_attempt_leaves_the_row_as_it_was(fixture: ErrorPolicyFixture) -> None:
    row = fixture.attempt(fixture.claim(), UploadCancelledError())
    assert (row.state, row.attempts, row.last_error, row.claimed_by) == (State.PENDING, 0, None, None)
    assert fixture.seconds_to_next_attempt(row) <= 0


def test_a_missing_file_is_gone(fixture: ErrorPolicyFixture) -> None:
    row = fixture.attempt(fixture.claim(), FileMissingError("a", "There is no such file."))
    assert (row.state, row.error_code) == (State.GONE, "local-missing")
    assert row.last_error == "The local file disappeared before it was confirmed in S3."


@pytest.mark.parametrize("accident", ["emptied", "moved"])
def test_a_missing_file_is_not_gone_while_its_whole_directory_may_be_missing(
    fixture: ErrorPolicyFixture, accident: str
) -> None:
    root = fixture.harness.app.tree.root
    if accident == "emptied":
        os.unlink(fixture.harness.absolute("something.txt"))
    else:
        os.rename(root, f"{root}.moved")
    row = fixture.attempt(fixture.claim(), FileMissingError("a", "There is no such file."))
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 0, "root-unavailable")
    assert fixture.breaker.failure is not None


@pytest.mark.parametrize("state", [State.VERIFIED, State.PUBLISHED])
def test_a_file_that_is_missing_after_its_confirmation_is_examined_again(
    fixture: ErrorPolicyFixture, state: State
) -> None:
    row = fixture.attempt(fixture.claim(state=state), FileMissingError("a", "There is no such file."))
    assert (row.state, row.error_code) == (state, "local-missing")
    assert fixture.reexamined == [row.path]


def superseded(fixture: ErrorPolicyFixture, row: Upload) -> Upload:
    enqueue(fixture.ledger, row.path, identity=replace(IDENTITY, size=7))
    return fixture.row(row)


@pytest.mark.parametrize(
    "trouble",
    [
        ClaimLostError(1, 1),
        storage_error(ErrorKind.TRANSIENT, "SlowDown"),
        storage_error(ErrorKind.ENVIRONMENT, "AccessDenied"),
        storage_error(ErrorKind.OBJECT, "EntityTooLarge"),
        DeferError("catalog-gate", "The row is not ready yet.", 3.0),
        ReexamineError("Another file stands there."),
        FileMissingError("a", "There is no such file."),
        UploadCancelledError(),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_worker_that_lost_the_claim_changes_nothing(
    fixture: ErrorPolicyFixture, trouble: Exception
) -> None:
    row = fixture.claim()
    before = superseded(fixture, row)
    assert fixture.attempt(row, trouble) == before
    assert before.state is State.SUPERSEDED


def test_a_lost_claim_does_not_end_a_pause(fixture: ErrorPolicyFixture) -> None:
    fixture.attempt(fixture.claim(), storage_error(ErrorKind.ENVIRONMENT, "AccessDenied"))
    with capture_logs() as logs:
        fixture.attempt(fixture.claim(), ClaimLostError(1, 1))
    assert fixture.breaker.failure is not None
    assert [log["event"] for log in logs] == ["claim_lost"]


def test_a_row_that_was_decided_about_before_s3_was_asked_does_not_end_a_pause(
    fixture: ErrorPolicyFixture,
) -> None:
    """Its catalog row is not ready any more, for example."""
    fixture.attempt(fixture.claim(), storage_error(ErrorKind.ENVIRONMENT, "AccessDenied"))
    fixture.attempt(fixture.claim(), DecidedError())
    assert fixture.breaker.failure is not None


def test_the_rest_of_a_batch_is_returned_untried_while_the_stage_is_paused(
    fixture: ErrorPolicyFixture,
) -> None:
    first, second = fixture.claim(), fixture.claim("v/b_720p.mp4")
    assert not fixture.error_policy.return_if_paused(second)
    fixture.breaker.trip(Failure(FailureKind.ENVIRONMENT, "AccessDenied", "Allow it."))
    assert fixture.error_policy.return_if_paused(second)
    assert [fixture.row(row).claimed_by for row in (first, second)] == ["test", None]


def test_an_error_of_the_environment_that_concerns_one_row_gives_it_a_backoff_of_its_own(
    fixture: ErrorPolicyFixture,
) -> None:
    denied = storage_error(ErrorKind.ENVIRONMENT, "AccessDenied")
    enqueue(fixture.ledger, "v/b_720p.mp4")
    row = fixture.attempt(fixture.claim(), denied)
    assert (row.attempts, fixture.breaker.failure) == (0, None)
    fixture.attempt(fixture.claim("v/b_720p.mp4"))
    (row,) = fixture.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=timedelta(hours=1))
    for attempts, longest in enumerate([1, 2, 4], start=1):
        row = fixture.attempt(row, denied)
        assert (row.state, row.attempts, row.error_code) == (State.PENDING, attempts, "AccessDenied")
        assert longest - 0.9 < fixture.seconds_to_next_attempt(row) <= longest
        claimed = fixture.ledger.claim_one(row.id, lease=LEASE)
        assert claimed is not None
        row = claimed
    assert fixture.breaker.failure is None


def test_a_decision_that_cannot_be_written_is_left_to_the_claim_and_pauses_the_stage(
    fixture: ErrorPolicyFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise database_error(DatabaseErrorKind.TRANSIENT)

    row = fixture.claim()
    with monkeypatch.context() as broken:
        broken.setattr(fixture.ledger, "postpone", locked)
        assert fixture.attempt(row, storage_error(ErrorKind.TRANSIENT, "SlowDown")) == row
    assert fixture.breaker.failure is not None
    assert fixture.breaker.failure.code == "database"


@pytest.mark.parametrize(
    "bug",
    [ValueError("a bug"), KeyError("a bug"), IllegalTransitionError(1, State.PENDING, State.RELEASED)],
    ids=lambda bug: type(bug).__name__,
)
def test_an_unexpected_error_passes_through(fixture: ErrorPolicyFixture, bug: Exception) -> None:
    row = fixture.claim()
    with pytest.raises(type(bug)):
        fixture.attempt(row, bug)
    assert fixture.row(row) == row


def test_every_log_line_of_an_attempt_is_bound_to_its_row(fixture: ErrorPolicyFixture) -> None:
    row = fixture.claim()
    with fixture.error_policy.handling(row):
        bound = structlog.contextvars.get_contextvars()
    assert bound == {
        "stage": "upload",
        "upload": row.id,
        "video_id": VIDEO_ID,
        "quality": "720p",
        "path": row.path,
    }
    assert structlog.contextvars.get_contextvars() == {}
