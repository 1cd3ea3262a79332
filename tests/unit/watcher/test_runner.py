"""The threads of a stage on a real ledger: what they claim, how they stop, and which errors they survive."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from db import SMALL_BYTES, DatabaseError, ErrorKind, Ledger, State, Upload
from storage import ErrorKind as StorageErrorKind
from storage import StorageError, UploadCancelledError
from tests.support.databases import IDENTITY, LEASE, STATE_FACTS, Clock, enqueue
from tests.support.harness import Harness
from watcher.errors import Failure, FailureKind
from watcher.stages.runner import (
    BRIEF_BYTES,
    GATHER_FROM,
    GATHER_SECONDS,
    LOCKED_SECONDS,
    StageRunner,
    Work,
)
from watcher.supervision.background_thread import BackgroundThread, Supervisor
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.run_queue import RunQueue

WAIT_SECONDS = 10
DENIED = StorageError(StorageErrorKind.ENVIRONMENT, "upload", "k", "AccessDenied", "Allow it.")


class ScriptedStage:
    """Calls `act` for each row, between `begun` and `ended`."""

    name = "scripted"
    state = State.PENDING
    patience_seconds = 60.0

    def __init__(self) -> None:
        self.enabled = True
        self.asked = threading.Semaphore(0)
        self.begun: queue.SimpleQueue[Sequence[Upload]] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[Upload] = queue.SimpleQueue()
        self.act: Callable[[Upload, Work], None] = lambda _upload, _work: None
        self.ledger: Ledger

    def is_enabled(self) -> bool:
        self.asked.release()
        return self.enabled

    @property
    def longest_delay(self) -> timedelta:
        return timedelta(hours=1)

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        self.begun.put(uploads)
        for upload in uploads:
            with work.error_policy.handling(upload):
                self.act(upload, work)
                proof: dict[str, Any] = STATE_FACTS[State.VERIFIED]
                self.ledger.advance(upload, State.VERIFIED, **proof)
            self.ended.put(upload)


class RunnerFixture:
    """A runner whose ledger and breaker have clocks that the test moves."""

    def __init__(self, harness: Harness) -> None:
        app = harness.app
        self.clock = Clock()
        self.ledger = Ledger(app.context.database, app.ledger.instance, clock=self.clock)
        self.stage = ScriptedStage()
        self.stage.ledger = self.ledger
        self.supervisor = Supervisor(app.context.metrics, session=app.context.database.session)
        self.now = 0.0
        self.breaker = CircuitBreaker("scripted", clock=lambda: self.now, backoff=Backoff(base=2.0))
        self.error_policy = replace(
            app.runners[State.PENDING].error_policy,
            ledger=self.ledger,
            breaker=self.breaker,
            backoff=Backoff(uniform=lambda _, longest: longest),
        )
        self.started: list[StageRunner] = []

    def make(
        self, threads: int = 1, batch: int = 1, lease: timedelta = LEASE, small_threads: int = 0
    ) -> StageRunner:
        return StageRunner(
            self.stage,
            ledger=self.ledger,
            error_policy=self.error_policy,
            supervisor=self.supervisor,
            lease=lease,
            threads=threads,
            batch=batch,
            small_threads=small_threads,
        )

    def run(
        self,
        threads: int = 1,
        batch: int = 1,
        lease: timedelta = LEASE,
        small_threads: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> StageRunner:
        runner = self.make(threads, batch, lease, small_threads)
        runner.clock = clock
        self.started.append(runner)
        runner.start()
        return runner

    def enqueue(self, count: int, *, size: int = IDENTITY.size) -> list[Upload]:
        return [
            enqueue(
                self.ledger,
                f"v/{size}-{number}_720p.mp4",
                identity=replace(IDENTITY, inode=number, size=size),
            )
            for number in range(count)
        ]

    def ended(self, count: int) -> list[Upload]:
        return [self.stage.ended.get(timeout=WAIT_SECONDS) for _ in range(count)]

    def states(self) -> set[State]:
        return {row.state for row in self.ledger.uploads()}


@pytest.fixture
def fixture(harness: Harness) -> Iterator[RunnerFixture]:
    fixture = RunnerFixture(harness)
    yield fixture
    for runner in fixture.started:
        runner.request_stop()
        assert runner.join(WAIT_SECONDS)
    assert fixture.supervisor.liveness.stalled() == []


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that another thread fulfils."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def until_set(go_on: threading.Event) -> Callable[[Upload, Work], None]:
    """Work that takes until the test ends it."""

    def act(_upload: Upload, _work: Work) -> None:
        assert go_on.wait(WAIT_SECONDS)

    return act


def test_due_rows_that_another_session_has_locked_are_not_queried_in_a_tight_loop(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture.enqueue(1)
    monkeypatch.setattr(fixture.ledger, "claim", lambda *_args, **_options: [])
    assert fixture.make()._claim_step() == LOCKED_SECONDS


def test_every_due_row_is_advanced_once(fixture: RunnerFixture) -> None:
    rows = fixture.enqueue(20)
    fixture.run(threads=3)
    assert {row.id for row in fixture.ended(20)} == {row.id for row in rows}
    assert fixture.states() == {State.VERIFIED}
    assert fixture.stage.ended.empty()


def test_a_runner_that_is_woken_finds_new_work_at_once(fixture: RunnerFixture) -> None:
    runner = fixture.run()
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    (row,) = fixture.enqueue(1)
    runner.wake()
    assert [done.id for done in fixture.ended(1)] == [row.id]


def test_a_row_is_claimed_when_it_is_due_and_not_before(fixture: RunnerFixture) -> None:
    (row,) = fixture.enqueue(1)
    fixture.ledger.postpone(row, delay=timedelta(seconds=40), error="x", error_code="x")
    runner = fixture.run()
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    fixture.clock.advance(seconds=39)
    runner.wake()
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    runner.wake()
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    assert fixture.stage.begun.empty()
    fixture.clock.advance(seconds=1)
    runner.wake()
    assert [done.id for done in fixture.ended(1)] == [row.id]


def test_claims_are_renewed_while_there_is_nothing_else_to_do(fixture: RunnerFixture) -> None:
    """A disabled or paused stage may still have work under way, which others would claim."""
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    (row,) = fixture.enqueue(1)
    runner = fixture.run(lease=timedelta(seconds=0.3))
    assert fixture.stage.begun.get(timeout=WAIT_SECONDS)
    fixture.stage.enabled = False
    runner.wake()
    now = fixture.clock.advance(minutes=1)

    def is_renewed() -> bool:
        (held,) = fixture.ledger.uploads(ids=[row.id])
        return held.claimed_until is not None and held.claimed_until > now

    until(is_renewed)
    now = fixture.clock.advance(minutes=1)
    until(is_renewed)
    go_on.set()
    fixture.ended(1)


def test_rows_come_in_batches_and_no_more_at_once_than_there_are_threads(fixture: RunnerFixture) -> None:
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(10)
    fixture.breaker.succeed()
    runner = fixture.run(threads=2, batch=4)
    batches = [fixture.stage.begun.get(timeout=WAIT_SECONDS) for _ in range(2)]
    assert [len(batch) for batch in batches] == [4, 4]
    assert runner.busy == 2
    assert len([row for row in fixture.ledger.uploads() if row.claimed_by]) == 8
    go_on.set()
    fixture.ended(10)
    assert len(fixture.stage.begun.get(timeout=WAIT_SECONDS)) == 2


def test_one_batch_finds_out_whether_the_server_answers(fixture: RunnerFixture) -> None:
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(10)
    runner = fixture.run(threads=2, batch=4)
    assert len(fixture.stage.begun.get(timeout=WAIT_SECONDS)) == 4
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    assert runner.busy == 1
    go_on.set()
    fixture.ended(10)


def test_a_small_file_waits_for_no_large_one_and_keeps_none_waiting(fixture: RunnerFixture) -> None:
    small, large = SMALL_BYTES, SMALL_BYTES + 1
    go_on = threading.Event()
    fixture.stage.act = lambda upload, work: None if upload.size == small else until_set(go_on)(upload, work)
    fixture.enqueue(5, size=large)
    runner = fixture.run(threads=2, small_threads=1)
    under_way = [row for _ in range(2) for row in fixture.stage.begun.get(timeout=WAIT_SECONDS)]
    assert [row.size for row in under_way] == [large, large]
    fixture.enqueue(4, size=small)
    runner.wake()
    assert [row.size for row in fixture.ended(4)] == [small] * 4
    assert runner.busy == 2
    go_on.set()
    assert [row.size for row in fixture.ended(5)] == [large] * 5


def test_files_up_to_the_limit_have_every_thread_in_the_order_in_which_they_were_due(
    fixture: RunnerFixture,
) -> None:
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    rows = [*fixture.enqueue(2, size=SMALL_BYTES), *fixture.enqueue(2, size=SMALL_BYTES + 1)]
    fixture.run(threads=2, small_threads=1)
    begun = [row.id for _ in range(3) for row in fixture.stage.begun.get(timeout=WAIT_SECONDS)]
    assert sorted(begun) == [row.id for row in rows[:3]]
    go_on.set()
    fixture.ended(4)


def test_tens_of_small_files_are_under_way_only_while_the_server_is_known_to_answer(
    fixture: RunnerFixture,
) -> None:
    """One that is away would be asked by all of them."""
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(12, size=SMALL_BYTES)
    runner = fixture.run(threads=2, small_threads=6)
    for _ in range(3):
        fixture.stage.begun.get(timeout=WAIT_SECONDS)
    assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    assert runner.busy == len(runner._workers) == 3
    fixture.breaker.succeed()
    runner.wake()
    for _ in range(5):
        fixture.stage.begun.get(timeout=WAIT_SECONDS)
    assert runner.busy == 8
    go_on.set()
    fixture.ended(12)


def test_a_batch_wakes_one_thread_and_no_others(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of threads that look for the same batch would take more time than the batch."""
    runner = fixture.run(threads=8)
    until(lambda: len(runner._idle) == 8)
    woken: list[str] = []
    wake = BackgroundThread.wake

    def count(thread: BackgroundThread) -> None:
        woken.append(thread.name)
        wake(thread)

    monkeypatch.setattr(BackgroundThread, "wake", count)
    fixture.enqueue(5)
    runner.wake()
    fixture.ended(5)
    assert len([name for name in woken if "claims" not in name]) <= 5


