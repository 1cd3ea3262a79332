"""An exception about one item sets that one aside; one that concerns all items passes through."""

from __future__ import annotations

import errno

import pytest
from structlog.testing import capture_logs

from db import DatabaseError, ErrorKind
from watcher.filesystem import RootUnavailableError, UnreadableError
from watcher.supervision import Isolation, Supervisor
from watcher.supervision.background_thread import SetAside
from watcher.supervision.isolation import BACKOFF, FORGOTTEN_SECONDS, MAX_ITEMS
from watcher.telemetry import Metrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(isolation: Isolation, key: object, exc: Exception) -> None:
    with isolation.item(key, path=key):
        raise exc


@pytest.mark.parametrize(
    "exc",
    [
        OverflowError("too large"),
        DatabaseError(ErrorKind.OBJECT, "write", "too large", "Other rows are not affected."),
        OSError(errno.EIO, "Input/output error"),
        UnreadableError("a", "It is refused.", errno.EACCES),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_item_is_set_aside_ever_longer_and_forgotten_when_it_succeeds(exc: Exception) -> None:
    clock = Clock()
    supervisor = Supervisor(Metrics())
    isolation = Isolation("files", supervisor=supervisor, clock=clock)
    with capture_logs() as logs:
        fail(isolation, "a", exc)
        assert (isolation.seconds_left("a"), isolation.seconds_left("b")) == (BACKOFF.base, 0)
        clock.now += BACKOFF.base
        assert isolation.seconds_left("a") == 0
        fail(isolation, "a", exc)
    assert isolation.seconds_left("a") > BACKOFF.base
    assert [(log["event"], log["thread"], log["attempts"]) for log in logs] == [
        ("internal_error", "files", 1),
        ("internal_error", "files", 2),
    ]
    (error,) = supervisor.internal_errors()
    assert (error.thread, error.count) == ("files", 2)
    assert supervisor.set_aside() == [SetAside("files", 1, f"{type(exc).__name__}: {exc}")]
    clock.now += FORGOTTEN_SECONDS
    assert supervisor.set_aside() == [SetAside("files", 1, f"{type(exc).__name__}: {exc}")]
    clock.now += BACKOFF.cap
    assert supervisor.set_aside() == [], "it was never tried again, so it does not exist"
    fail(isolation, "a", exc)
    assert len(supervisor.set_aside()) == 1
    with isolation.item("a"):
        pass
    assert supervisor.set_aside() == []
    assert (len(isolation), isolation.seconds_left("a")) == (0, 0)


@pytest.mark.parametrize(
    "exc",
    [
        DatabaseError(ErrorKind.TRANSIENT, "write", "it is locked", "Wait."),
        DatabaseError(ErrorKind.ENVIRONMENT, "write", "the disk is full", "Free some space."),
        RootUnavailableError("/completed", "It does not exist."),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_what_concerns_every_item_passes_through(exc: Exception) -> None:
    isolation = Isolation("files")
    with pytest.raises(type(exc)):
        fail(isolation, "a", exc)
    assert len(isolation) == 0


def test_no_number_of_failing_items_ends_the_process_or_fills_the_memory() -> None:
    supervisor = Supervisor(Metrics())
    isolation = Isolation("files", supervisor=supervisor)
    with capture_logs():
        for number in range(MAX_ITEMS + 10):
            fail(isolation, number, ValueError("odd"))
    assert len(isolation) == MAX_ITEMS
    assert supervisor.reason_to_stop is None
