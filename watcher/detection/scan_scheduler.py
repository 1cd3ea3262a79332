"""Schedules scans in a thread of their own: at the start, on request, and periodically."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from db import DatabaseError
from watcher.detection.scanner import Scanner, ScanReport
from watcher.detection.settler import Reading
from watcher.errors import Failure, failure_of
from watcher.filesystem import RootUnavailableError
from watcher.supervision.background_thread import FailureState, Supervisor, Worker
from watcher.telemetry import Metrics

log = structlog.get_logger()

RETRY_SECONDS = 5.0
MAX_DIRECTORIES = 1000
"""Requests for more directories than this become one full scan."""
REST_FACTOR = 2
"""The pause after a full scan, in units of its duration, so that lost events cannot cause a busy loop."""
MAX_REST_SECONDS = 60.0
PATIENCE_SECONDS = 900.0


class ScanScheduler(Worker):
    """Runs the requested scans one at a time, beginning with a full one.

    `period` gives the seconds between full scans. `first_scan_done` is set after the first full scan that
    succeeded. `clock` gives monotonic seconds. A scan that a stop interrupts does not count: the next start
    begins with a full one.
    """

    def __init__(
        self,
        scanner: Scanner,
        *,
        period: Callable[[], float],
        supervisor: Supervisor,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, "scan thread")
        self._scanner = scanner
        self._period = period
        self._metrics = metrics
        self._on_full_scan: Callable[[ScanReport], None] = lambda _report: None
        self._clock = clock
        self._lock = threading.Lock()
        self._directories: set[str] = set()
        self._full_scan_due_at = clock()
        self._rests_until = clock()
        self._failure = FailureState(
            lambda failure: log.error("scan_failed", code=failure.code, reason=failure.sentence),
            lambda: log.info("scan_recovered"),
        )
        self.first_scan_done = threading.Event()
        self._thread = self.add_thread("scan", self._step, patience=PATIENCE_SECONDS)

    def on_full_scan(self, callback: Callable[[ScanReport], None]) -> None:
        """Have `callback` called in the scan's thread after every full scan, before it counts as done."""
        self._on_full_scan = callback

    @property
    def reading(self) -> Reading:
        """What a callback needs to read files at length in the scan's thread."""
        stopping = self._thread.stopping
        return Reading(beat=self._thread.beat, stopped=stopping.is_set, wait=stopping.wait)

    @property
    def failure(self) -> Failure | None:
        """What keeps scans from succeeding at present."""
        return self._failure.current

    def request(self, directory: str) -> None:
        """Scan below a directory soon. It is relative to the root; "" requests a full scan."""
        with self._lock:
            if not directory or len(self._directories) >= MAX_DIRECTORIES:
                self._directories.clear()
                self._full_scan_due_at = self._clock()
            else:
                self._directories.add(directory)
        self.wake()

    def request_after_lost_events(self) -> None:
        """Request a full scan, because events were lost."""
        log.warning(
            "events_lost", hint="A full scan follows; raise fs.inotify.max_queued_events if this repeats."
        )
        self._metrics.events_lost.inc()
        self.request("")

    def _step(self) -> float:
        with self._lock:
            wait = max(self._full_scan_due_at, self._rests_until) - self._clock()
            if wait <= 0:
                directory = ""
                self._full_scan_due_at = self._clock() + self._period()
                self._directories.clear()
            elif self._directories:
                directory = self._directories.pop()
            else:
                return wait
        self._scan(directory)
        return 0.0

    def _scan(self, directory: str) -> None:
        started = self._clock()
        stopped = self._thread.stopping.is_set
        try:
            report = self._scanner.scan(directory, stopped=stopped)
            if stopped():
                return
            if not directory:
                self._on_full_scan(report)
        except (RootUnavailableError, DatabaseError) as exc:
            self._failure.fail(failure_of(exc))
            self._retry_soon()
            return
        except Exception:
            self._retry_soon()
            raise
        seconds = self._clock() - started
        if not directory:
            self._rests_until = self._clock() + min(REST_FACTOR * seconds, MAX_REST_SECONDS)
        self._failure.succeed()
        self._report(directory, report, seconds)

    def _retry_soon(self) -> None:
        with self._lock:
            self._full_scan_due_at = self._clock() + min(RETRY_SECONDS, self._period())

    def _report(self, directory: str, report: ScanReport, seconds: float) -> None:
        self._metrics.scans.labels(scope="directory" if directory else "full").inc()
        if directory:
            log.debug("directory_scanned", path=directory, files=report.files, noticed=report.noticed)
            return
        self._metrics.scan_seconds.set(seconds)
        log.info(
            "scan_completed",
            files=report.files,
            noticed=report.noticed,
            ignored=report.ignored,
            missing=report.missing,
            unreadable_directories=report.unreadable,
            seconds=round(seconds, 3),
        )
        self.first_scan_done.set()
