"""Runs one stage: claims due rows, hands them to workers, renews the claims, and obeys the breaker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog

from db import SMALL_BYTES, DatabaseError, Ledger, LockNotAvailableError, State, Upload
from watcher.errors import Code, failure_of
from watcher.stages.error_policy import ErrorPolicy
from watcher.supervision.background_thread import BackgroundThread, Supervisor, Worker
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

MAX_WAIT_SECONDS = 30.0
"""The ledger is queried at least this often, because another process may have changed it."""

LOCKED_SECONDS = 0.25
"""Between two queries while the only due rows are locked."""

SMALL_SECONDS = 2.0
"""Between two queries for a small file that becomes due after an error, while large ones are under way."""

GATHER_SECONDS = 0.05
"""Between two claims while at least `GATHER_FROM` batches are under way: several rows cost what one does."""
GATHER_FROM = 4

BRIEF_BYTES = 1024 * 1024
"""The work on a file up to this size is mostly Python code, not reading and sending it."""

PLAYABLE_FOR = timedelta(minutes=15)
"""For how long an upload may be due until it has a share of the places, whatever is there of other videos."""

DATABASE_BACKOFF = Backoff(base=0.5, factor=2.0, cap=15.0)
"""Between two queries of a database that does not answer."""


class Stage(Protocol):
    """One step of the processing of a row; `advance` must be safe to repeat after a crash at any point."""

    name: str
    state: State
    patience_seconds: float
    """How many seconds an attempt may take between two beats before it counts as stuck."""

    def is_enabled(self) -> bool:
        """Whether the policy enables this stage: always, unless a setting disables it."""
        return True

    @property
    def longest_delay(self) -> timedelta:
        """How far ahead the stage plans a row when nothing fails."""
        return timedelta(0)

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance claimed rows, each inside ``with work.error_policy.handling(upload)``."""
        ...


class Publisher(Protocol):
    """Publishes uploads within the transaction that verifies them."""

    def is_ready(self, upload: Upload) -> bool | None:
        """Whether the path holds the upload's content; None if the publish stage has to publish it."""

    def publish_verified(self, upload: Upload, *, is_current: bool) -> str | None:
        """Publish an upload and return its URL; None if the publish stage has to."""

    def announce(self, upload: Upload, public_url: str) -> None:
        """Tell that an upload is published, once that is committed."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage needs while it works: its error policy, stop requests, and its heartbeat."""

    error_policy: ErrorPolicy
    stopped: Callable[[], bool]
    beat: Callable[[], None]
    wait: Callable[[float], bool]
    """Wait for some seconds; True if a stop was requested before they were over."""
    asks_first: bool = False
    """Whether a cheap request should precede expensive work, because the server may be away."""
    running: Callable[[], AbstractContextManager[None]] = nullcontext
    """The context of brief steps that other threads do for the stage."""
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    """The context of a wait for such a thread."""
    publisher: Publisher | None = None
    """Publishes what is verified in the same transaction; None leaves it to the publish stage."""


