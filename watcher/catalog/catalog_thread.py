"""The thread that minds the compressor's catalog: the gate, the rows just published, and the orphans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from db import Database, DatabaseError
from storage import StorageError
from watcher.catalog.gate import FRESH, CatalogGate
from watcher.catalog.orphans import Orphans
from watcher.catalog.republisher import Republisher
from watcher.errors import Failure, failure_of
from watcher.supervision.backoff import Backoff
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all

log = structlog.get_logger()

SHORTEST_SECONDS = 0.05
"""How often the gate is asked while something has only just come to it."""
LONGEST_SECONDS = 5.0
"""How often everything that waits is asked for, and the rows just published are looked at."""
SLOWING = 20
"""What came so many times as long ago as the shortest pause is asked for that often, and no more."""
ORPHANS_SECONDS = 3600.0
PATIENCE_SECONDS = 600.0
BACKOFF = Backoff(base=0.5, factor=2.0, cap=30.0)


class CatalogThread:
    """Asks the gate every 50 ms while there are fresh files, less and less often up to every 5 s after that.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        gate: CatalogGate,
        republisher: Republisher,
        orphans: Orphans,
        *,
        database: Database,
        liveness: Liveness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gate = gate
        self.republisher = republisher
        self.orphans = orphans
        self._database = database
        self._liveness = liveness
        self._clock = clock
        self._changed = threading.Condition()
        self._noticed_at: float | None = None
        self._all_due_at = self._orphans_due_at = clock()
        self._failures = 0
        self._stopping = False
        self._failure: Failure | None = None
        self._thread = threading.Thread(target=self._mind_until_stopped, name="catalog", daemon=True)

    def start(self) -> None:
        """Begin to mind."""
        self._thread.start()
        self._liveness.add_check("catalog thread", lambda: self._stopping or self._thread.is_alive())

    def request_stop(self) -> None:
        """Ask nothing more; what waits at the gate waits in the ledger."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the thread to end; False if it goes on."""
        return join_all([self._thread], timeout)

    def check_gate(self) -> None:
        """Something has come to the gate."""
        with self._changed:
            self._noticed_at = self._clock()
            self._changed.notify_all()

    @property
    def failure(self) -> Failure | None:
        """What keeps the catalog from being asked at present."""
        return self._failure

    def step(self) -> float:
        """Do what is due; returns how many seconds to wait. Raises `db.DatabaseError`, `StorageError`."""
        now = self._clock()
        if now >= self._all_due_at:
            self.gate.admit_waiting()
            self.republisher.check_recent()
            self._all_due_at = now + LONGEST_SECONDS
        elif self._is_fresh(now):
            self.gate.admit_waiting(fresh_only=True)
        if now >= self._orphans_due_at:
            self._orphans_due_at = now + ORPHANS_SECONDS
            self.orphans.process_all()
        return self._pause(now)

    def _is_fresh(self, now: float) -> bool:
        return self._noticed_at is not None and timedelta(seconds=now - self._noticed_at) < FRESH

    def _pause(self, now: float) -> float:
        longest = max(0.0, self._all_due_at - now)
        if self._noticed_at is None:
            return longest
        return min(longest, max(SHORTEST_SECONDS, (now - self._noticed_at) / SLOWING))

    def _mind_until_stopped(self) -> None:
        pulse = self._liveness.pulse("catalog", PATIENCE_SECONDS)
        with self._database.session():
            while not self._stopping:
                pulse.beat()
                try:
                    wait = self.step()
                    self._recover()
                except (DatabaseError, StorageError) as exc:
                    self._fail(failure_of(exc))
                    wait = BACKOFF.delay(self._failures).total_seconds()
                pulse.idle()
                self._wait(wait)
        pulse.stop()

    def _wait(self, seconds: float) -> None:
        """Until then or until something comes to the gate, but never for less than 50 ms."""
        with self._changed:
            seen = self._noticed_at
            self._changed.wait_for(lambda: self._stopping, min(seconds, SHORTEST_SECONDS))
            self._changed.wait_for(
                lambda: self._stopping or self._noticed_at != seen, max(0.0, seconds - SHORTEST_SECONDS)
            )

    def _fail(self, failure: Failure) -> None:
        is_news = self._failure is None or self._failure.code != failure.code
        self._failure = failure
        self._failures += 1
        if is_news:
            log.error("catalog_unavailable", code=failure.code, reason=failure.sentence)

    def _recover(self) -> None:
        self._failures = 0
        if self._failure is not None:
            self._failure = None
            log.info("catalog_recovered")
