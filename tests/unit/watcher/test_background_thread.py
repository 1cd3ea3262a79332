"""Background threads: their loop, the restart after an unforeseen exception, and its limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from db import Invalidations, Look, MissingRows, State
from storage import Distribution
from tests.support.databases import advance_to, claim, enqueue
from tests.support.harness import Harness
from tests.support.observed_paths import NO_CALLBACKS
from watcher.catalog import CatalogThread, CompressorCatalog, Orphans
from watcher.catalog.gate import CatalogGate
from watcher.catalog.republisher import Republisher
from watcher.detection.observer import TreeObserver
from watcher.detection.observer_supervisor import ObserverSupervisor
from watcher.errors import Failure, FailureKind
from watcher.stages.cdn_invalidation import Invalidator
from watcher.supervision.background_thread import (
    FAILURE_WINDOW_SECONDS,
    MAX_FAILURES,
    BackgroundThread,
    FailureState,
    Supervisor,
    Worker,
    stop_all,
)
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics

WAIT_SECONDS = 10
NO_BACKOFF = Backoff(base=0.0, cap=0.0)
ERROR = "ZeroDivisionError: on purpose"


def until(holds: Callable[[], object]) -> None:
    """Wait for a condition that another thread fulfils."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.005)


@dataclass
class SupervisorFixture:
    """A supervisor with a clock that the test moves, and threads that end with the test."""

    now: float = 1000.0
    metrics: Metrics = field(default_factory=Metrics)
    sessions: list[str] = field(default_factory=list)
    notifications: int = 0
    threads: list[BackgroundThread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            self.metrics, session=self._session, clock=lambda: self.now, backoff=NO_BACKOFF
        )
        self.supervisor.on_reason_to_stop(self._notify)

    def thread(self, step: Callable[[], float | None], **options: Any) -> BackgroundThread:
        thread = BackgroundThread(self.supervisor, "scan", step, patience=60, **options)
        self.threads.append(thread)
        return thread

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.supervisor.seconds_to_restart(
                self.supervisor.record("scan", ZeroDivisionError("on purpose"))
            )

    def _notify(self) -> None:
        self.notifications += 1

    @contextmanager
    def _session(self) -> Iterator[None]:
        self.sessions.append("open")
        yield
        self.sessions.append("close")


@pytest.fixture
def fixture() -> Iterator[SupervisorFixture]:
    fixture = SupervisorFixture()
    yield fixture
    for thread in fixture.threads:
        thread.request_stop()
        assert thread.join(WAIT_SECONDS)


def test_a_wake_up_ends_the_wait_and_one_during_a_step_is_kept(fixture: SupervisorFixture) -> None:
    steps: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on = threading.Semaphore(0)

    def step() -> None:
        steps.put(None)
        assert go_on.acquire(timeout=WAIT_SECONDS)

    thread = fixture.thread(step)
    thread.start()
    for _ in range(3):
        steps.get(timeout=WAIT_SECONDS)
        thread.wake()
        go_on.release()
    steps.get(timeout=WAIT_SECONDS)
    go_on.release()
    with pytest.raises(queue.Empty):
        steps.get(timeout=0.05)


def test_a_stop_ends_the_wait_and_at_end_follows_the_last_step(fixture: SupervisorFixture) -> None:
    acts: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = fixture.thread(lambda: acts.put("step"), at_end=lambda: acts.put("end"))
    thread.start()
    assert acts.get(timeout=WAIT_SECONDS) == "step"
    assert not thread.join(0.01)
    thread.request_stop()
    assert thread.join(WAIT_SECONDS)
    assert acts.get_nowait() == "end"
    assert acts.empty()
    assert fixture.supervisor.liveness.stalled() == []


def test_a_thread_that_was_stopped_before_its_start_takes_no_step(fixture: SupervisorFixture) -> None:
    acts: list[str] = []
    thread = fixture.thread(lambda: acts.append("step"), at_end=lambda: acts.append("end"))
    thread.request_stop()
    assert thread.join(0)
    thread.start()
    assert thread.join(WAIT_SECONDS)
    assert acts == ["end"]


