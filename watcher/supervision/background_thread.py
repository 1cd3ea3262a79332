"""Background threads: their loop, their supervision, their restart after an unforeseen exception, their end.

The restart limit works as in OTP: https://www.erlang.org/doc/system/sup_princ.html#maximum-restart-intensity
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from watcher.errors import Failure
from watcher.supervision.backoff import Backoff
from watcher.supervision.liveness import Liveness
from watcher.telemetry import Metrics, printable, redact

log = structlog.get_logger()

MAX_FAILURES = 5
"""A thread that fails this often within `FAILURE_WINDOW_SECONDS` is not restarted: the process has to end."""
FAILURE_WINDOW_SECONDS = 600.0
RESTART_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)

Step = Callable[[], float | None]
"""Does what is due. Returns the seconds until the next call; None waits for `BackgroundThread.wake`."""


@dataclass(frozen=True, slots=True)
class InternalError:
    """The last unforeseen exception of a thread, and how many it has had since the process started."""

    thread: str
    error: str
    at: datetime
    count: int
    recent: int
    """How many of them were within the last `FAILURE_WINDOW_SECONDS`."""

    def __str__(self) -> str:
        return f"internal error in thread {self.thread}: {self.error}"


@dataclass(frozen=True, slots=True)
class SetAside:
    """How many items of a kind an exception has set aside, and the latest exception."""

    items: str
    count: int
    error: str


class Supervisor:
    """What the background threads of a process share: liveness, database sessions, and restarts.

    `session` is the context in which each thread works, `running` that of each brief step, and `waiting` that
    of a wait within one. `is_contended` tells whether threads may be waiting to run. `clock` gives monotonic
    seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
        running: Callable[[], AbstractContextManager[None]] = nullcontext,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        is_contended: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff = RESTART_BACKOFF,
    ) -> None:
        self.liveness = Liveness(clock)
        self.session = session
        self.running = running
        self.waiting = waiting
        self.is_contended = is_contended
        self._metrics = metrics
        self._clock = clock
        self._backoff = backoff
        self._lock = threading.Lock()
        self._errors: dict[str, InternalError] = {}
        self._failed_at: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MAX_FAILURES))
        self._set_aside: dict[str, Callable[[], SetAside | None]] = {}
        self._reason_to_stop: str | None = None
        self._notify: Callable[[], None] = lambda: None

    def on_reason_to_stop(self, notify: Callable[[], None]) -> None:
        """Have `notify` called, in the thread that failed, when `reason_to_stop` is set."""
        self._notify = notify

    @property
    def reason_to_stop(self) -> str | None:
        """Why the process has to end, as a phrase; None while every thread runs or is restarted."""
        return self._reason_to_stop

    def internal_errors(self) -> list[InternalError]:
        """The last internal error of each thread that has had one, oldest first."""
        with self._lock:
            return sorted(self._errors.values(), key=lambda error: error.at)

    def record(self, thread: str, exc: Exception) -> InternalError:
        """Count an unforeseen exception of a thread."""
        now = self._clock()
        with self._lock:
            failed_at = self._failed_at[thread]
            failed_at.append(now)
            before = self._errors.get(thread)
            error = self._errors[thread] = InternalError(
                thread,
                error=redact(printable(f"{type(exc).__name__}: {exc}")),
                at=datetime.now(UTC),
                count=1 if before is None else before.count + 1,
                recent=sum(now - moment <= FAILURE_WINDOW_SECONDS for moment in failed_at),
            )
        self._metrics.internal_errors.labels(thread=thread).inc()
        return error

    def count_from_zero(self, thread: str) -> None:
        """Have a thread in the metrics before it has failed."""
        self._metrics.internal_errors.labels(thread=thread)
        self._metrics.thread_restarts.labels(thread=thread)

    def set_aside(self) -> list[SetAside]:
        """The items that are set aside at present, by kind."""
        with self._lock:
            kinds = list(self._set_aside.values())
        return [found for kind in kinds if (found := kind()) is not None]

    def report_set_aside(self, items: str, kind: Callable[[], SetAside | None]) -> None:
        """Have `kind` asked which items of that name are set aside; None stands for none."""
        with self._lock:
            self._set_aside[items] = kind

    def seconds_to_restart(self, error: InternalError) -> float | None:
        """The backoff after an error; None, and a reason to stop the process, after too many of them."""
        if error.recent < MAX_FAILURES:
            self._metrics.thread_restarts.labels(thread=error.thread).inc()
            return self._backoff.delay(error.recent - 1).total_seconds()
        self._reason_to_stop = (
            f"thread {error.thread} failed {error.recent} times within "
            f"{FAILURE_WINDOW_SECONDS / 60:.0f} minutes, most recently with {error.error}"
        )
        self._notify()
        return None


