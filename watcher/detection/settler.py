"""Checks reported paths until each file is complete: the queue between the events and the ledger.

Events are cheap and come in bursts; every path has one entry, one check at a time, and a time of its next
check. A file that is still open for writing is checked again at its next event, and at growing intervals
because events can be lost.

A file that must be read as a whole, to tell new content from old, is left to a thread of its own, the
smallest first, and known local copies after all others: no other check waits for it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

import structlog

from db import Identity
from storage import PartialChecksum, UploadCancelledError
from watcher.detection.completeness import Busy, FileStatus, Observation, QuietPeriod, Refused
from watcher.errors import HANDLED_ERRORS, Failure, failure_of
from watcher.filesystem.hashing import Rank
from watcher.supervision.background_thread import FailureState, Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.supervision.isolation import Isolation

log = structlog.get_logger()

BUSY_BACKOFF = Backoff(base=0.5, factor=2.0, cap=30.0)
"""Between checks of a file that is open for writing; without jitter."""
FAILURE_BACKOFF = Backoff(base=2.0, factor=2.0, cap=30.0)
"""Between checks that the file system or the database made fail; without jitter."""
SECOND_NAME_DELAYS = (0.1, 1.0, 10.0)
"""Between checks of a file with a second name before it is refused: link(2), unlink(2) move a file."""
EVENT_AHEAD_SECONDS = 60.0
"""What an event reports is checked before all that a scan has found, unless that has waited for so long."""
MAX_OUTDATED_ITEMS = 1000
MAX_CHANGES = 3
"""A file that changes in so many quiet periods in a row has a writer that the kernel does not show."""
PATIENCE_SECONDS = 600.0
"""A check may make a quarter of a million small reads of a container; one that takes longer is stuck."""


class Source(Enum):
    """What reported a path."""

    EVENT = auto()
    SCAN = auto()
    """A scan found a new file there that no event has reported."""
    PRESENT = auto()
    """A scan found a file there that no event had to report."""


class ReadRequired(NamedTuple):
    """What `report` returns where it may not read, and would have to read the whole file, of `size` bytes."""

    rank: Rank
    size: int


def _never(_seconds: float = 0.0) -> bool:
    return False


@dataclass(slots=True)
class Reading:
    """What `report` needs to read a whole file: a `watcher.filesystem.hashing.ReadingThread`.

    By default nothing ends the read.
    """

    beat: Callable[[], object] = _never
    stopped: Callable[[], bool] = _never
    wait: Callable[[float], bool] = _never
    _identity: Identity | None = field(default=None, init=False)
    _done: PartialChecksum = field(default_factory=PartialChecksum, init=False)

    def progress(self, identity: Identity) -> PartialChecksum:
        """How far an interrupted read of the file has come, if it still has this identity, ctime included."""
        if self._identity is None or not self._identity.is_exactly(identity):
            self._identity, self._done = identity, PartialChecksum()
        return self._done


@dataclass(slots=True)
class _Entry:
    due: float
    item_number: int
    checks: int = 0
    failures: int = 0
    observation: Observation | None = None
    changes: int = 0
    """How often the file was found changed since its last quiet period began."""
    refused_at: float | None = None
    """When the file was first found with a second name."""
    running: bool = False
    reported_again: bool = False
    waits_for_writer: bool = False
    found_by_scan: bool = False
    reported_by_event: bool = False
    required: ReadRequired | None = None
    """With which rank and size the path is left to the reading thread; None if it is not."""
    reading: Reading | None = None


class Settler(Worker):
    """Checks reported paths until each is complete or refused, and reports the result.

    `check_complete` determines the status of a path from its last observation and the present time (see
    `watcher.detection.completeness`). `report` receives every final status, and the first ``Busy``, in one of
    the settler's threads, and returns whether that was a new file. Without a `Reading` it must not read a
    whole file, and returns `ReadRequired` instead: it is called again in the reading thread. Both may
    raise `RootUnavailableError`, `report` also `DatabaseError`: the path is then checked again later. An
    exception that concerns this path alone sets it aside: the next event or scan has it checked again, after
    a backoff of its own. `count_found` is called for each new file that no event reported. `clock` gives
    monotonic seconds.
    """

    def __init__(
        self,
        *,
        check_complete: Callable[[str, Observation | None, float], FileStatus],
        report: Callable[[str, FileStatus, Reading | None], ReadRequired | bool | None],
        supervisor: Supervisor,
        clock: Callable[[], float],
        threads: int = 2,
        count_found: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(supervisor, "settle threads")
        self._check_complete = check_complete
        self._report = report
        self._clock = clock
        self._count_found = count_found
        self._isolation = Isolation("files", supervisor=supervisor, clock=clock)
        self._entries: dict[str, _Entry] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._reads: list[tuple[ReadRequired, int, str]] = []
        """What the reading thread checks, each with its item number and path."""
        self._item_numbers = itertools.count()
        self._changed = threading.Condition()
        self._failure = FailureState(
            lambda failure: log.warning("settling_paused", code=failure.code, reason=failure.sentence),
            lambda: log.info("settling_resumed"),
        )
        for number in range(1, threads + 1):
            self.add_thread(f"settle-{number}", self._step, patience=PATIENCE_SECONDS, is_brief=True)
        self._reader = self.add_thread("settle-reading", self._read_step, patience=PATIENCE_SECONDS)

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
                    entry.reported_again = True
                    return
            entry.reported_by_event |= source is Source.EVENT
            self._schedule(path, entry, self._isolation.seconds_left(path))

    def recheck(self, path: str, size: int) -> None:
        """Check a path whose file, of `size` bytes, seems to be a known copy: after everything else."""
        with self._changed:
            if path in self._entries:
                return
            entry = self._entries[path] = _Entry(0.0, 0)
            if delay := self._isolation.seconds_left(path):
                self._schedule(path, entry, delay)
            else:
                self._schedule_read(path, entry, ReadRequired(Rank.COPY, size))

    def __len__(self) -> int:
        """How many paths wait."""
        with self._changed:
            return len(self._entries)

    @property
    def to_read(self) -> int:
        """How many of the paths are left to the reading thread."""
        with self._changed:
            return sum(entry.required is not None for entry in self._entries.values())

    def waiting_for_writers(self) -> list[str]:
        """The paths that a process has open for writing."""
        with self._changed:
            return sorted(
                path
                for path, entry in self._entries.items()
                if entry.waits_for_writer or entry.changes >= MAX_CHANGES
            )

    def unsettled(self) -> list[str]:
        """The paths that are being checked, or will be, except those that wait for their writer."""
        with self._changed:
            return sorted(path for path, entry in self._entries.items() if not self._is_parked(path, entry))

    def has_file_of(self, video_id: str) -> bool:
        """Whether a path that is being checked, or waits for its writer, has the id of a video in it."""
        with self._changed:
            return any(video_id in path.lower() for path in self._entries)

    @property
    def failure(self) -> Failure | None:
        """What keeps checks from being made or recorded at present."""
        return self._failure.current

    def wait_until_only_writers_remain(
        self, stopped: Callable[[], bool], *, seconds: float | None = None
    ) -> bool:
        """Wait until every path is settled or waits for its writer.

        False if `stopped` says so, if a failure prevents it, or after `seconds`.
        """
        deadline = math.inf if seconds is None else self._clock() + seconds
        with self._changed:
            while not stopped() and self.failure is None and self._clock() < deadline:
                if all(self._is_parked(path, entry) for path, entry in self._entries.items()):
                    return True
                self._changed.wait(0.5)
        return False

    def _is_parked(self, path: str, entry: _Entry) -> bool:
        """Whether the path waits for its writer, or is set aside."""
        is_written = entry.waits_for_writer or entry.changes >= MAX_CHANGES
        return not entry.running and (is_written or self._isolation.seconds_left(path) > 0)

    def _schedule(self, path: str, entry: _Entry, delay: float) -> None:
        ahead = EVENT_AHEAD_SECONDS if entry.reported_by_event and not delay else 0.0
        entry.due, entry.item_number = self._clock() + delay - ahead, next(self._item_numbers)
        entry.required = None
        heapq.heappush(self._queue, (entry.due, entry.item_number, path))
        if len(self._queue) > 2 * len(self._entries) + MAX_OUTDATED_ITEMS:
            # A path that is reported again and again leaves an outdated item behind each time.
            self._queue = [item for item in self._queue if not self._is_outdated(item[1:])]
            heapq.heapify(self._queue)
        self.wake()

    def _schedule_read(self, path: str, entry: _Entry, required: ReadRequired) -> None:
        """Leave a check to the reading thread."""
        entry.required, entry.item_number = required, next(self._item_numbers)
        heapq.heappush(self._reads, (required, entry.item_number, path))
        if len(self._reads) > 2 * len(self._entries) + MAX_OUTDATED_ITEMS:
            self._reads = [item for item in self._reads if not self._is_outdated(item[1:])]
            heapq.heapify(self._reads)
        self._reader.wake()

    def _read_step(self) -> float | None:
        with self._changed:
            self._drop_outdated_reads()
            if not self._reads:
                return None
            path = heapq.heappop(self._reads)[2]
            entry = self._entries[path]
            entry.running, entry.reported_again = True, False
        entry.reading = entry.reading or Reading(
            beat=self._reader.beat,
            stopped=partial(self._is_outranked, entry),
            wait=self._reader.stopping.wait,
        )
        self._check_or_finish(path, entry, entry.reading)
        return 0.0

    def _is_outranked(self, entry: _Entry) -> bool:
        """Whether the present read must end: at a stop, for a new report of its path or a sooner read."""
        with self._changed:
            self._drop_outdated_reads()
            is_later = bool(self._reads) and entry.required is not None and self._reads[0][0] < entry.required
            return self._reader.stopping.is_set() or entry.reported_again or is_later

    def _drop_outdated_reads(self) -> None:
        while self._reads and self._is_outdated(self._reads[0][1:]):
            heapq.heappop(self._reads)

    def _step(self) -> float | None:
        with self._changed:
            while self._queue and self._is_outdated(self._queue[0][1:]):
                heapq.heappop(self._queue)
            if not self._queue:
                return None
            due, _, path = self._queue[0]
            if (wait := due - self._clock()) > 0:
                return wait
            heapq.heappop(self._queue)
            entry = self._entries[path]
            entry.running, entry.reported_again = True, False
        self._check_or_finish(path, entry, None)
        return 0.0

    def _check_or_finish(self, path: str, entry: _Entry, reading: Reading | None) -> None:
        try:
            self._check_path(path, entry, reading)
        except Exception:
            self._finish(path, entry, delay=None)
            raise

    def _is_outdated(self, item: tuple[int, str]) -> bool:
        number, path = item
        entry = self._entries.get(path)
        return entry is None or entry.running or entry.item_number != number

    def _check_path(self, path: str, entry: _Entry, reading: Reading | None) -> None:
        is_checked = False
        result: ReadRequired | bool | None = None
        try:
            with self._isolation.item(path, path=path):
                file_status = self._check_complete(path, entry.observation, self._clock())
                is_known = isinstance(file_status, Busy) and entry.waits_for_writer
                second_name_delay = self._second_name_delay(entry, file_status)
                is_open = second_name_delay is not None or isinstance(file_status, QuietPeriod)
                if not is_known and not is_open:
                    result = self._report(path, file_status, reading)
                    if result is True and entry.found_by_scan:
                        self._count_found()
                is_checked = True
        except UploadCancelledError:
            self._finish(path, entry, delay=None, required=entry.required)
            return
        except HANDLED_ERRORS as exc:
            self._postpone(path, entry, failure_of(exc))
            return
        if not is_checked:
            self._finish(path, entry, delay=None)
            return
        if entry.failures:
            # Another path may succeed without what this one lacked: a busy file needs no database.
            self._failure.succeed()
        if isinstance(result, ReadRequired):
            # The observation stays: with it the file still counts as finished when it is read.
            self._finish(path, entry, delay=None, required=result)
            return
        with self._changed:
            entry.checks += 1
            entry.failures = 0
            entry.waits_for_writer = isinstance(file_status, Busy)
            observation = file_status.observation if isinstance(file_status, QuietPeriod) else None
            entry.changes += entry.observation is not None and observation != entry.observation
            entry.observation = observation
            match file_status:
                case Busy():
                    delay: float | None = BUSY_BACKOFF.ceiling(entry.checks - 1)
                case QuietPeriod():
                    delay = max(0.0, file_status.until - self._clock())
                case _:
                    delay = second_name_delay
            self._finish(path, entry, delay)

    def _second_name_delay(self, entry: _Entry, file_status: FileStatus) -> float | None:
        """The seconds until the next check of a file whose second name may pass; None if that is over."""
        if not isinstance(file_status, Refused) or not file_status.may_pass:
            entry.refused_at = None
            return None
        if entry.refused_at is None:
            entry.refused_at = self._clock()
        waited = self._clock() - entry.refused_at
        left = (total - waited for total in itertools.accumulate(SECOND_NAME_DELAYS) if total > waited)
        return next(left, None)

    def _finish(
        self, path: str, entry: _Entry, delay: float | None, required: ReadRequired | None = None
    ) -> None:
        """End a check; the next one comes after `delay`, in the reading thread if a read is `required`.

        It comes at once if the path was reported meanwhile.
        """
        with self._changed:
            entry.running = False
            if entry.reported_again:
                delay = self._isolation.seconds_left(path)
            elif required is not None:
                self._schedule_read(path, entry, required)
                return
            if delay is None:
                self._entries.pop(path, None)
            else:
                self._schedule(path, entry, delay)
            self._changed.notify_all()

    def _postpone(self, path: str, entry: _Entry, failure: Failure) -> None:
        self._failure.fail(failure)
        with self._changed:
            entry.running = False
            entry.failures += 1
            self._schedule(path, entry, FAILURE_BACKOFF.ceiling(entry.failures - 1))
            self._changed.notify_all()