def test_a_claim_is_renewed_while_its_row_is_at_work(fixture: RunnerFixture) -> None:
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    (row,) = fixture.enqueue(1)
    runner = fixture.run()
    fixture.stage.begun.get(timeout=WAIT_SECONDS)
    for _ in range(3):
        until_time = fixture.clock.advance(seconds=50) + LEASE
        runner.wake()
        until(lambda: fixture.ledger.uploads(ids=[row.id])[0].claimed_until == until_time)  # noqa: B023
        others = fixture.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=timedelta(hours=1))
        assert others == []
    go_on.set()
    fixture.ended(1)
    assert fixture.states() == {State.VERIFIED}


def test_claims_are_renewed_every_third_of_their_lease(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal is a transaction, and the claiming thread is woken for every row."""
    renewed: list[datetime] = []
    renew = fixture.ledger.renew_claims

    def count(claims: Iterable[Upload], lease: timedelta) -> None:
        renew(claims, lease)
        renewed.append(fixture.clock.now)

    monkeypatch.setattr(fixture.ledger, "renew_claims", count)
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(1)
    start = fixture.clock.now
    runner = fixture.run()
    fixture.stage.begun.get(timeout=WAIT_SECONDS)
    for seconds in (LEASE / 3 - timedelta(seconds=1), timedelta(seconds=1), LEASE / 3):
        fixture.clock.advance(seconds=seconds.total_seconds())
        wake_twice(fixture, runner)
    assert renewed == [start + LEASE / 3, start + 2 * LEASE / 3]
    go_on.set()
    fixture.ended(1)


def test_one_claim_takes_a_row_for_every_free_thread(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    claim = fixture.ledger.claim

    def count(state: State, limit: int, **how: Any) -> list[Upload]:
        limits.append(limit)
        return claim(state, limit, **how)

    monkeypatch.setattr(fixture.ledger, "claim", count)
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(6)
    fixture.run(threads=5)
    for _ in range(5):
        assert len(fixture.stage.begun.get(timeout=WAIT_SECONDS)) == 1
    assert limits == [5]
    go_on.set()
    fixture.ended(6)


def test_an_expired_claim_of_an_earlier_process_is_taken(fixture: RunnerFixture) -> None:
    fixture.enqueue(1)
    (row,) = fixture.ledger.claim(State.PENDING, 1, lease=LEASE, horizon=timedelta(hours=1))
    fixture.clock.advance(seconds=60)
    fixture.run()
    assert [(done.id, done.claim) for done in fixture.ended(1)] == [(row.id, row.claim + 1)]


def deny(_upload: Upload, _work: Work) -> None:
    raise DENIED


def test_a_paused_stage_probes_one_row_and_goes_on_when_it_gets_through(fixture: RunnerFixture) -> None:
    fixture.stage.act = deny
    fixture.enqueue(6)
    runner = fixture.run(threads=3, batch=2)
    until(lambda: fixture.breaker.failure is not None)
    wake_twice(fixture, runner)
    until(lambda: runner.busy == 0)
    while not fixture.stage.begun.empty():
        fixture.stage.begun.get()
    assert fixture.states() == {State.PENDING}
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.now += 1.5
    wake_twice(fixture, runner)
    assert fixture.stage.begun.empty()
    fixture.now += 0.5
    runner.wake()
    assert len(fixture.stage.begun.get(timeout=WAIT_SECONDS)) == 1
    wake_twice(fixture, runner)
    assert runner.busy == 1
    assert fixture.stage.begun.empty()
    assert len([row for row in fixture.ledger.uploads() if row.claimed_by]) == 1
    with capture_logs() as logs:
        go_on.set()
        until(lambda: fixture.states() == {State.VERIFIED})
    assert [log["event"] for log in logs if log["event"].startswith("stage_")] == ["stage_resumed"]
    assert fixture.breaker.failure is None


def test_a_poisoned_row_delays_no_other_one(fixture: RunnerFixture) -> None:
    """The row that is first in the order is always denied; the stage is neither paused nor probed with it."""
    poisoned, *others = fixture.enqueue(20)

    def act(upload: Upload, _work: Work) -> None:
        if upload.id == poisoned.id:
            raise DENIED

    fixture.stage.act = act
    with capture_logs() as logs:
        fixture.run(threads=2)
        until(lambda: len(fixture.ledger.uploads(state=State.VERIFIED)) == len(others))
        until(lambda: fixture.ledger.uploads(ids=[poisoned.id])[0].attempts == 1)
    (row,) = fixture.ledger.uploads(ids=[poisoned.id])
    assert (row.state, row.error_code, row.claimed_by) == (State.PENDING, "AccessDenied", None)
    assert row.last_error is not None
    assert "Allow it." in row.last_error
    assert row.due_at > fixture.clock()
    assert [log["event"] for log in logs if log["event"].startswith("stage_")] == []
    assert {log["code"] for log in logs if log["event"] == "attempt_failed"} == {"AccessDenied"}


def test_many_poisoned_rows_at_the_head_of_the_queue_pause_the_stage_hardly_ever(
    fixture: RunnerFixture,
) -> None:
    """They are neighbours, a quarter of all: the first pause ends with a row from the end of the queue."""
    rows = fixture.enqueue(80)
    poisoned = {row.id for row in rows[:20]}

    def act(upload: Upload, _work: Work) -> None:
        if upload.id in poisoned:
            raise DENIED

    fixture.stage.act = act
    pause = threading.Event()
    with capture_logs() as logs:
        runner = fixture.run(threads=4)
        deadline = time.monotonic() + 3 * WAIT_SECONDS
        while len(fixture.ledger.uploads(state=State.VERIFIED)) < 60:
            assert time.monotonic() < deadline
            if fixture.breaker.seconds_to_probe():
                fixture.now += 1
                runner.wake()
            pause.wait(0.01)
    assert [log["event"] for log in logs].count("stage_paused") <= 2
    assert fixture.now <= 6


def test_poisoned_rows_that_are_at_work_at_once_at_the_start_pause_nothing(fixture: RunnerFixture) -> None:
    """All threads begin with one, and all fail together; the breaker's clock stands still."""
    rows = fixture.enqueue(12)
    poisoned = {row.id for row in rows[:4]}
    together = threading.Barrier(4)

    def act(upload: Upload, _work: Work) -> None:
        if upload.id in poisoned:
            if not together.broken and fixture.ledger.uploads(ids=[upload.id])[0].claim == 1:
                together.wait(WAIT_SECONDS)
            raise DENIED

    fixture.stage.act = act
    with capture_logs() as logs:
        fixture.run(threads=4)
        until(lambda: len(fixture.ledger.uploads(state=State.VERIFIED)) == 8)
        until(lambda: {row.attempts for row in fixture.ledger.uploads(state=State.PENDING)} == {1})
    assert [log["event"] for log in logs if log["event"].startswith("stage_")] == []


def test_a_row_that_paused_an_idle_stage_is_not_the_probe_when_another_one_arrives(
    fixture: RunnerFixture,
) -> None:
    """The breaker's clock stands still: the other row is not made to wait for the next probe."""
    (poisoned,) = fixture.enqueue(1)

    def act(upload: Upload, _work: Work) -> None:
        if upload.id == poisoned.id:
            raise DENIED

    fixture.stage.act = act
    runner = fixture.run()
    until(lambda: fixture.breaker.failure is not None and runner.busy == 0)
    enqueue(fixture.ledger, "v/other_720p.mp4")
    runner.wake()
    until(lambda: State.VERIFIED in fixture.states())
    until(lambda: fixture.breaker.failure is None)
    until(lambda: fixture.ledger.uploads(ids=[poisoned.id])[0].attempts == 1)


def test_a_server_that_is_away_is_asked_by_one_row_at_a_time_and_all_are_due_when_it_answers(
    fixture: RunnerFixture,
) -> None:
    """Ten minutes of an outage with 200 rows: attempts and writes are few, whatever the number of rows."""
    answers = threading.Event()

    def act(_upload: Upload, _work: Work) -> None:
        if not answers.is_set():
            raise StorageError(StorageErrorKind.TRANSIENT, "confirm", "k", "connection", "It is refused.")

    fixture.stage.act = act
    rows = fixture.enqueue(200)
    runner = fixture.run(threads=3)
    until(lambda: fixture.breaker.failure is not None and runner.busy == 0)
    for _ in range(10 * 60 * 2):
        fixture.clock.advance(seconds=0.5)
        fixture.now += 0.5
        if fixture.breaker.seconds_to_probe() == 0:
            tried = fixture.stage.begun.qsize()
            runner.wake()
            until(lambda: fixture.stage.begun.qsize() > tried and runner.busy == 0)  # noqa: B023
    attempts = fixture.stage.begun.qsize()
    assert attempts < 20
    assert sum(row.claim for row in fixture.ledger.uploads()) < 3 * attempts
    assert sum(row.attempts for row in fixture.ledger.uploads()) <= 2
    answers.set()
    fixture.now += 300
    runner.wake()
    fixture.ended(attempts + len(rows))
    assert fixture.states() == {State.VERIFIED}


def wake_twice(fixture: RunnerFixture, runner: StageRunner) -> None:
    """Have the ledger queried again, completely: a second query follows the first."""
    while fixture.stage.asked.acquire(blocking=False):
        continue
    for _ in range(2):
        runner.wake()
        assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)


