"""The state of S3: when it holds the stages, what it tells, and when it lets them go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from storage import ErrorKind, StorageError
from watcher.errors import Failure, FailureKind, failure_of
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.store_health import DOUBT_SECONDS, SUMMARY_SECONDS, StoreHealth
from watcher.telemetry import Metrics

REFUSED = StorageError(
    ErrorKind.TRANSIENT, "list", None, "connection", "It is tried again.", unreachable="refused, s3:9000"
)
CUT = StorageError(ErrorKind.TRANSIENT, "upload", "k", "connection", "It is tried again.")
BAD_KEY = StorageError(ErrorKind.ENVIRONMENT, "list", None, "InvalidAccessKeyId", "Correct the key.")
DENIED = StorageError(ErrorKind.ENVIRONMENT, "list", None, "AccessDenied", "Allow it.", status=403)


START = threading.Thread.start
"""Of real threads, in the tests that need one."""


class Fixture:
    """A state of S3 with one stage, whose thread is called by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        self.answer: StorageError | None = REFUSED
        self.looks = self.woken = self.hastened = 0
        self.metrics = Metrics()
        self.breaker = CircuitBreaker("upload", clock=lambda: self.seconds, backoff=Backoff())
        self.health = StoreHealth(
            self.look,
            hasten=self.hasten,
            waiting=lambda: 200,
            metrics=self.metrics,
            supervisor=Supervisor(self.metrics),
            clock=lambda: self.seconds,
            now=lambda: datetime(2026, 1, 2, 14, 2, tzinfo=UTC) + timedelta(seconds=self.seconds - 1000),
        )
        self.health.connect([(self.breaker, self.wake)])
        # The tests call its step themselves.
        monkeypatch.setattr("threading.Thread.start", lambda _: None)
        self.health.start()

    def look(self) -> None:
        self.looks += 1
        if self.answer is not None:
            raise self.answer

    def hasten(self) -> int:
        self.hastened += 1
        return 7

    def wake(self) -> None:
        self.woken += 1

    def report(self, error: StorageError, *, is_certain: bool = False) -> bool:
        return self.health.report(failure_of(error), is_certain=is_certain)

    def run(self, seconds: float) -> None:
        """Let time pass, as the thread's loop does."""
        until = self.seconds + seconds
        while self.seconds < until:
            wait = self.health._step()
            self.seconds = until if wait is None else min(until, self.seconds + max(wait, 0.01))


@pytest.fixture
def fixture(monkeypatch: pytest.MonkeyPatch) -> Fixture:
    return Fixture(monkeypatch)


def test_one_refused_connection_holds_the_stage_and_one_answer_lets_everything_go_on(
    fixture: Fixture,
) -> None:
    with capture_logs() as logs:
        assert fixture.report(REFUSED)
        assert fixture.breaker.failure is not None
        assert "S3 does not answer since 14:02 UTC (refused, s3:9000)" in fixture.breaker.failure.sentence
        assert fixture.breaker.seconds_to_probe() == float("inf")
        fixture.run(600)
        assert fixture.metrics.registry.get_sample_value("video_uploader_store_reachable") == 0
        fixture.answer = None
        fixture.run(30)
    assert fixture.breaker.seconds_to_probe() is None
    assert (fixture.woken, fixture.hastened) == (1, 1)
    assert fixture.metrics.registry.get_sample_value("video_uploader_store_reachable") == 1
    names = [line["event"] for line in logs]
    assert names.count("store_away") == names.count("store_back") == names.count("stage_paused") == 1
    summaries = [line for line in logs if line["event"] == "store_still_away"]
    assert len(summaries) == 600 / SUMMARY_SECONDS
    assert summaries[0]["uploads"] == 200
    assert fixture.looks < 600 / 20, "the probes are ever less frequent"


@pytest.mark.parametrize("error", [CUT, DENIED], ids=["a cut connection", "a denied request"])
def test_what_may_concern_one_row_only_holds_nothing(fixture: Fixture, error: StorageError) -> None:
    assert not fixture.report(error)
    assert fixture.health.failure is None
    assert fixture.breaker.failure is None


def test_a_refused_key_holds_the_stage_until_another_answer_comes(fixture: Fixture) -> None:
    fixture.answer = BAD_KEY
    assert fixture.report(BAD_KEY)
    fixture.run(120)
    assert fixture.health.failure is not None
    assert "refuses every request since 14:02 UTC" in fixture.health.failure.sentence
    fixture.answer = DENIED
    fixture.health.look_soon()
    fixture.run(1)
    assert fixture.health.failure is None, "these credentials are known; what they may do is of each request"


def test_shortly_after_an_answer_one_refused_connection_is_the_rows_own(fixture: Fixture) -> None:
    fixture.report(REFUSED)
    fixture.answer = None
    fixture.run(5)
    assert not fixture.report(REFUSED)
    assert fixture.report(REFUSED, is_certain=True)
    fixture.run(5)
    fixture.run(DOUBT_SECONDS)
    assert fixture.report(REFUSED)


def test_a_row_under_way_that_succeeds_has_s3_asked_at_once_and_resumes_nothing_by_itself(
    fixture: Fixture,
) -> None:
    fixture.report(REFUSED)
    fixture.run(300)
    looks = fixture.looks
    fixture.breaker.succeed(1)
    assert fixture.breaker.failure is not None
    fixture.answer = None
    fixture.run(0.1)
    assert fixture.looks == looks + 1
    assert fixture.breaker.failure is None


def test_no_other_failure_covers_the_one_that_holds_the_stage(fixture: Fixture) -> None:
    fixture.report(REFUSED)
    fixture.breaker.trip(Failure(FailureKind.TRANSIENT, "database", "The database is away."))
    assert fixture.breaker.failure is not None
    assert fixture.breaker.failure.unreachable
    fixture.breaker.clear()
    fixture.breaker.probe_soon("connection")
    assert fixture.breaker.seconds_to_probe() == float("inf")


def test_a_failure_that_is_reported_as_s3_answers_does_not_hold_the_stage_for_ever(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fixture.report(REFUSED)
    fixture.answer = None
    fixture.seconds += 60
    prober = threading.Thread(target=fixture.health._step)
    hold = fixture.breaker.hold

    def hold_late(failure: Failure, *, sign: Callable[[], None]) -> None:
        START(prober)
        prober.join(0.2)
        hold(failure, sign=sign)

    monkeypatch.setattr(fixture.breaker, "hold", hold_late)
    fixture.report(REFUSED)
    prober.join()
    assert fixture.health.failure is None
    assert fixture.breaker.failure is None
