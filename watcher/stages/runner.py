"""Runs one stage: claims its due rows, hands them to its threads, keeps the claims fresh, minds the pause."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from db import ClaimLostError, Database, DatabaseError, Ledger, State, Upload
from watcher.errors import Code, Failure, failure_of
from watcher.stages.error_policy import ErrorPolicy
from watcher.supervision.backoff import Backoff
from watcher.supervision.liveness import Liveness, Pulse
from watcher.supervision.workers import join_all

log = structlog.get_logger()

LONGEST_WAIT_SECONDS = 30.0
"""The ledger is asked this often even if nobody wakes the runner: another process may have changed it."""

DATABASE_BACKOFF = Backoff(base=0.5, factor=2.0, cap=15.0)
"""How long a database that is away is left alone between two tries."""


class Stage(Protocol):
    """One step of a row's way; `advance` must be safe to run again after a crash at any point of it."""

    name: str
    state: State
    patience_seconds: float
    """How long an attempt may go without a sign of progress before it counts as stuck."""

    def is_enabled(self) -> bool:
        """Whether the policy wants this stage to work at all."""
        ...

    @property
    def horizon(self) -> timedelta:
        """The furthest that a row's `due_at` can lie ahead; beyond it a clock must have jumped."""
        ...

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance claimed rows, each inside ``with work.error_policy.handling(upload)``."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage needs while it works: its guard, and whether it is time to stop."""

    error_policy: ErrorPolicy
    stopped: Callable[[], bool]
    beat: Callable[[], None]
    wait: Callable[[float], bool]
    """Wait so many seconds; True if it was time to stop before they were over."""