def test_a_failed_probe_makes_the_pause_longer(fixture: RunnerFixture) -> None:
    fixture.stage.act = deny
    fixture.enqueue(1)
    runner = fixture.run()
    for longest in (2.0, 4.0, 8.0):
        until(lambda: fixture.breaker.failure is not None and runner.busy == 0)
        until(lambda: fixture.breaker.seconds_to_probe() == longest)  # noqa: B023
        fixture.now += longest
        runner.wake()
    (row,) = fixture.ledger.uploads()
    assert row.attempts == 0
    assert row.state is State.PENDING


def test_a_request_to_stop_interrupts_what_is_under_way_and_gives_it_back(fixture: RunnerFixture) -> None:
    waits: list[bool] = []

    def interruptible(_upload: Upload, work: Work) -> None:
        waits.append(work.wait(WAIT_SECONDS * 100))
        assert work.stopped()
        raise UploadCancelledError

    fixture.stage.act = interruptible
    fixture.enqueue(5)
    runner = fixture.run(threads=2)
    for _ in range(2):
        fixture.stage.begun.get(timeout=WAIT_SECONDS)
    runner.request_stop()
    assert runner.join(WAIT_SECONDS)
    assert waits == [True, True]
    rows = fixture.ledger.uploads()
    assert {(row.state, row.attempts, row.claimed_by) for row in rows} == {(State.PENDING, 0, None)}


