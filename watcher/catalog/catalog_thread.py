"""The thread that queries the compressor's catalog: for the gate, and for reverted rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from db import DatabaseError
from watcher.catalog.gate import FRESH, CatalogGate
from watcher.catalog.republisher import Republisher
from watcher.errors import Failure, failure_of
from watcher.supervision.background_thread import FailureState, Supervisor, Worker
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

MIN_INTERVAL_SECONDS = 0.05
"""Between two queries of the gate just after a file has come to it."""
MAX_INTERVAL_SECONDS = 5.0
"""Between two queries for everything that waits, and for the rows just published."""
INTERVAL_DIVISOR = 20
"""The interval grows with the time since the last file came to the gate: it is that time divided by this."""
PATIENCE_SECONDS = 600.0
BACKOFF = Backoff(base=0.5, factor=2.0, cap=30.0)


class CatalogThread(Worker):
    """Queries the gate every 50 ms while there are fresh files, then at growing intervals of up to 5 s.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        gate: CatalogGate,
        republisher: Republisher,
        *,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, "catalog thread")
        self.gate = gate
        self.republisher = republisher
        self._clock = clock
        self._last_arrival: float | None = None
        self._all_due_at = clock()
        self._failures = 0
        self._failure = FailureState(
            lambda failure: log.error("catalog_unavailable", code=failure.code, reason=failure.sentence),
            lambda: log.info("catalog_recovered"),
        )
        self._thread = self.add_thread("catalog", self._step, patience=PATIENCE_SECONDS)

    def check_rows(self, video_id: str) -> None:
        """Check the gate and the rows of a video soon, because a file of the video was found."""
        self.republisher.watch(video_id)
        self.check_gate()

    def check_gate(self) -> None:
        """Query the gate soon, because a file has come to it."""
        self._last_arrival = self._clock()
        self.wake()

    @property
    def failure(self) -> Failure | None:
        """What keeps the catalog from being queried at present."""
        return self._failure.current

    def run_due(self) -> float:
        """Do what is due; returns the seconds to wait. Raises `db.DatabaseError`."""
        now = self._clock()
        if now >= self._all_due_at:
            self.gate.admit_waiting()
            self.republisher.check_recent()
            self.republisher.check_new()
            self._all_due_at = now + MAX_INTERVAL_SECONDS
        elif self._is_fresh(now):
            self.gate.admit_waiting(fresh_only=True)
            self.republisher.check_new(fresh_only=True)
        return self._seconds_to_wait(now)

    def _is_fresh(self, now: float) -> bool:
        return self._last_arrival is not None and timedelta(seconds=now - self._last_arrival) < FRESH

    def _seconds_to_wait(self, now: float) -> float:
        longest = max(0.0, self._all_due_at - now)
        if self._last_arrival is None:
            return longest
        return min(longest, max(MIN_INTERVAL_SECONDS, (now - self._last_arrival) / INTERVAL_DIVISOR))

    def _step(self) -> float:
        try:
            wait = self.run_due()
            self._failures = 0
            self._failure.succeed()
        except DatabaseError as exc:
            self._failure.fail(failure_of(exc))
            self._failures += 1
            wait = BACKOFF.delay(self._failures).total_seconds()
        # A file that comes to the gate ends the rest of the wait, but not this part of it.
        self._thread.stopping.wait(min(wait, MIN_INTERVAL_SECONDS))
        return max(0.0, wait - MIN_INTERVAL_SECONDS)
