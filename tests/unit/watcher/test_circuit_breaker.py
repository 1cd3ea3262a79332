"""A breaker finds out by other rows whom a failure concerns, allows probes, and one success clears it."""

import pytest
from structlog.testing import capture_logs

from watcher.errors import Failure, FailureKind
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import (
    ENVIRONMENT_ROWS,
    MAX_KNOWN,
    OUTAGE_FAILURES,
    PROVEN_SECONDS,
    SUSPICION_SECONDS,
    CircuitBreaker,
)

NO_KEYS = Failure(FailureKind.ENVIRONMENT, "credentials-missing", "There are no credentials.")
NO_BUCKET = Failure(FailureKind.ENVIRONMENT, "NoSuchBucket", "There is no such bucket.")
DENIED = Failure(FailureKind.ENVIRONMENT, "AccessDenied", "Allow it.")
AWAY = Failure(FailureKind.TRANSIENT, "connection", "It is refused.", is_outage=True)


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


def failure(breaker: CircuitBreaker) -> Failure | None:
    return breaker.failure


def is_doubted(breaker: CircuitBreaker) -> bool:
    return breaker.is_doubted


def is_unproven(breaker: CircuitBreaker) -> bool:
    return breaker.is_unproven


def may_try_another(breaker: CircuitBreaker) -> bool:
    return breaker.may_try_another


def fail(breaker: CircuitBreaker, row: int, reason: Failure = DENIED, *, alone: bool = False) -> bool:
    """Whether the row waits for the stage; unless it is alone, there is another row to try."""
    return breaker.fail(row, reason, has_others=lambda: not alone)


def test_a_row_that_fails_while_others_succeed_is_by_itself_and_the_stage_is_never_paused(
    breaker: CircuitBreaker,
) -> None:
    with capture_logs() as logs:
        assert fail(breaker, 1)
        assert is_doubted(breaker)
        assert may_try_another(breaker)
        assert breaker.tried == [1]
        breaker.succeed(2)
        assert not is_doubted(breaker)
        for _ in range(3):
            assert not fail(breaker, 1)
            assert not is_doubted(breaker)
    assert [(log["event"], log["code"]) for log in logs] == [("attempt_failed", DENIED.code)]


def test_the_failure_of_a_second_row_pauses_the_stage_with_its_backoff(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    assert fail(breaker, 1)
    assert failure(breaker) is None
    assert fail(breaker, 2)
    assert failure(breaker) is DENIED
    assert not may_try_another(breaker)
    clock.now += 2
    assert may_try_another(breaker)
    assert breaker.tried == [1, 2]


def test_rows_at_work_at_once_pause_the_stage_only_with_one_that_is_tried_after_them(
    breaker: CircuitBreaker,
) -> None:
    for row in (1, 2, 3):
        breaker.began(row)
    for row in (1, 2, 3):
        assert fail(breaker, row)
        breaker.ended(row)
        assert failure(breaker) is None
        assert is_doubted(breaker)
        assert may_try_another(breaker)
    breaker.began(4)
    assert fail(breaker, 4)
    assert failure(breaker) is DENIED
    assert not may_try_another(breaker)


def test_rows_at_work_at_once_fail_by_themselves_if_the_next_one_succeeds(breaker: CircuitBreaker) -> None:
    for row in (1, 2):
        breaker.began(row)
    with capture_logs() as logs:
        for row in (1, 2):
            fail(breaker, row)
            breaker.ended(row)
        breaker.succeed(3)
        assert not fail(breaker, 1)
        assert not fail(breaker, 2)
    assert [log["event"] for log in logs] == ["attempt_failed", "attempt_failed"]
    assert not is_doubted(breaker)


def test_rows_at_work_at_once_without_another_to_try_pause_the_stage(breaker: CircuitBreaker) -> None:
    for row in (1, 2):
        breaker.began(row)
    fail(breaker, 1)
    fail(breaker, 2, alone=True)
    assert failure(breaker) is DENIED
    assert may_try_another(breaker)


def test_rows_at_work_at_once_that_a_server_fails_pause_the_stage(breaker: CircuitBreaker) -> None:
    for row in (1, 2, 3):
        breaker.began(row)
    assert [fail(breaker, row, AWAY) for row in (1, 2, 3)] == [False, False, True]
    assert failure(breaker) is AWAY
    assert not may_try_another(breaker)


def test_a_row_without_others_pauses_the_stage_until_another_one_gets_through_at_once(
    breaker: CircuitBreaker,
) -> None:
    assert fail(breaker, 1, alone=True)
    assert failure(breaker) is DENIED
    assert breaker.seconds_to_probe() == 2
    assert may_try_another(breaker)
    breaker.succeed(2)
    assert failure(breaker) is None
    assert not fail(breaker, 1, alone=True)
    assert failure(breaker) is None


def test_rows_that_fail_by_themselves_do_not_pause_the_stage_together(breaker: CircuitBreaker) -> None:
    fail(breaker, 1)
    fail(breaker, 2)
    breaker.succeed(3)
    for _ in range(3):
        assert not fail(breaker, 1)
        assert not fail(breaker, 2)
    assert not is_doubted(breaker)


def test_where_many_rows_fail_by_themselves_it_takes_more_of_them_to_pause_the_stage(
    breaker: CircuitBreaker,
) -> None:
    """Otherwise a thousand such rows would pause it hundreds of times; the number is limited, though."""
    for row in range(100, 120):
        fail(breaker, row)
        breaker.succeed(1)
    for row in range(200, 200 + MAX_KNOWN + ENVIRONMENT_ROWS - 1):
        assert fail(breaker, row)
        assert failure(breaker) is None
        assert may_try_another(breaker)
    fail(breaker, 300)
    assert failure(breaker) is DENIED
    assert not may_try_another(breaker)


def test_a_row_that_succeeds_is_evidence_again(breaker: CircuitBreaker) -> None:
    fail(breaker, 1)
    breaker.succeed(2)
    assert not fail(breaker, 1)
    breaker.succeed(1)
    assert fail(breaker, 1)
    assert is_doubted(breaker)


def test_a_suspicion_that_no_other_row_settles_is_a_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 1)
    clock.now += SUSPICION_SECONDS
    breaker.settle_suspicion(has_others=True)
    assert failure(breaker) is None
    clock.now += 1
    breaker.settle_suspicion(has_others=True)
    assert failure(breaker) is DENIED
    breaker.succeed(2)
    fail(breaker, 3)
    breaker.settle_suspicion(has_others=False)
    assert failure(breaker) is DENIED