def test_join_reports_a_stuck_thread_and_does_not_wait_for_it(fixture: RunnerFixture) -> None:
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.enqueue(1)
    runner = fixture.run()
    fixture.stage.begun.get(timeout=WAIT_SECONDS)
    runner.request_stop()
    assert not runner.join(0.01)
    go_on.set()
    assert runner.join(WAIT_SECONDS)


def test_a_runner_that_never_started_can_be_stopped(fixture: RunnerFixture) -> None:
    runner = StageRunner(
        fixture.stage,
        ledger=fixture.ledger,
        error_policy=fixture.error_policy,
        supervisor=fixture.supervisor,
        lease=LEASE,
        threads=1,
    )
    runner.request_stop()
    assert runner.join(WAIT_SECONDS)


def test_an_unforeseen_error_of_a_row_postpones_the_row_and_spares_the_thread(fixture: RunnerFixture) -> None:
    first, second = fixture.enqueue(2)

    def stumble(upload: Upload, _work: Work) -> None:
        if upload.id == first.id:
            raise ZeroDivisionError("a bug")

    fixture.stage.act = stumble
    with capture_logs() as logs:
        fixture.run()
        assert [done.id for done in fixture.ended(1)] == [second.id]
        until(lambda: fixture.ledger.uploads(ids=[first.id])[0].claimed_by is None)
    (row,) = fixture.ledger.uploads(ids=[first.id])
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 1, "internal")
    assert row.last_error is not None
    assert "ZeroDivisionError: a bug" in row.last_error
    assert row.due_at > fixture.clock()
    logged = [(log["event"], log["log_level"], log["uploads"]) for log in logs if "uploads" in log]
    assert logged == [("internal_error", "error", [first.id])]


