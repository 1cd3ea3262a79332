"""A stage that pauses as a whole: it probes, ever more rarely, and goes on by itself."""

import threading

import pytest

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
def pause(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock=clock, backoff=Backoff(base=2, factor=2, cap=10))


def test_a_reason_that_went_away_is_tried_at_once_and_another_one_is_not(
    pause: CircuitBreaker, clock: Clock
) -> None:
    pause.trip(NO_KEYS)
    clock.now += 2
    pause.trip(NO_KEYS)
    pause.probe_soon(NO_BUCKET.code)
    assert pause.seconds_to_probe() == 4
    pause.probe_soon(NO_KEYS.code)
    assert pause.seconds_to_probe() == 0
    pause.trip(NO_KEYS)
    assert pause.seconds_to_probe() == 2
    pause.clear()
    pause.probe_soon(NO_KEYS.code)
    assert pause.seconds_to_probe() is None


def test_a_stage_runs_at_first(pause: CircuitBreaker) -> None:
    assert pause.failure is None
    assert pause.seconds_to_probe() is None
    assert pause.clear() is False


def test_a_paused_stage_says_why_and_when_it_probes(pause: CircuitBreaker, clock: Clock) -> None:
    assert pause.trip(NO_KEYS) is True
    assert pause.failure is NO_KEYS
    assert pause.seconds_to_probe() == 2
    clock.now += 1.5
    assert pause.seconds_to_probe() == 0.5
    clock.now += 100
    assert pause.seconds_to_probe() == 0


def test_failed_probes_come_ever_more_rarely_up_to_the_cap(pause: CircuitBreaker, clock: Clock) -> None:
    waits = []
    for _ in range(5):
        pause.trip(NO_KEYS)
        waits.append(pause.seconds_to_probe())
        clock.now += waits[-1] or 0
    assert waits == [2, 4, 8, 10, 10]


def test_a_crowd_that_fails_at_once_counts_as_one_failure(pause: CircuitBreaker, clock: Clock) -> None:
    for _ in range(20):
        pause.trip(NO_KEYS)
        clock.now += 0.01
    assert pause.seconds_to_probe() == pytest.approx(1.8)


def test_only_a_new_reason_is_news(pause: CircuitBreaker) -> None:
    assert [pause.trip(failure) for failure in (NO_KEYS, NO_KEYS, NO_BUCKET)] == [True, False, True]
    assert pause.failure is NO_BUCKET


def test_going_on_forgets_everything(pause: CircuitBreaker, clock: Clock) -> None:
    pause.trip(NO_KEYS)
    clock.now += 2
    pause.trip(NO_KEYS)
    assert pause.clear() is True
    assert pause.failure is None
    assert pause.seconds_to_probe() is None
    assert pause.trip(NO_KEYS) is True
    assert pause.seconds_to_probe() == 2


def test_whoever_listens_is_told_once_of_each_change_and_may_look(pause: CircuitBreaker) -> None:
    told: list[Failure | None] = []
    pause.on_change(lambda: told.append(pause.failure if pause.seconds_to_probe() is not None else None))
    pause.trip(NO_KEYS)
    pause.trip(NO_KEYS)
    pause.trip(NO_BUCKET)
    pause.clear()
    pause.clear()
    assert told == [NO_KEYS, NO_BUCKET, None]


def test_of_many_threads_one_has_the_news(pause: CircuitBreaker) -> None:
    start = threading.Barrier(8)
    news: list[bool] = []

    def fail() -> None:
        start.wait(timeout=10)
        news.append(pause.trip(NO_KEYS))

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(news) == [False] * 7 + [True]