class BackgroundThread:
    """Calls `step` until it is stopped; an exception that `step` raises restarts the thread after a backoff.

    `patience` is how many seconds a step may take between two beats before it counts as a stall. `at_end` is
    called in the thread after the last step. With `is_brief` its steps run in turn with those of other such
    threads (`watcher.supervision.run_queue`). `KeyboardInterrupt` and `SystemExit` end the thread.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        step: Step,
        *,
        patience: float,
        at_end: Callable[[], object] = lambda: None,
        is_brief: bool = False,
    ) -> None:
        self.name = name
        self.stopping = threading.Event()
        self._supervisor = supervisor
        self._step = step
        self._at_end = at_end
        self._running = supervisor.running if is_brief else nullcontext
        self._woken = threading.Event()
        supervisor.count_from_zero(name)
        self._pulse = supervisor.liveness.pulse(name, patience)
        self._pulse.idle()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a first step."""
        self._thread.start()

    def wake(self) -> None:
        """End the wait before the next step; a call during a step is not lost."""
        self._woken.set()

    def beat(self) -> None:
        """Note progress within a step, in the thread itself."""
        self._pulse.beat()

    def request_stop(self) -> None:
        """Begin no further step."""
        self.stopping.set()
        self._woken.set()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end; False if the thread still runs."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread was started and has not ended; it is alive while it waits for a restart."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._completes(self._loop):
                continue
        finally:
            self._completes(self._at_end)
            self._pulse.stop()

    def _completes(self, work: Callable[[], object]) -> bool:
        """Whether `work` is over; False if it failed and, after the backoff, has to be repeated."""
        self.beat()
        try:
            with self._supervisor.session():
                work()
        except Exception as exc:  # the last line of defence: a thread must not end without a trace
            self._pulse.idle()
            error = self._supervisor.record(self.name, exc)
            log.exception("internal_error", thread=self.name, error=error.error, attempts=error.recent)
            delay = self._supervisor.seconds_to_restart(error)
            if delay is not None:
                self.stopping.wait(delay)
                return False
        return True

    def _loop(self) -> None:
        while not self.stopping.is_set():
            self.beat()
            with self._running():
                wait = self._step()
            self._pulse.idle()
            self._woken.wait(wait)
            # Cleared before the step, so that a wake-up during the step is kept.
            self._woken.clear()


class Worker:
    """Base of what works in background threads of its own.

    `check` is the name of the liveness check that fails when a thread ends without a stop request.
    """

    def __init__(self, supervisor: Supervisor, check: str) -> None:
        self._supervisor = supervisor
        self._liveness_check = check
        self._threads: list[BackgroundThread] = []

    def add_thread(
        self,
        name: str,
        step: Step,
        *,
        patience: float,
        at_end: Callable[[], object] = lambda: None,
        is_started: bool = False,
        is_brief: bool = False,
    ) -> BackgroundThread:
        """Add a thread, which `start` starts; with `is_started` it starts now, because `start` was called."""
        thread = BackgroundThread(
            self._supervisor, name, step, patience=patience, at_end=at_end, is_brief=is_brief
        )
        if is_started:
            thread.start()
        # From now on it has to be alive.
        self._threads.append(thread)
        return thread

    def start(self) -> None:
        """Start the threads."""
        # One that runs may add others, which are started then.
        for thread in list(self._threads):
            thread.start()
        self._supervisor.liveness.add_check(self._liveness_check, self._runs_or_stops)

    def wake(self) -> None:
        """End the waits of all threads."""
        for thread in self._threads:
            thread.wake()

    def request_stop(self) -> None:
        """Begin nothing more, and interrupt what can be interrupted."""
        for thread in self._threads:
            thread.request_stop()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds in all for the threads to end; False if one still runs."""
        return _join_all(self._threads, timeout)

    def _runs_or_stops(self) -> bool:
        return any(thread.stopping.is_set() for thread in self._threads) or all(
            thread.is_alive for thread in self._threads
        )


def stop_all(workers: Sequence[Worker], timeout: float) -> bool:
    """Stop the workers within `timeout` seconds in all; False if one still runs."""
    for worker in workers:
        worker.request_stop()
    return _join_all(workers, timeout)


def _join_all(joined: Sequence[BackgroundThread | Worker], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    ended = [one.join(max(0.0, deadline - time.monotonic())) for one in joined]
    return all(ended)


class FailureState:
    """The failure that keeps something from working at present, logged once; safe for threads.

    `failed` logs a failure that is news: the first one, or one with another code. `recovered` logs its end.
    """

    def __init__(
        self, failed: Callable[[Failure], object], recovered: Callable[[], object] = lambda: None
    ) -> None:
        self._failed = failed
        self._recovered = recovered
        self._lock = threading.Lock()
        self._failure: Failure | None = None

    @property
    def current(self) -> Failure | None:
        """The failure; None while all is well."""
        return self._failure

    def fail(self, failure: Failure) -> None:
        """Note a failure."""
        with self._lock:
            is_news = self._failure is None or self._failure.code != failure.code
            self._failure = failure
        if is_news:
            self._failed(failure)

    def succeed(self) -> None:
        """Note a success."""
        with self._lock:
            had_failed, self._failure = self._failure is not None, None
        if had_failed:
            self._recovered()
