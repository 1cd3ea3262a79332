"""Liveness: stalls, waits, and workers that have ended."""

import threading

import pytest

from watcher.supervision.liveness import Liveness


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def liveness(clock: Clock) -> Liveness:
    return Liveness(clock)


def test_without_workers_there_is_no_stall(liveness: Liveness) -> None:
    assert liveness.stalled() == []


def test_a_busy_worker_stalls_only_after_its_patience(liveness: Liveness, clock: Clock) -> None:
    pulse = liveness.pulse("uploader 1", patience=30)
    pulse.beat()
    clock.now += 30
    assert liveness.stalled() == []
    clock.now += 1
    assert liveness.stalled() == ["uploader 1: no progress for 31 s"]


def test_a_worker_that_never_begins_is_a_stall(liveness: Liveness, clock: Clock) -> None:
    liveness.pulse("scanner", patience=10)
    clock.now += 11
    assert liveness.stalled() == ["scanner: no progress for 11 s"]


def test_a_beat_ends_a_stall(liveness: Liveness, clock: Clock) -> None:
    pulse = liveness.pulse("scanner", patience=10)
    clock.now += 11
    pulse.beat()
    assert liveness.stalled() == []


def test_waiting_for_work_is_never_a_stall_and_working_again_can_be(liveness: Liveness, clock: Clock) -> None:
    pulse = liveness.pulse("publisher", patience=10)
    pulse.idle()
    clock.now += 1_000_000
    assert liveness.stalled() == []
    pulse.beat()
    clock.now += 11
    assert liveness.stalled() == ["publisher: no progress for 11 s"]


def test_a_stopped_worker_is_forgotten_and_may_be_stopped_twice(liveness: Liveness, clock: Clock) -> None:
    pulse = liveness.pulse("uploader", patience=10)
    other = liveness.pulse("uploader", patience=10)
    pulse.stop()
    pulse.stop()
    clock.now += 11
    assert liveness.stalled() == ["uploader: no progress for 11 s"]
    other.stop()
    assert liveness.stalled() == []


def test_a_failing_check_is_a_stall_that_counts_from_when_it_was_first_seen(
    liveness: Liveness, clock: Clock
) -> None:
    alive = threading.Event()
    alive.set()
    liveness.add_check("observer", alive.is_set)
    assert liveness.stalled() == []
    alive.clear()
    assert liveness.stalled() == ["observer: not alive for 0 s"]
    clock.now += 7
    assert liveness.stalled() == ["observer: not alive for 7 s"]
    alive.set()
    assert liveness.stalled() == []
    alive.clear()
    assert liveness.stalled() == ["observer: not alive for 0 s"]


def test_a_check_can_be_replaced(liveness: Liveness) -> None:
    liveness.add_check("observer", lambda: False)
    liveness.add_check("observer", lambda: True)
    assert liveness.stalled() == []


def test_all_stalls_are_listed_at_once(liveness: Liveness, clock: Clock) -> None:
    liveness.pulse("scanner", patience=1)
    liveness.pulse("uploader 1", patience=1)
    liveness.add_check("observer", lambda: False)
    clock.now += 2
    assert liveness.stalled() == [
        "scanner: no progress for 2 s",
        "uploader 1: no progress for 2 s",
        "observer: not alive for 0 s",
    ]


def test_a_check_may_itself_use_the_registry(liveness: Liveness) -> None:
    """Checks run outside the lock, so that one that starts or stops a worker cannot block."""

    def check() -> bool:
        liveness.pulse("helper", patience=1).stop()
        return True

    liveness.add_check("observer", check)
    assert liveness.stalled() == []