def test_few_failures_of_the_server_are_the_rows_own_and_more_pause_the_stage(
    breaker: CircuitBreaker,
) -> None:
    assert not fail(breaker, 1, AWAY)
    assert not fail(breaker, 2, AWAY)
    assert not is_doubted(breaker)
    assert fail(breaker, 3, AWAY)
    assert failure(breaker) is AWAY
    assert not may_try_another(breaker)
    breaker.succeed(4)
    assert breaker.take_hastened() == {1, 2}
    assert not breaker.take_hastened()


def test_a_single_row_that_the_server_keeps_failing_pauses_the_stage(breaker: CircuitBreaker) -> None:
    assert [fail(breaker, 1, AWAY) for _ in range(OUTAGE_FAILURES)] == [*[False] * 4, True]
    assert failure(breaker) is AWAY


def test_failures_of_the_server_between_successes_pause_nothing(breaker: CircuitBreaker) -> None:
    for row in range(1, 20):
        assert not fail(breaker, row, AWAY)
        breaker.succeed(row + 100)
    assert breaker.take_hastened() == frozenset()


def test_rows_that_failed_while_a_server_was_unsteady_pause_the_stage_when_it_is_away(
    breaker: CircuitBreaker,
) -> None:
    """Otherwise each of them would find out by itself, with a backoff of minutes."""
    for _ in range(3):
        for row in (1, 2, 3):
            assert not fail(breaker, row, AWAY)
            breaker.succeed(100)
    assert [fail(breaker, row, AWAY) for row in (1, 2, 3)] == [False, False, True]
    assert failure(breaker) is AWAY


def test_an_answer_ends_an_outage_on_probation(breaker: CircuitBreaker, clock: Clock) -> None:
    for row in (1, 2, 3):
        fail(breaker, row, AWAY)
    with breaker.asking():
        """It answers, and the body was refused: the probe has to get through."""
    assert failure(breaker) is AWAY
    clock.now += 2
    with pytest.raises(ConnectionError), breaker.asking():
        raise ConnectionError
    fail(breaker, 4, AWAY)
    assert breaker.seconds_to_probe() == 4
    clock.now += 4
    assert breaker.seconds_paused == 6
    with breaker.asking():
        """It answers again."""
    assert breaker.seconds_paused == 0
    assert failure(breaker) is None
    assert breaker.take_hastened() == {1, 2}
    assert fail(breaker, 5, AWAY), "one more failure is enough"
    assert breaker.seconds_to_probe() == 8
    assert breaker.seconds_paused == 6
    breaker.succeed(5)
    assert not fail(breaker, 6, AWAY)


def test_accepted_bytes_end_a_pause_unless_rows_fail_after_them(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 1, alone=True)
    breaker.moved(2)
    assert failure(breaker) is None
    breaker.ended(2)
    breaker.moved(3)
    assert fail(breaker, 3, alone=True)
    breaker.moved(4)
    assert failure(breaker) is DENIED
    breaker.succeed(4)
    assert failure(breaker) is None


def test_a_server_is_unproven_until_a_success_and_after_a_minute_without(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    assert is_unproven(breaker)
    breaker.succeed(1)
    assert not is_unproven(breaker)
    fail(breaker, 1, AWAY)
    assert is_unproven(breaker)
    breaker.succeed(2)
    clock.now += PROVEN_SECONDS + 1
    assert is_unproven(breaker)