def test_a_disabled_stage_claims_nothing_until_it_is_enabled(fixture: RunnerFixture) -> None:
    fixture.stage.enabled = False
    fixture.enqueue(1)
    runner = fixture.run()
    wake_twice(fixture, runner)
    assert fixture.stage.begun.empty()
    assert all(row.claim == 0 for row in fixture.ledger.uploads())
    fixture.stage.enabled = True
    runner.wake()
    fixture.ended(1)


@pytest.mark.parametrize("count", [0, 1])
def test_a_database_that_is_away_pauses_the_stage_until_it_answers(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Also when there is no row whose success could end the pause."""
    claim, answers = fixture.ledger.claim, threading.Event()

    def away(*arguments: Any, **settings: Any) -> list[Upload]:
        if not answers.is_set():
            raise DatabaseError(ErrorKind.TRANSIENT, "claim uploads", "it does not answer", "Wait.")
        return claim(*arguments, **settings)

    monkeypatch.setattr(fixture.ledger, "claim", away)
    fixture.enqueue(count)
    with capture_logs() as logs:
        runner = fixture.run()
        until(lambda: fixture.breaker.failure is not None)
        answers.set()
        fixture.now += 2
        runner.wake()
        fixture.ended(count)
        until(lambda: fixture.breaker.failure is None)
        runner.request_stop()
        assert runner.join(WAIT_SECONDS)
    logged = [log["event"] for log in logs if log["event"].startswith("stage_")]
    assert logged == ["stage_paused", "stage_resumed"]


def test_a_row_whose_failure_could_not_be_recorded_is_due_when_the_database_answers(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the end of its claim, which the clock of the test never reaches."""
    (row,) = fixture.enqueue(1)
    is_away = threading.Event()
    transaction = fixture.ledger.database.transaction

    def away(doing: str) -> Any:
        if is_away.is_set():
            raise DatabaseError(ErrorKind.TRANSIENT, doing, "the server went away", "Start it.")
        return transaction(doing)

    monkeypatch.setattr(fixture.ledger.database, "transaction", away)
    fixture.stage.act = lambda _upload, _work: is_away.set()
    runner = fixture.run()
    fixture.ended(1)
    until(lambda: fixture.breaker.failure is not None)
    fixture.stage.act = lambda _upload, _work: None
    is_away.clear()
    fixture.now = 3600.0
    runner.wake()
    fixture.ended(1)
    until(lambda: fixture.ledger.uploads(ids=[row.id])[0].state is State.VERIFIED)


def test_an_idle_stage_does_not_take_a_quiet_ledger_for_working_credentials(fixture: RunnerFixture) -> None:
    fixture.breaker.trip(Failure(FailureKind.ENVIRONMENT, "AccessDenied", "Allow it."))
    fixture.now += 2
    runner = fixture.run()
    wake_twice(fixture, runner)
    assert fixture.breaker.failure is not None


def test_a_runner_is_not_idle_between_a_claim_and_the_work_on_it(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimed row is not due any more and not yet in work."""
    really_claim = fixture.ledger.claim
    idle_at_claims: list[bool] = []

    def claim(state: State, limit: int, **options: Any) -> list[Upload]:
        rows = really_claim(state, limit, **options)
        if rows:
            idle_at_claims.append(runner.is_idle)
        return rows

    monkeypatch.setattr(fixture.ledger, "claim", claim)
    runner = fixture.run()
    until(lambda: runner.is_idle)
    fixture.enqueue(1)
    runner.wake()
    fixture.ended(1)
    until(lambda: runner.is_idle)
    assert idle_at_claims == [False]


@pytest.mark.parametrize("is_contended", [True, False])
def test_while_several_rows_are_under_way_others_are_gathered_before_they_are_claimed(
    fixture: RunnerFixture, is_contended: bool
) -> None:
    """One claim of several rows costs what one of one row does; the first rows do not wait."""
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.supervisor.is_contended = lambda: is_contended
    fixture.enqueue(GATHER_FROM)
    seconds = [0.0]
    runner = fixture.run(threads=GATHER_FROM + 3, clock=lambda: seconds[0])
    for _ in range(GATHER_FROM):
        fixture.stage.begun.get(timeout=WAIT_SECONDS)
    later = {enqueue(fixture.ledger, f"v/later-{number}_720p.mp4").path for number in range(3)}
    fixture.stage.asked = threading.Semaphore(0)
    for _ in range(2):
        assert fixture.stage.asked.acquire(timeout=WAIT_SECONDS)
    assert runner.busy == GATHER_FROM
    seconds[0] += GATHER_SECONDS
    assert {fixture.stage.begun.get(timeout=WAIT_SECONDS)[0].path for _ in later} == later
    go_on.set()


def test_a_thread_that_has_nothing_left_to_do_ends_the_gathering(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While rows are gathered, what the other threads finish leads to no claim."""
    monkeypatch.setattr("watcher.stages.runner.GATHER_SECONDS", 3600.0)
    go_on = {number: threading.Event() for number in range(1, GATHER_FROM + 3)}

    def act(upload: Upload, _work: Work) -> None:
        assert go_on[upload.id].wait(WAIT_SECONDS)

    fixture.stage.act = act
    fixture.enqueue(GATHER_FROM + 1)
    runner = fixture.run(threads=GATHER_FROM + 3, clock=lambda: 0.0)
    begun = {fixture.stage.begun.get(timeout=WAIT_SECONDS)[0].id for _ in range(GATHER_FROM + 1)}
    later = enqueue(fixture.ledger, "v/later_720p.mp4")
    runner.wake()
    until(lambda: runner._is_gathering)
    go_on[begun.pop()].set()
    fixture.ended(1)
    until(lambda: runner.busy == GATHER_FROM)
    assert fixture.stage.begun.empty()
    go_on[begun.pop()].set()
    assert fixture.stage.begun.get(timeout=WAIT_SECONDS)[0].id == later.id
    for event in go_on.values():
        event.set()


@pytest.mark.parametrize("is_contended", [True, False])
def test_more_small_files_than_large_ones_may_be_under_way_are_claimed_at_once(
    fixture: RunnerFixture, is_contended: bool
) -> None:
    """Unless the threads wait for each other already: then they are gathered."""
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.supervisor.is_contended = lambda: is_contended
    fixture.breaker.succeed()
    fixture.enqueue(GATHER_FROM + 6, size=SMALL_BYTES)
    seconds = [0.0]
    runner = fixture.run(threads=GATHER_FROM, small_threads=6, clock=lambda: seconds[0])
    for _ in range(GATHER_FROM):
        fixture.stage.begun.get(timeout=WAIT_SECONDS)
    if is_contended:
        until(lambda: runner._is_gathering)
        assert runner.busy == GATHER_FROM
        seconds[0] += GATHER_SECONDS
        for _ in range(GATHER_FROM):
            fixture.stage.begun.get(timeout=WAIT_SECONDS)
        seconds[0] += GATHER_SECONDS
    until(lambda: runner.busy == GATHER_FROM + 6)
    go_on.set()


def test_one_claim_takes_what_is_small_for_all_other_threads(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the second one: what was due first may be large."""
    go_on = threading.Event()
    claims: list[tuple[int, bool]] = []
    really_claim = fixture.ledger.claim

    def claim(state: State, limit: int, **options: Any) -> list[Upload]:
        claims.append((limit, options["small_only"]))
        return really_claim(state, limit, **options)

    monkeypatch.setattr(fixture.ledger, "claim", claim)
    fixture.stage.act = until_set(go_on)
    fixture.supervisor.is_contended = lambda: False
    fixture.breaker.succeed()
    fixture.enqueue(16, size=SMALL_BYTES)
    runner = fixture.run(threads=GATHER_FROM, small_threads=16 - GATHER_FROM)
    until(lambda: runner.busy == 16)
    assert claims == [(GATHER_FROM, False), (16 - GATHER_FROM, True)]
    go_on.set()


def test_a_large_file_does_not_wait_for_small_ones_that_are_not_there(
    fixture: RunnerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were due first were small, and nothing else is."""
    monkeypatch.setattr("watcher.stages.runner.SMALL_SECONDS", 3600.0)
    go_on = threading.Event()
    fixture.stage.act = until_set(go_on)
    fixture.supervisor.is_contended = lambda: False
    fixture.breaker.succeed()
    fixture.enqueue(2, size=SMALL_BYTES)
    fixture.enqueue(2, size=SMALL_BYTES + 1)
    fixture.run(threads=2, small_threads=6)
    sizes = [fixture.stage.begun.get(timeout=WAIT_SECONDS)[0].size for _ in range(4)]
    assert sorted(sizes) == [SMALL_BYTES, SMALL_BYTES, SMALL_BYTES + 1, SMALL_BYTES + 1]
    go_on.set()


def test_a_batch_of_brief_work_runs_in_turn_with_others_and_not_while_it_waits(
    fixture: RunnerFixture,
) -> None:
    run_queue, seen = RunQueue(), queue.SimpleQueue[tuple[int, bool, bool]]()
    fixture.supervisor.running, fixture.supervisor.waiting = run_queue.running, run_queue.waiting

    def has_place() -> bool:
        return run_queue._thread.place is not None

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            del timeout
            seen.put((size, before, has_place()))
            return False

    size, before = 0, False

    def act(upload: Upload, work: Work) -> None:
        nonlocal size, before
        size, before = upload.size, has_place()
        work.wait(0)

    fixture.stage.act = act
    runner = fixture.make()
    runner._claimer.stopping = Stopping()
    fixture.started.append(runner)
    runner.start()
    for size_of_file, is_brief in ((BRIEF_BYTES, True), (BRIEF_BYTES + 1, False)):
        fixture.enqueue(1, size=size_of_file)
        runner.wake()
        assert seen.get(timeout=WAIT_SECONDS) == (size_of_file, is_brief, False)
