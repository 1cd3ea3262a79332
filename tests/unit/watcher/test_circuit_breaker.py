"""A tripped breaker allows probes at growing intervals, and one success clears it."""

import threading

import pytest
from structlog.testing import capture_logs

from watcher.errors import Failure, FailureKind
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker

NO_KEYS = Failure(FailureKind.ENVIRONMENT, "credentials-missing", "There are no credentials.")
NO_BUCKET = Failure(FailureKind.ENVIRONMENT, "NoSuchBucket", "There is no such bucket.")


class Clock:
    """Monotonic seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("upload", clock=clock, backoff=Backoff(base=2, factor=2, cap=10))


def test_probe_soon_applies_to_its_own_code_only(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip(NO_KEYS)
    clock.now += 2
    breaker.trip(NO_KEYS)
    breaker.probe_soon(NO_BUCKET.code)
    assert breaker.seconds_to_probe() == 4
    breaker.probe_soon(NO_KEYS.code)
    assert breaker.seconds_to_probe() == 0
    breaker.trip(NO_KEYS)
    assert breaker.seconds_to_probe() == 2
    breaker.clear()
    breaker.probe_soon(NO_KEYS.code)
    assert breaker.seconds_to_probe() is None


def test_a_stage_runs_at_first(breaker: CircuitBreaker) -> None:
    assert breaker.failure is None
    assert breaker.seconds_to_probe() is None
    with capture_logs() as logs:
        breaker.clear()
    assert logs == []


def test_a_paused_stage_has_a_failure_and_a_time_to_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip(NO_KEYS)
    assert breaker.failure is NO_KEYS
    assert breaker.seconds_to_probe() == 2
    clock.now += 1.5
    assert breaker.seconds_to_probe() == 0.5
    clock.now += 100
    assert breaker.seconds_to_probe() == 0


def test_failed_probes_lengthen_the_pause_up_to_the_cap(breaker: CircuitBreaker, clock: Clock) -> None:
    waits = []
    for _ in range(5):
        breaker.trip(NO_KEYS)
        waits.append(breaker.seconds_to_probe())
        clock.now += waits[-1] or 0
    assert waits == [2, 4, 8, 10, 10]


def test_simultaneous_failures_count_as_one(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(20):
        breaker.trip(NO_KEYS)
        clock.now += 0.01
    assert breaker.seconds_to_probe() == pytest.approx(1.8)


def test_each_new_failure_and_the_resumption_are_logged_once(breaker: CircuitBreaker) -> None:
    with capture_logs() as logs:
        for failure in (NO_KEYS, NO_KEYS, NO_BUCKET):
            breaker.trip(failure)
        assert breaker.failure is NO_BUCKET
        breaker.clear("another-code")
        assert breaker.failure is NO_BUCKET
        breaker.clear()
        breaker.clear()
    assert [(entry["event"], entry["log_level"], entry["stage"], entry.get("code")) for entry in logs] == [
        ("stage_paused", "error", "upload", NO_KEYS.code),
        ("stage_paused", "error", "upload", NO_BUCKET.code),
        ("stage_resumed", "info", "upload", None),
    ]


def test_clear_resets_the_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip(NO_KEYS)
    clock.now += 2
    breaker.trip(NO_KEYS)
    breaker.clear()
    assert breaker.failure is None
    assert breaker.seconds_to_probe() is None
    breaker.trip(NO_KEYS)
    assert breaker.seconds_to_probe() == 2


def test_the_listener_is_called_once_for_each_change(
    breaker: CircuitBreaker,
) -> None:
    failures: list[Failure | None] = []

    def note_failure() -> None:
        assert (breaker.seconds_to_probe() is None) == (breaker.failure is None)
        failures.append(breaker.failure)

    breaker.on_change(note_failure)
    breaker.trip(NO_KEYS)
    breaker.trip(NO_KEYS)
    breaker.trip(NO_BUCKET)
    breaker.clear()
    breaker.clear()
    assert failures == [NO_KEYS, NO_BUCKET, None]


def test_one_of_many_threads_trips_it(breaker: CircuitBreaker) -> None:
    start = threading.Barrier(8)

    def fail() -> None:
        start.wait(timeout=10)
        breaker.trip(NO_KEYS)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    with capture_logs() as logs:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
    assert [entry["event"] for entry in logs] == ["stage_paused"]
