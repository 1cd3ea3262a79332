"""Runs scans in a thread of its own: at the start, when asked to, and every few minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from db import Database, DatabaseError
from watcher.detection.scanner import Scanner, ScanReport
from watcher.errors import Failure, failure_of
from watcher.filesystem.openat import RootUnavailableError
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

RETRY_SECONDS = 5.0
MOST_DIRECTORIES = 1000
"""More directories than this waiting to be scanned one by one make a full scan the better way."""
REST_SHARE = 2
"""After a full scan the next one waits for so many times as long as it took: a flood is no busy loop."""
LONGEST_REST_SECONDS = 60.0
PATIENCE_SECONDS = 900.0


class ScanScheduler:
    """Scans whatever was requested, one scan at a time; the first one is always of everything.

    `period` gives the seconds between full scans. `first_scan_done` is set after the first full scan that
    succeeded. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        scanner: Scanner,
        *,
        database: Database,
        period: Callable[[], float],
        liveness: Liveness,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scanner = scanner
        self._database = database
        self._period = period
        self._liveness = liveness
        self._metrics = metrics
        self._on_full_scan: Callable[[ScanReport], None] = lambda _report: None
        self._clock = clock
        self._changed = threading.Condition()
        self._directories: set[str] = set()
        self._full_is_due_at = clock()
        self._rests_until = clock()
        self._stopping = False
        self._failure: Failure | None = None
        self.first_scan_done = threading.Event()
        self._thread = threading.Thread(target=self._scan_until_stopped, name="scan", daemon=True)

    def on_full_scan(self, act: Callable[[ScanReport], None]) -> None:
        """Have `act` called in the scan's thread after every full scan, before it counts as done."""
        self._on_full_scan = act

    def start(self) -> None:
        """Begin with a full scan."""
        self._thread.start()
        self._liveness.add_check("scan thread", lambda: self._stopping or self._thread.is_alive())

    def request_stop(self) -> None:
        """Stop, in the middle of a scan if need be: the next start begins with a full one."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the thread to end; False if it goes on."""
        return join_all([self._thread], timeout)

    @property
    def failure(self) -> Failure | None:
        """What keeps scans from succeeding at present."""
        return self._failure

    def request(self, directory: str) -> None:
        """Something happened to this directory (relative to the root, "" is the root): scan below it soon."""
        with self._changed:
            if not directory or len(self._directories) >= MOST_DIRECTORIES:
                self._directories.clear()
                self._full_is_due_at = self._clock()
            else:
                self._directories.add(directory)
            self._changed.notify_all()

    def request_after_lost_events(self) -> None:
        """Events were lost: only a full scan knows what happened."""
        log.warning(
            "events_lost", hint="A full scan follows; raise fs.inotify.max_queued_events if this repeats."
        )
        self._metrics.events_lost.inc()
        self.request("")

    def _scan_until_stopped(self) -> None:
        pulse = self._liveness.pulse("scan", PATIENCE_SECONDS)
        with self._database.session():
            while True:
                pulse.idle()
                directory = self._next()
                if directory is None:
                    break
                pulse.beat()
                self._scan(directory)
        pulse.stop()

    def _next(self) -> str | None:
        """The directory to scan next, "" for everything; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                wait = max(self._full_is_due_at, self._rests_until) - self._clock()
                if wait <= 0:
                    self._full_is_due_at = self._clock() + self._period()
                    self._directories.clear()
                    return ""
                if self._directories:
                    return self._directories.pop()
                self._changed.wait(wait)
            return None

    def _scan(self, directory: str) -> None:
        started = self._clock()
        try:
            report = self._scanner.scan(directory, stopped=lambda: self._stopping)
            if self._stopping:
                return
            if not directory:
                self._on_full_scan(report)
        except (RootUnavailableError, DatabaseError) as exc:
            self._fail(failure_of(exc))
            return
        seconds = self._clock() - started
        if not directory:
            self._rests_until = self._clock() + min(REST_SHARE * seconds, LONGEST_REST_SECONDS)
        self._recover()
        self._tell(directory, report, seconds)

    def _tell(self, directory: str, report: ScanReport, seconds: float) -> None:
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

    def _fail(self, failure: Failure) -> None:
        is_news = self._failure is None or self._failure.code != failure.code
        self._failure = failure
        if is_news:
            log.error("scan_failed", code=failure.code, reason=failure.sentence)
        with self._changed:
            self._full_is_due_at = self._clock() + min(RETRY_SECONDS, self._period())

    def _recover(self) -> None:
        if self._failure is not None:
            self._failure = None
            log.info("scan_recovered")
