"""Waits until files are finished: the waiting room between a hint that something is there and the ledger.

Hints are cheap and may come in crowds; every path has one entry, one check at a time, and a time
of its next check. A file that a process is still writing is looked at again when an event says so,
and now and then besides, for an event can be lost.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from db import Database, DatabaseError
from watcher.detection.completeness import Busy, FileStatus, Observation, QuietPeriod
from watcher.errors import Failure, failure_of
from watcher.filesystem.openat import RootUnavailableError
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all

log = structlog.get_logger()

BUSY_FIRST_SECONDS = 0.5
BUSY_LONGEST_SECONDS = 30.0
TROUBLE_LONGEST_SECONDS = 30.0
SPARE_ITEMS = 1000
PATIENCE_SECONDS = 600.0
"""A check may have to read a whole file to tell new content from old; longer than this, it is stuck."""


class Source(Enum):
    """What named a path to be checked."""

    EVENT = auto()
    SCAN = auto()
    """A scan found a new file there that no event has reported."""


@dataclass(slots=True)
class _Entry:
    due: float
    turn: int
    checks: int = 0
    troubles: int = 0
    observation: Observation | None = None
    running: bool = False
    noticed_again: bool = False
    waits_for_writer: bool = False
    found_by_scan: bool = False


class Settler:
    """Examines noticed paths until each is finished or refused, and reports what it found.

    `check_complete` says what a path is (see `watcher.detection.completeness`). `report` takes every final
    status, and the first ``Busy``, from one of the settler's threads, and says whether that was a new file.
    Both may raise `RootUnavailableError`, `report` also `DatabaseError`: the path is then tried again later.
    `count_found` is called for each new file that no event told of. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        check_complete: Callable[[str, Observation | None], FileStatus],
        report: Callable[[str, FileStatus], bool | None],
        database: Database,
        liveness: Liveness,
        clock: Callable[[], float],
        threads: int = 2,
        count_found: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_complete = check_complete
        self._report = report
        self._database = database
        self._liveness = liveness
        self._clock = clock
        self._count_found = count_found
        self._entries: dict[str, _Entry] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._turns = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: Failure | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"settle-{number}", daemon=True)
            for number in range(1, threads + 1)
        ]

    def start(self) -> None:
        """Begin to check."""
        for thread in self._threads:
            thread.start()
        self._liveness.add_check(
            "settle threads",
            lambda: self._stopping or all(thread.is_alive() for thread in self._threads),
        )

    def request_stop(self) -> None:
        """Begin no further check; what still waits is found again by the scan at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds in all for the checks under way; False if one goes on."""
        return join_all(self._threads, timeout)

    def check(self, path: str, source: Source = Source.EVENT) -> None:
        """Check a path as soon as a thread is free."""
        is_found = source is Source.SCAN
        with self._changed:
            entry = self._entries.get(path)
            if entry is None:
                entry = self._entries[path] = _Entry(0.0, 0, found_by_scan=is_found)
            else:
                entry.found_by_scan &= is_found
                if entry.running:
                    entry.noticed_again = True
                    return
            self._schedule(path, entry, 0.0)

    def __len__(self) -> int:
        """How many paths wait."""
        with self._changed:
            return len(self._entries)

    def waiting_for_writers(self) -> list[str]:
        """The paths that some process has open for writing."""
        with self._changed:
            return sorted(path for path, entry in self._entries.items() if entry.waits_for_writer)

    @property
    def failure(self) -> Failure | None:
        """What keeps checks from being made or recorded at present."""
        return self._failure

    def wait_until_only_writers_remain(
        self, stopped: Callable[[], bool], *, seconds: float | None = None
    ) -> bool:
        """Wait until every path is settled or waits for its writer.

        False if it was stopped, is unable to go on, or has not come so far after so many `seconds`.
        """
        deadline = math.inf if seconds is None else self._clock() + seconds
        with self._changed:
            while not stopped() and self._failure is None and self._clock() < deadline:
                if all(entry.waits_for_writer and not entry.running for entry in self._entries.values()):
                    return True
                self._changed.wait(0.5)
        return False

    def _schedule(self, path: str, entry: _Entry, delay: float) -> None:
        entry.due, entry.turn = self._clock() + delay, next(self._turns)
        heapq.heappush(self._queue, (entry.due, entry.turn, path))
        if len(self._queue) > 2 * len(self._entries) + SPARE_ITEMS:
            # A path that is noticed again and again leaves an outdated item behind each time.
            self._queue = [item for item in self._queue if not self._is_outdated(item)]
            heapq.heapify(self._queue)
        self._changed.notify()

    def _work(self) -> None:
        pulse = self._liveness.pulse(threading.current_thread().name, PATIENCE_SECONDS)
        with self._database.session():
            while True:
                pulse.idle()
                taken = self._take()
                if taken is None:
                    break
                pulse.beat()
                self._check(*taken)
        pulse.stop()

    def _take(self) -> tuple[str, _Entry] | None:
        with self._changed:
            while not self._stopping:
                while self._queue and self._is_outdated(self._queue[0]):
                    heapq.heappop(self._queue)
                wait = self._queue[0][0] - self._clock() if self._queue else None
                if wait is not None and wait <= 0:
                    path = heapq.heappop(self._queue)[2]
                    entry = self._entries[path]
                    entry.running, entry.noticed_again = True, False
                    return path, entry
                self._changed.wait(wait)
            return None

    def _is_outdated(self, item: tuple[float, int, str]) -> bool:
        entry = self._entries.get(item[2])
        return entry is None or entry.running or entry.turn != item[1]

    def _check(self, path: str, entry: _Entry) -> None:
        try:
            file_status = self._check_complete(path, entry.observation)
            is_old_news = isinstance(file_status, Busy) and entry.waits_for_writer
            if not is_old_news and not isinstance(file_status, QuietPeriod):
                is_new_file = self._report(path, file_status)
                if is_new_file and entry.found_by_scan:
                    self._count_found()
        except (RootUnavailableError, DatabaseError) as exc:
            self._in_trouble(path, entry, failure_of(exc))
            return
        if entry.troubles:
            # Others may get through without what this one lacked: a busy file needs no database.
            self._out_of_trouble()
        with self._changed:
            entry.running = False
            entry.checks += 1
            entry.troubles = 0
            entry.waits_for_writer = isinstance(file_status, Busy)
            entry.observation = file_status.observation if isinstance(file_status, QuietPeriod) else None
            if entry.noticed_again:
                self._schedule(path, entry, 0.0)
            elif isinstance(file_status, Busy):
                delay = min(BUSY_LONGEST_SECONDS, BUSY_FIRST_SECONDS * 2 ** min(entry.checks - 1, 10))
                self._schedule(path, entry, delay)
            elif isinstance(file_status, QuietPeriod):
                self._schedule(path, entry, max(0.0, file_status.until - self._clock()))
            else:
                del self._entries[path]
            self._changed.notify_all()

    def _in_trouble(self, path: str, entry: _Entry, failure: Failure) -> None:
        with self._changed:
            is_news = self._failure is None or self._failure.code != failure.code
            self._failure = failure
            entry.running = False
            entry.troubles += 1
            self._schedule(path, entry, min(TROUBLE_LONGEST_SECONDS, 2.0 ** min(entry.troubles, 10)))
            self._changed.notify_all()
        if is_news:
            log.warning("settling_paused", code=failure.code, reason=failure.sentence)

    def _out_of_trouble(self) -> None:
        with self._changed:
            was_in_trouble, self._failure = self._failure is not None, None
        if was_in_trouble:
            log.info("settling_resumed")