class StageRunner:
    """The threads of one stage.

    `threads` batches of up to `batch` rows are under way at once; a claim that is not renewed for as long as
    `lease` is anybody's again.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        database: Database,
        ledger: Ledger,
        error_policy: ErrorPolicy,
        liveness: Liveness,
        lease: timedelta,
        threads: int,
        batch: int = 1,
    ) -> None:
        self.stage = stage
        self._lease = lease
        self._database = database
        self._ledger = ledger
        self.error_policy = error_policy
        self.breaker = error_policy.breaker
        self._liveness = liveness
        self._slots = threads
        self._batch = batch
        self._changed = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._in_flight: dict[int, Upload] = {}
        self._busy = 0
        self._database_failures = 0
        self._is_claiming = False
        self._batches: queue.SimpleQueue[Sequence[Upload] | None] = queue.SimpleQueue()
        self._workers = [
            threading.Thread(target=self._work, name=f"{stage.name}-{number}", daemon=True)
            for number in range(1, threads + 1)
        ]
        self._claimer = threading.Thread(
            target=self._claim_until_stopped, name=f"{stage.name}-claims", daemon=True
        )

    def start(self) -> None:
        """Begin to claim and work."""
        for thread in (self._claimer, *self._workers):
            thread.start()
        self._liveness.add_check(f"{self.stage.name} threads", self._threads_live)

    def request_stop(self) -> None:
        """Claim nothing more and interrupt what is under way."""
        self._stopping.set()
        self.wake()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds in all for the threads to end; False if one is still stuck."""
        return join_all((self._claimer, *self._workers), timeout)

    def wake(self) -> None:
        """There may be work: ask the ledger now."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, nor being claimed: between the two a row is neither due nor busy."""
        with self._changed:
            return not self._busy and not self._is_claiming

    @property
    def busy(self) -> int:
        """How many batches are under way."""
        return self._busy

    def _threads_live(self) -> bool:
        return self._stopping.is_set() or all(thread.is_alive() for thread in (self._claimer, *self._workers))

    def _claim_until_stopped(self) -> None:
        pulse = self._liveness.pulse(f"{self.stage.name} claims", 4 * LONGEST_WAIT_SECONDS)
        with self._database.session():
            while not self._stopping.is_set():
                pulse.beat()
                self._is_claiming = True
                try:
                    wait = self._claim()
                    self._database_failures = 0
                except DatabaseError as exc:
                    self._report_trouble(failure_of(exc))
                    wait = DATABASE_BACKOFF.delay(self._database_failures).total_seconds()
                    self._database_failures += 1
                with self._changed:
                    self._is_claiming = False
                    if self._busy:
                        # Whatever else there is to wait for, what is under way has to be renewed in time.
                        wait = min(wait, self._renewal_seconds)
                    if not self._woken:
                        self._changed.wait(wait)
                    self._woken = False
        pulse.stop()
        for _ in self._workers:
            self._batches.put(None)

    def _claim(self) -> float:
        """Claim what there is room for; returns how many seconds to wait before asking again."""
        self._renew()
        if not self.stage.is_enabled():
            return LONGEST_WAIT_SECONDS
        free = self._slots - self._busy
        to_probe = self.breaker.seconds_to_probe()
        if to_probe is not None:
            if to_probe > 0 or self._busy:
                return min(max(to_probe, 0.1), LONGEST_WAIT_SECONDS)
            free = 1
        while free > 0 and not self._stopping.is_set():
            limit = 1 if to_probe is not None else self._batch
            rows = self._ledger.claim(
                self.stage.state,
                limit,
                lease=self._lease,
                horizon=self.stage.horizon,
            )
            if not rows:
                return self._seconds_to_next()
            with self._changed:
                self._busy += 1
                self._in_flight.update({row.id: row for row in rows})
            self._batches.put(rows)
            free -= 1
        return self._renewal_seconds

    def _seconds_to_next(self) -> float:
        due = self._ledger.next_due(self.stage.state, horizon=self.stage.horizon)
        now = self._ledger.now()
        if due is None or due > now + self._lease:
            self._recover_without_probe()
        if due is None:
            return LONGEST_WAIT_SECONDS
        return min(LONGEST_WAIT_SECONDS, max(0.01, (due - now).total_seconds()))

    @property
    def _renewal_seconds(self) -> float:
        """How often claims are renewed: a database may miss two of them."""
        return self._lease.total_seconds() / 3

    def _recover_without_probe(self) -> None:
        """The database answers again, and no row is there, or held, whose success would say so."""
        failure = self.breaker.failure
        if failure is not None and failure.code == Code.DATABASE and self.breaker.clear():
            log.info("stage_resumed", stage=self.stage.name)

    def _renew(self) -> None:
        with self._changed:
            in_flight = list(self._in_flight.values())
        if in_flight:
            self._ledger.renew_claims(in_flight, self._lease)

    def _report_trouble(self, failure: Failure) -> None:
        if self.breaker.trip(failure):
            log.error("stage_paused", stage=self.stage.name, code=failure.code, reason=failure.sentence)

    def _work(self) -> None:
        pulse = self._liveness.pulse(threading.current_thread().name, self.stage.patience_seconds)
        with self._database.session():
            while True:
                pulse.idle()
                rows = self._batches.get()
                if rows is None:
                    break
                pulse.beat()
                try:
                    self._advance(rows, pulse)
                finally:
                    with self._changed:
                        self._busy -= 1
                        for row in rows:
                            self._in_flight.pop(row.id, None)
                    self.wake()
        pulse.stop()

    def _advance(self, rows: Sequence[Upload], pulse: Pulse) -> None:
        work = Work(
            error_policy=self.error_policy,
            stopped=self._stopping.is_set,
            beat=pulse.beat,
            wait=self._stopping.wait,
        )
        try:
            self.stage.advance(rows, work)
        except Exception as exc:  # the last line of defence: one row must not end the thread
            log.exception("internal_error", stage=self.stage.name, uploads=[row.id for row in rows])
            self._postpone_after_bug(rows, exc)

    def _postpone_after_bug(self, rows: Sequence[Upload], exc: Exception) -> None:
        sentence = (
            f"An error nobody foresaw ({type(exc).__name__}: {exc}); the log has its trace, please report it."
        )
        for row in rows:
            try:
                self._ledger.postpone(
                    row, delay=self.error_policy.backoff.longest, error=sentence, error_code=Code.INTERNAL
                )
            except (ClaimLostError, DatabaseError):
                log.warning("postpone_failed", upload=row.id)