class StageRunner(Worker):
    """The threads of one stage: one claims rows, and `threads` of them work.

    Each works on a batch of up to `batch` rows at a time. A claim that is not renewed within `lease` expires.
    So many `small_threads` more are there for files of at most `db.SMALL_BYTES`, which wait for answers most
    of the time, and do not wait until a large one is done. All but one of them are used only while the server
    is known to answer, so that one that is away is not asked by tens. Apart from that the rows that were due
    first are first, so that large files always have the other threads.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        ledger: Ledger,
        error_policy: ErrorPolicy,
        supervisor: Supervisor,
        lease: timedelta,
        threads: int,
        batch: int = 1,
        small_threads: int = 0,
    ) -> None:
        super().__init__(supervisor, f"{stage.name} threads")
        self.stage = stage
        self._lease = lease
        self._ledger = ledger
        self.error_policy = error_policy
        self.breaker = error_policy.breaker
        self._max_large = threads
        self._small_threads = small_threads
        self._batch = batch
        self.publisher: Callable[[], Publisher | None] = lambda: None
        """Returns what publishes at once what is verified; set once there is a publish stage."""
        self.playable_for: timedelta | None = None
        """With it, videos of which nothing is uploaded come first, as `Ledger.claim` says."""
        self._lock = threading.Lock()
        self._in_flight: dict[int, Upload] = {}
        self._renewed_at: datetime | None = None
        self._seconds_to_renewal = self._renewal_seconds
        self._probe: int | None = None
        self._busy = 0
        self._database_failures = 0
        self._is_claiming = False
        self.clock: Callable[[], float] = time.monotonic
        """Gives monotonic seconds."""
        self._claimed_at = float("-inf")
        self._has_taken_all = False
        """Whether the last claim left nothing that it could have taken."""
        self._is_gathering = False
        """Whether the next claim comes within `GATHER_SECONDS` without a wake-up."""
        self._batches: queue.SimpleQueue[Sequence[Upload]] = queue.SimpleQueue()
        self._idle: list[BackgroundThread] = []
        """The threads that wait for a batch; the last one that had work is the first to have some again."""
        self._claimer = self.add_thread(
            f"{stage.name} claims",
            self._claim_step,
            patience=4 * MAX_WAIT_SECONDS,
            at_end=self._stop_workers,
            is_brief=True,
        )
        self._workers: list[BackgroundThread] = []
        for _ in range(threads):
            self._add_worker()

    def _add_worker(self, *, is_started: bool = False) -> None:
        number = len(self._workers)
        work = partial(self._run_batches, number)
        # At the end once more: the claimer may hand over a last batch after the stop was requested.
        worker = self.add_thread(
            f"{self.stage.name}-{number + 1}",
            work,
            patience=self.stage.patience_seconds,
            at_end=work,
            is_started=is_started,
        )
        self._workers.append(worker)

    def request_stop(self) -> None:
        """Claim nothing more and interrupt what is under way; the workers end after the claiming thread."""
        self._claimer.request_stop()

    def wake(self) -> None:
        """Query the ledger now, because there may be work; in a moment while that is due anyway."""
        if not self._is_gathering or self._busy < GATHER_FROM:
            self._claimer.wake()

    @property
    def is_idle(self) -> bool:
        """Whether no batch is under way or being claimed; a row in between is neither due nor busy."""
        with self._lock:
            return not self._busy and not self._is_claiming

    @property
    def busy(self) -> int:
        """How many batches are under way."""
        return self._busy

    @property
    def in_flight(self) -> frozenset[tuple[int, int]]:
        """The uploads that are being worked on, each as its id and the number of its claim."""
        with self._lock:
            return frozenset((row.id, row.claim) for row in self._in_flight.values())

    @property
    def horizon(self) -> timedelta:
        """The furthest that a row's `due_at` can lie ahead unless a clock was changed."""
        return max(self.stage.longest_delay, self.error_policy.backoff.longest)

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.request_stop()

    def _claim_step(self) -> float:
        self._is_claiming, self._is_gathering = True, False
        try:
            wait = self._claim()
            self._database_failures = 0
        except DatabaseError as exc:
            self.breaker.trip(failure_of(exc))
            wait = DATABASE_BACKOFF.delay(self._database_failures).total_seconds()
            self._database_failures += 1
        finally:
            self._is_claiming = False
        # Claims that are under way have to be renewed in time.
        return min(wait, self._seconds_to_renewal) if self._busy else wait

    def _claim(self) -> float:
        """Claim what the threads can take; returns the seconds to wait before the next call."""
        self._renew()
        self.breaker.settle_suspicion(has_others=True)
        if hastened := self.breaker.take_hastened():
            self._ledger.end_backoff(hastened)
        self._return_unrecorded()
        if not self.stage.is_enabled():
            return MAX_WAIT_SECONDS
        takes_small = False
        while (free := self._free_threads()) > 0 and not self._claimer.stopping.is_set():
            if self.breaker.is_doubted:
                return self._claim_probe()
            if (left := self._gathering_seconds()) > 0:
                self._is_gathering = True
                return left
            for_any = min(free, self._max_large - self._large_files()) if self._small_threads else free
            small_only = takes_small or for_any <= 0
            limit = (free if small_only else for_any) * self._batch
            claimed = self._hand_over(limit, small_only=small_only)
            if not claimed and not takes_small:
                return SMALL_SECONDS if small_only else self._seconds_to_next()
            self._has_taken_all = 0 < claimed < limit
            # Those that were due first may be large. For the other threads one claim takes what is small.
            takes_small = not small_only and claimed == limit and self._small_threads > 0
        return self._renewal_seconds

    def _gathering_seconds(self) -> float:
        """For how long nothing is claimed, so that the next claim has more rows.

        0 if there was more to claim than threads asked for, and they do not wait for each other already.
        """
        if self._busy < GATHER_FROM or not (self._has_taken_all or self._supervisor.is_contended()):
            return 0.0
        return max(0.0, self._claimed_at + GATHER_SECONDS - self.clock())

    def _free_threads(self) -> int:
        """How many more batches may be under way: few until the server is known to answer."""
        if not self.breaker.is_unproven:
            return self._max_large + self._small_threads - self._busy
        if self._batch > 1:
            return 1 - self._busy
        return self._max_large + min(self._small_threads, 1) - self._busy

    def _large_files(self) -> int:
        with self._lock:
            return sum(row.size > SMALL_BYTES for row in self._in_flight.values())

    def _claim_probe(self) -> float:
        """Claim one row while no other one is a probe, if possible another than those that have failed."""
        breaker = self.breaker
        if self._probe is not None:
            return self._renewal_seconds
        if breaker.may_try_another and self._hand_over(1, other_than=breaker.tried):
            return self._renewal_seconds
        breaker.settle_suspicion(has_others=self._busy > 0)
        to_probe = breaker.seconds_to_probe()
        if to_probe is None:
            return MAX_WAIT_SECONDS
        if to_probe > 0:
            return min(max(to_probe, 0.1), MAX_WAIT_SECONDS)
        return self._renewal_seconds if self._hand_over(1) else self._seconds_to_next()

    def _hand_over(
        self, limit: int, *, other_than: Collection[int] | None = None, small_only: bool = False
    ) -> int:
        """Claim rows for as many workers as they take; returns how many could be claimed."""
        is_probe = self.breaker.is_doubted
        rows = self._ledger.claim(
            self.stage.state,
            # The doubt may have come since the last look.
            min(limit, self._batch) if is_probe else limit,
            lease=self._lease,
            horizon=self.horizon,
            other_than=other_than,
            small_only=small_only,
            playable_for=self.playable_for,
        )
        if not rows:
            return 0
        self._claimed_at = self.clock()
        batches = [rows[first : first + self._batch] for first in range(0, len(rows), self._batch)]
        with self._lock:
            self._busy += len(batches)
            self._in_flight.update({row.id: row for row in rows})
            if is_probe:
                self._probe = rows[0].id
        for batch in batches:
            self.breaker.began(batch[0].id)
            with self._lock:
                self._batches.put(batch)
                # A thread that is not idle looks for a batch before it is.
                if self._idle:
                    self._idle.pop().wake()
                elif len(self._workers) < self._busy:
                    self._add_worker(is_started=True)
        return len(rows)

    def _seconds_to_next(self) -> float:
        due = self._ledger.next_due(self.stage.state, horizon=self.horizon)
        now = self._ledger.now()
        if due is None or due > now + self._lease:
            # The database answers again, and there is no row whose success could clear the breaker.
            self.breaker.clear(Code.DATABASE)
        if due is None:
            return MAX_WAIT_SECONDS
        if due <= now:
            # Due, and not claimable: another session has locked its row.
            return LOCKED_SECONDS
        return min(MAX_WAIT_SECONDS, max(0.01, (due - now).total_seconds()))

    @property
    def _renewal_seconds(self) -> float:
        """Between two renewals of a claim; two of them may fail before it expires."""
        return self._lease.total_seconds() / 3

    def _renew(self) -> None:
        """Renew the claims if a third of their lease is over, by the ledger's clock."""
        now = self._ledger.now()
        if self._renewed_at is not None:
            left = self._renewed_at + self._lease / 3 - now
            if timedelta(0) < left <= self._lease / 3:
                self._seconds_to_renewal = left.total_seconds()
                return
        with self._lock:
            in_flight = list(self._in_flight.values())
        self._seconds_to_renewal = self._renewal_seconds
        if in_flight:
            self._ledger.renew_claims(in_flight, self._lease)
        # Before what is claimed from now on, whose lease is therefore never shorter.
        self._renewed_at = now

    def _return_unrecorded(self) -> None:
        """Make the rows due whose decision could not be recorded, now that the database answers again."""
        unrecorded = self.error_policy.unrecorded
        for _ in range(unrecorded.qsize()):
            upload = unrecorded.get()
            with self._lock:
                is_under_way = upload.id in self._in_flight
            if is_under_way:
                unrecorded.put(upload)
                continue
            try:
                self._ledger.return_claim(upload)
            except LockNotAvailableError:
                continue
            except DatabaseError:
                unrecorded.put(upload)
                raise

    def _run_batches(self, number: int) -> None:
        """Advance the batches that were claimed; a wake-up announces the next ones."""
        with self._lock:
            thread = self._workers[number]
        while (rows := self._next_batch(thread)) is not None:
            thread.beat()
            try:
                self._advance(rows, thread)
            finally:
                with self._lock:
                    self._busy -= 1
                    for row in rows:
                        self._in_flight.pop(row.id, None)
                        if row.id == self._probe:
                            self._probe = None
                self.breaker.ended(rows[0].id)
                self.wake()

    def _next_batch(self, thread: BackgroundThread) -> Sequence[Upload] | None:
        with self._lock:
            try:
                return self._batches.get_nowait()
            except queue.Empty:
                if thread not in self._idle:
                    self._idle.append(thread)
                return None

    def _advance(self, rows: Sequence[Upload], thread: BackgroundThread) -> None:
        supervisor, stopping = self._supervisor, self._claimer.stopping
        is_brief = all(row.size <= BRIEF_BYTES for row in rows)

        def wait(seconds: float) -> bool:
            with supervisor.waiting():
                return stopping.wait(seconds)

        work = Work(
            error_policy=self.error_policy,
            stopped=stopping.is_set,
            beat=thread.beat,
            wait=wait,
            running=supervisor.running if is_brief else nullcontext,
            waiting=supervisor.waiting,
            asks_first=self.breaker.is_unproven,
            publisher=self.publisher(),
        )
        try:
            with work.running():
                self.stage.advance(rows, work)
        except Exception as exc:  # a row's error must not keep the thread from the next row
            log.exception("internal_error", stage=self.stage.name, uploads=[row.id for row in rows])
            for row in rows:
                self.error_policy.postpone_after_bug(row, exc)
