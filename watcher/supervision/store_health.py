"""Whether S3 can be used at all: one state for every stage, and the one thread that probes while it cannot.

A connection that cannot be made says nothing about a row: it concerns every one. So the stages are held: they
try no row meanwhile, and go on together after the first answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock

import structlog

from db import DatabaseError
from storage import UNUSABLE_CODES, StorageError
from watcher.errors import Failure, failure_of
from watcher.supervision.background_thread import Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.telemetry import Metrics

log = structlog.get_logger()

PROBE_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)
SUMMARY_SECONDS = 60.0
"""Between two lines of the log while S3 cannot be used."""
DOUBT_SECONDS = 60.0
"""How long after an answer to a probe other rows decide whether a refused connection concerns all."""
PATIENCE_SECONDS = 600.0


class StoreHealth(Worker):
    """The state of S3, which holds the stages while it is away.

    `look` makes a cheap request and raises `storage.StorageError`. `hasten` makes due what waits for S3 in
    the ledger and returns how many rows that were; `waiting` counts what has to be uploaded; both may raise
    `db.DatabaseError`. `clock` gives monotonic seconds, `now` the time in UTC.
    """

    def __init__(
        self,
        look: Callable[[], object],
        *,
        hasten: Callable[[], int],
        waiting: Callable[[], int],
        metrics: Metrics,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(supervisor, "S3 prober")
        self._look = look
        self._hasten = hasten
        self._waiting = waiting
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._lock = Lock()
        """Held while the state changes, the stages with it: one held after the end would be held for ever."""
        self._stages: Sequence[tuple[CircuitBreaker, Callable[[], None]]] = ()
        self._is_started = False
        self._failure: Failure | None = None
        self.since: datetime | None = None
        """Since when S3 cannot be used; None while it can."""
        self._began_at = self._summarised_at = self._probe_at = 0.0
        self._answered_at = float("-inf")
        self._probes = self._setbacks = 0
        self._thread = self.add_thread("S3 prober", self._step, patience=PATIENCE_SECONDS)

    def connect(self, stages: Sequence[tuple[CircuitBreaker, Callable[[], None]]]) -> None:
        """Set the stages that need S3: the breaker of each, and what wakes it."""
        self._stages = stages

    def start(self) -> None:
        """Start to probe; until then `report` holds nothing, because nothing would find out the end."""
        self._is_started = True
        super().start()

    @property
    def failure(self) -> Failure | None:
        """Why S3 cannot be used, with a sentence that says since when; None while it can."""
        return self._failure

    def report(self, failure: Failure, *, is_certain: bool = False) -> bool:
        """Note a failure; return whether it is held to concern everything, so that the stages are held.

        Shortly after S3 has answered a probe that is not believed of a single row: only some of its addresses
        may be out of order. `is_certain` says that others have failed alike.
        """
        if not self._is_started or not (failure.unreachable or failure.code in UNUSABLE_CODES):
            return False
        with self._lock:
            is_news = self._failure is None
            self._setbacks += 1
            if is_news:
                if not is_certain and self._clock() - self._answered_at < DOUBT_SECONDS:
                    return False
                self._begin()
            self._hold(failure)
        if is_news:
            self._metrics.store_reachable.set(0)
            log.error("store_away", code=failure.code, reason=self._described(failure).sentence)
            self._thread.wake()
        return True

    def look_soon(self) -> None:
        """Probe now if S3 cannot be used: something suggests that it can again."""
        self._probe_at = self._clock()
        self._thread.wake()

    def _begin(self) -> None:
        now = self._clock()
        self.since = self._now()
        self._began_at = self._summarised_at = now
        self._probe_at = now + PROBE_BACKOFF.ceiling(0)
        self._probes, self._setbacks = 0, 1

    def _hold(self, failure: Failure) -> None:
        self._failure = described = self._described(failure)
        for breaker, _ in self._stages:
            breaker.hold(described, sign=self.look_soon)

    def _described(self, failure: Failure) -> Failure:
        began, now = self.since or self._now(), self._now()
        since = f"{began:%H:%M} UTC" if began.date() == now.date() else f"{began:%Y-%m-%d %H:%M} UTC"
        sentence = (
            f"S3 does not answer since {since} ({failure.unreachable}). What waits for it goes on by itself "
            "when it answers. Check the server, the network and AWS_ENDPOINT_URL."
            if failure.unreachable
            else f"S3 refuses every request since {since}: {failure.sentence}"
        )
        return replace(failure, sentence=sentence)

    def _step(self) -> float | None:
        if self._failure is None:
            return None
        if self._clock() >= self._probe_at and self._answers():
            self._end()
            return None
        if self._clock() - self._summarised_at >= SUMMARY_SECONDS:
            self._summarise()
        due_at = min(self._probe_at, self._summarised_at + SUMMARY_SECONDS)
        return max(0.0, due_at - self._clock())

    def _answers(self) -> bool:
        try:
            self._look()
        except StorageError as exc:
            failure = failure_of(exc)
            if failure.unreachable or failure.is_outage or failure.code in UNUSABLE_CODES:
                self._probes += 1
                self._probe_at = self._clock() + PROBE_BACKOFF.ceiling(self._probes)
                if failure.unreachable or failure.code in UNUSABLE_CODES:
                    with self._lock:
                        self._hold(failure)
                return False
        return True

    def _summarise(self) -> None:
        self._summarised_at = self._clock()
        waiting = None
        with suppress(DatabaseError):
            waiting = self._waiting()
        reason = "" if self._failure is None else self._failure.sentence
        log.warning("store_still_away", **self._counts(), uploads=waiting, reason=reason)

    def _counts(self) -> dict[str, int]:
        seconds = round(self._clock() - self._began_at)
        return {"seconds": seconds, "probes": self._probes, "setbacks": self._setbacks}

    def _end(self) -> None:
        hastened = None
        with suppress(DatabaseError):
            hastened = self._hasten()
        with self._lock:
            self._failure = self.since = None
            self._answered_at = self._clock()
            for breaker, _ in self._stages:
                breaker.release()
        self._metrics.store_reachable.set(1)
        log.info("store_back", **self._counts(), hastened=hastened)
        for _, wake in self._stages:
            wake()