def test_an_unforeseen_exception_restarts_the_thread_with_a_new_session(fixture: SupervisorFixture) -> None:
    failures = iter([ZeroDivisionError("on purpose")])
    worked = threading.Event()

    def step() -> None:
        for failure in failures:
            raise failure
        worked.set()

    thread = fixture.thread(step)
    with capture_logs() as logs:
        thread.start()
        assert worked.wait(WAIT_SECONDS)
    (line,) = logs
    assert (line["event"], line["log_level"], line["thread"]) == ("internal_error", "error", "scan")
    assert (line["error"], line["attempts"], line["exc_info"]) == (ERROR, 1, True)
    assert fixture.sessions == ["open", "open"]
    assert [(error.error, error.count) for error in fixture.supervisor.internal_errors()] == [(ERROR, 1)]
    assert fixture.supervisor.reason_to_stop is None
    assert fixture.supervisor.liveness.stalled() == []


def test_the_restart_waits_for_the_backoff_and_a_stop_ends_that_wait(fixture: SupervisorFixture) -> None:
    fixture.supervisor._backoff = Backoff(base=1000.0, uniform=lambda _low, high: high)
    steps: list[None] = []

    def fail() -> None:
        steps.append(None)
        raise ZeroDivisionError("on purpose")

    thread = fixture.thread(fail)
    thread.start()
    until(fixture.supervisor.internal_errors)
    assert not thread.join(0.05)
    thread.request_stop()
    assert thread.join(WAIT_SECONDS)
    assert len(steps) == 1


def test_five_failures_within_ten_minutes_are_a_reason_to_stop(fixture: SupervisorFixture) -> None:
    fixture.fail(MAX_FAILURES - 1)
    fixture.now += FAILURE_WINDOW_SECONDS
    assert fixture.notifications == 0
    fixture.fail(1)
    assert fixture.supervisor.reason_to_stop == (
        f"thread scan failed 5 times within 10 minutes, most recently with {ERROR}"
    )
    assert fixture.notifications == 1


def test_failures_longer_ago_than_ten_minutes_do_not_count(fixture: SupervisorFixture) -> None:
    for _ in range(4):
        fixture.fail(MAX_FAILURES - 1)
        fixture.now += FAILURE_WINDOW_SECONDS + 1
    assert fixture.supervisor.reason_to_stop is None
    (error,) = fixture.supervisor.internal_errors()
    assert error.count == 4 * (MAX_FAILURES - 1)
    assert fixture.notifications == 0


def test_the_text_of_an_error_can_be_stored_and_printed(fixture: SupervisorFixture) -> None:
    """File names may hold bytes that neither a database nor a terminal takes."""
    error = fixture.supervisor.record("scan", ValueError("a\0\udcff\n"))
    assert error.error == "ValueError: a\\x00\\udcff\\n"


def test_the_backoff_grows_with_the_recent_failures(fixture: SupervisorFixture) -> None:
    fixture.supervisor._backoff = Backoff(base=1.0, uniform=lambda _low, high: high)
    exc = ZeroDivisionError("on purpose")
    waits = [fixture.supervisor.seconds_to_restart(fixture.supervisor.record("scan", exc)) for _ in range(5)]
    assert waits == [1, 2, 4, 8, None]


def test_a_thread_that_is_not_restarted_ends_and_is_a_stall(fixture: SupervisorFixture) -> None:
    ended = threading.Event()
    worker = Worker(fixture.supervisor, "scan thread")
    worker.add_thread("scan", lambda: 1 / 0, patience=60, at_end=ended.set)
    worker.start()
    assert worker.join(WAIT_SECONDS)
    assert ended.is_set()
    assert fixture.supervisor.liveness.stalled() == ["scan thread: not alive for 0 s"]
    assert stop_all([worker], WAIT_SECONDS)
    assert fixture.supervisor.liveness.stalled() == []


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_an_exception_that_ends_the_interpreter_is_not_swallowed(
    fixture: SupervisorFixture, monkeypatch: pytest.MonkeyPatch, exception: type[BaseException]
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_type))

    def leave() -> None:
        raise exception

    thread = fixture.thread(leave)
    thread.start()
    assert thread.join(WAIT_SECONDS)
    assert raised == [exception]
    assert fixture.supervisor.internal_errors() == []


def test_a_failure_is_reported_when_it_is_new_and_its_end_once() -> None:
    reported: list[str] = []
    state = FailureState(lambda failure: reported.append(failure.code), lambda: reported.append("over"))
    state.succeed()
    for code in ("a", "a", "b", "a"):
        state.fail(Failure(FailureKind.TRANSIENT, code, "It failed."))
        assert state.current is not None
    state.succeed()
    state.succeed()
    assert state.current is None
    assert reported == ["a", "b", "a", "over"]


class Fault:
    """Takes the place of a method: raises for the first calls, then works again."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.worked = threading.Event()

    def install(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        really = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.times > 0:
                self.times -= 1
                raise ZeroDivisionError("on purpose")
            self.worked.set()
            return really(*arguments, **options)

        monkeypatch.setattr(owner, name, call)


@dataclass
class FaultCase:
    """A worker, the name of its thread, the method that fails in its step, and what makes it step again."""

    worker: Worker
    thread: str
    owner: object
    method: str
    provoke: Callable[[], None] = lambda: None


class CatalogStub:
    """Stands for gate and republisher."""

    def admit_waiting(self, *, fresh_only: bool = False) -> int:
        return 0

    def check_recent(self) -> int:
        return 0

    def check_new(self, *, fresh_only: bool = False) -> int:
        return 0


def settler(harness: Harness) -> FaultCase:
    settler = harness.app.settler
    return FaultCase(settler, "settle-", settler, "_check_path", lambda: settler.check("a.mp4"))


def scan_scheduler(harness: Harness) -> FaultCase:
    scheduler = harness.app.scan_scheduler
    return FaultCase(scheduler, "scan", harness.app.scanner, "scan", lambda: scheduler.request(""))


def observer_supervisor(harness: Harness) -> FaultCase:
    app = harness.app
    observer = TreeObserver(
        app.tree.root,
        NO_CALLBACKS,
    )
    worker = ObserverSupervisor(
        app.tree,
        observer,
        request_full_scan=lambda: None,
        root_returned=lambda: None,
        supervisor=app.supervisor,
        metrics=app.context.metrics,
    )
    return FaultCase(worker, "observer supervisor", worker, "_check_root", worker.wake)


def claims(harness: Harness) -> FaultCase:
    runner = harness.app.runners[State.VERIFIED]
    return FaultCase(runner, "publish claims", harness.app.ledger, "claim")


def stage_worker(harness: Harness) -> FaultCase:
    runner, ledger = harness.app.runners[State.VERIFIED], harness.app.ledger
    for number in range(MAX_FAILURES):
        enqueue(ledger, f"v/{number}_720p.mp4")
    for row in claim(ledger):
        advance_to(ledger, row, State.VERIFIED)
    return FaultCase(runner, "publish-1", runner, "_advance")


def invalidator(harness: Harness) -> FaultCase:
    invalidations = Invalidations(harness.app.context.database, "test")
    worker = Invalidator(
        cast("Distribution", None),
        invalidations,
        supervisor=harness.app.supervisor,
        metrics=harness.app.context.metrics,
    )
    return FaultCase(worker, "invalidation", invalidations, "unsent")


def disk_pressure(harness: Harness) -> FaultCase:
    return FaultCase(harness.app.disk_pressure, "disk", harness.app.disk_pressure, "_measure")


def abandoned_multiparts(harness: Harness) -> FaultCase:
    return FaultCase(
        harness.app.abandoned_multiparts,
        "abandoned multiparts",
        harness.app.abandoned_multiparts,
        "adopt_or_abort",
    )


def catalog_thread(harness: Harness) -> FaultCase:
    gate = CatalogStub()
    worker = CatalogThread(
        cast("CatalogGate", gate),
        cast("Republisher", gate),
        supervisor=harness.app.supervisor,
    )
    return FaultCase(worker, "catalog", gate, "admit_waiting")


def orphans(harness: Harness) -> FaultCase:
    app = harness.app
    MissingRows(app.ledger.database, app.ledger.instance).record_look(Look(1, app.ledger.now()))
    worker = Orphans(
        cast("CompressorCatalog", None),
        app.ledger,
        app.context.store,
        app.context.naming,
        app.policy,
        deletes=True,
        supervisor=app.supervisor,
    )
    return FaultCase(worker, "orphans", worker, "run_due")


FAULT_CASES = [
    settler,
    scan_scheduler,
    observer_supervisor,
    claims,
    stage_worker,
    invalidator,
    disk_pressure,
    abandoned_multiparts,
    catalog_thread,
    orphans,
]


@contextmanager
def failing(
    harness: Harness, make: Callable[[Harness], FaultCase], monkeypatch: pytest.MonkeyPatch, times: int
) -> Iterator[tuple[FaultCase, Fault]]:
    """A worker that was started, whose step then fails so many times."""
    harness.app.supervisor._backoff = NO_BACKOFF
    case, fault = make(harness), Fault(0)
    if not isinstance(case.worker, ObserverSupervisor):
        fault.times = times
    fault.install(monkeypatch, case.owner, case.method)
    case.worker.start()
    if isinstance(case.worker, ObserverSupervisor):
        # Its first check is made by the caller of `start`.
        fault.times = times
    try:
        yield case, fault
    finally:
        assert stop_all([case.worker], WAIT_SECONDS)


@pytest.mark.parametrize("make", FAULT_CASES)
def test_every_thread_survives_an_unforeseen_exception(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, make: Callable[[Harness], FaultCase]
) -> None:
    supervisor = harness.app.supervisor
    with capture_logs() as logs, failing(harness, make, monkeypatch, 1) as (case, fault):

        def works_again() -> bool:
            if not supervisor.internal_errors() or not fault.worked.is_set():
                case.provoke()
                return False
            return True

        until(works_again)
        assert supervisor.liveness.stalled() == []
    (error,) = supervisor.internal_errors()
    assert error.thread.startswith(case.thread)
    assert (error.error, error.count) == (ERROR, 1)
    (line,) = [line for line in logs if line["event"] == "internal_error"]
    assert (line["thread"], line["error"], line["log_level"]) == (error.thread, ERROR, "error")
    counted = harness.app.context.metrics.registry.get_sample_value(
        "video_uploader_internal_errors_total", {"thread": error.thread}
    )
    assert counted == 1
    assert supervisor.reason_to_stop is None


@pytest.mark.parametrize("make", FAULT_CASES)
def test_every_thread_that_fails_five_times_is_a_reason_to_stop(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, make: Callable[[Harness], FaultCase]
) -> None:
    supervisor = harness.app.supervisor
    notified = threading.Event()
    supervisor.on_reason_to_stop(notified.set)
    with capture_logs(), failing(harness, make, monkeypatch, 1000) as (case, _):

        def has_reason_to_stop() -> bool:
            case.provoke()
            return notified.is_set()

        until(has_reason_to_stop)
    assert supervisor.reason_to_stop is not None
    assert case.thread in supervisor.reason_to_stop
    assert ERROR in supervisor.reason_to_stop


def test_a_path_whose_check_raised_is_checked_again_when_it_is_reported_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not count as one that is being checked."""
    with capture_logs(), failing(harness, settler, monkeypatch, 1) as (_, fault):
        harness.app.settler.check("a.mp4")
        until(harness.app.supervisor.internal_errors)
        until(lambda: len(harness.app.settler) == 0)
        harness.app.settler.check("a.mp4")
        assert fault.worked.wait(WAIT_SECONDS)


def test_a_full_scan_that_raised_is_repeated_soon(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = harness.app.scan_scheduler
    now = time.monotonic()
    scheduler._clock = lambda: now
    with capture_logs(), failing(harness, scan_scheduler, monkeypatch, 1) as (_, fault):
        until(harness.app.supervisor.internal_errors)
        assert not scheduler.first_scan_done.is_set()
        now += 5
        scheduler.wake()
        assert fault.worked.wait(WAIT_SECONDS)
        assert scheduler.first_scan_done.wait(WAIT_SECONDS)


def test_a_thread_that_another_one_adds_while_they_are_started_is_started_once(
    fixture: SupervisorFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = threading.Event()
    worker = Worker(fixture.supervisor, "threads")

    def add() -> float:
        if not added.is_set():
            worker.add_thread("second", lambda: 60.0, patience=60.0, is_started=True)
            added.set()
        return 60.0

    first = worker.add_thread("first", add, patience=60.0)
    start = first.start

    def start_and_wait() -> None:
        start()
        assert added.wait(WAIT_SECONDS)

    monkeypatch.setattr(first, "start", start_and_wait)
    worker.start()
    assert len(worker._threads) == 2
    worker.request_stop()
    assert worker.join(WAIT_SECONDS)
