"""A circuit breaker: an error that concerns every row pauses a whole stage and counts against none of them.

An error of the environment and a server that does not answer look the same from one row, whether they concern
that row or all of them. Other rows decide: a success of another one makes the error the row's own, and the
stage continues; the same failure of another one pauses the stage, until a probe succeeds.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from watcher.errors import Failure, FailureKind
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

ENVIRONMENT_ROWS = 2
"""So many rows that fail for the environment, with no success in between, pause a stage: see `began`."""
OUTAGE_ROWS = 3
OUTAGE_FAILURES = 5
"""So many rows that the server failed, or so many times, with no success in between, pause a stage."""
MAX_KNOWN = 8
"""As many rows more have to fail at most if others are known that fail by themselves."""
SUSPICION_SECONDS = 30.0
"""How long a stage waits for another row to decide before it counts as paused."""
PROVEN_SECONDS = 60.0
"""How long a success proves that the server answers."""
MAX_TRIED = 64
"""How many of the rows that failed last are not chosen as probes."""
MAX_ROWS = 4096
"""How many failing rows are remembered."""

_OWN = -1


class CircuitBreaker:
    """Whether a stage is paused, and when one row may be tried as a probe; safe for threads.

    Pauses and resumptions are logged with `stage`, the stage's name. `clock` gives monotonic seconds. The
    first probe comes after `backoff.base` seconds at the earliest, or at once with a row that has not been
    tried while only one row has failed.
    """

    def __init__(self, stage: str, *, clock: Callable[[], float], backoff: Backoff) -> None:
        self.stage = stage
        self._clock = clock
        self._backoff = backoff
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._trips = 0
        self._probe_at = 0.0
        self._paused_at = 0.0
        self._notify: Callable[[], None] = lambda: None
        self._concerns_all = False
        self._sign: Callable[[], None] | None = None
        """Called when something suggests that the cause has ended, while the stage is held; else None."""
        self._suspicions: list[tuple[Failure, Mapping[str, object]]] = []
        """Failures that other rows have yet to decide about, each with what the log says of its row."""
        self._suspected_at = 0.0
        self._failures = 0
        self._is_on_probation = False
        self._is_unanswered = False
        self._fails_after_bytes = False
        self._successes = 0
        self._succeeded_at: float | None = None
        self._failed_at: OrderedDict[int, int] = OrderedDict()
        """By row, the number of successes when it failed for the environment; `_OWN` once that is its own."""
        self._tried: OrderedDict[int, FailureKind] = OrderedDict()
        """The rows that have failed since the last success."""
        self._delayed: set[int] = set()
        self._hastened: set[int] = set()
        self._moving: set[int] = set()
        self._undoubted: set[int] = set()
        """The rows at work on which work began before any failure suggested that others fail, too."""

    def on_change(self, notify: Callable[[], None]) -> None:
        """Have `notify` called when the stage pauses, when the reason changes, and when it resumes."""
        self._notify = notify

    # What is known

    @property
    def failure(self) -> Failure | None:
        """Why the stage is paused; None while it runs."""
        return self._failure

    @property
    def seconds_paused(self) -> float:
        """For how long the stage has been paused without a success; 0 while it runs."""
        with self._lock:
            return 0.0 if self._failure is None else self._clock() - self._paused_at

    @property
    def is_doubted(self) -> bool:
        """Whether only one row may be tried at a time: the stage is paused, or one row suggests it."""
        return self._failure is not None or bool(self._suspicions)

    @property
    def is_unproven(self) -> bool:
        """Whether a cheap request should precede expensive work: a row failed, or none succeeded lately."""
        with self._lock:
            at = self._succeeded_at
            return bool(self._tried) or at is None or self._clock() - at > PROVEN_SECONDS

    @property
    def tried(self) -> list[int]:
        """The rows that have failed since the last success, which say nothing more; the last `MAX_TRIED`."""
        with self._lock:
            return list(self._tried)

    def seconds_to_probe(self) -> float | None:
        """The time until one row may be tried; None while the stage is not paused."""
        with self._lock:
            return None if self._failure is None else max(0.0, self._probe_at - self._clock())

    @property
    def may_try_another(self) -> bool:
        """Whether a row that has not been tried may be tried now, while the stage is doubted."""
        with self._lock:
            return not self._concerns_all or self._clock() >= self._probe_at

    # What happens to rows

    def began(self, row: int) -> None:
        """Note that work on a row begins.

        Rows that are at work when one fails for the environment pause the stage only together with one that
        is tried after them: several that fail by themselves may have begun at once.
        """
        with self._lock:
            if not self.is_doubted:
                self._undoubted.add(row)

    def fail(self, row: int, failure: Failure, *, has_others: Callable[[], bool]) -> bool:
        """Judge a failure that may concern every row. True if the row waits for the stage.

        False if the failure is the row's own: it gets a backoff of its own. `has_others` returns whether
        another row is due or at work, which will decide.
        """
        is_environment = failure.kind is FailureKind.ENVIRONMENT
        with self._lock:
            is_paused = self._failure is not None
            if is_environment and self._is_own(row, is_paused=is_paused):
                self._delayed.add(row)
                return False
            self._fails_after_bytes |= is_environment and row in self._moving
            self._tried[row] = failure.kind
            if len(self._tried) > MAX_TRIED:
                self._tried.popitem(last=False)
            alike = sum(kind is failure.kind for kind in self._tried.values())
            # Rows that have failed by themselves make it likely that the next one does, too.
            known = min(max(0, len(self._failed_at) - alike), MAX_KNOWN) if is_environment else 0
            if not is_environment:
                self._failures += 1
                is_few = alike < OUTAGE_ROWS and self._failures < OUTAGE_FAILURES
                if is_few and not is_paused and not self._is_on_probation:
                    self._delayed.add(row)
                    return False
            is_late = not is_environment or row not in self._undoubted
            concerns_all = is_late and alike >= ENVIRONMENT_ROWS + known
            is_suspect = is_environment and not concerns_all and not is_paused
            if is_suspect:
                if not self._suspicions:
                    self._suspected_at = self._clock()
                self._suspicions.append((failure, structlog.contextvars.get_contextvars()))
        if not (is_suspect and has_others()):
            self._pause(failure, concerns_all=concerns_all)
        return True

    def succeed(self, row: int | None = None) -> None:
        """Note that a row succeeded: what failed before was the failing rows' own, or has ended."""
        with self._lock:
            if row is not None:
                self._failed_at.pop(row, None)
            self._successes += 1
            self._succeeded_at = self._clock()
            self._failures = self._trips = 0
            self._is_on_probation = False
            suspicions, self._suspicions = self._suspicions, []
            self._fails_after_bytes = False
            self._tried.clear()
            has_ended = self._end_pause()
            self._delayed.clear()
        for failure, of_row in suspicions:
            said = {"stage": self.stage, "code": failure.code, "reason": failure.sentence, **of_row}
            log.warning("attempt_failed", **said)
        if has_ended:
            self._announce_end()

    def moved(self, row: int) -> None:
        """Note that the server accepted bytes of a row: it is not away, and does not refuse all rows.

        It proves nothing where rows failed after their bytes were accepted.
        """
        with self._lock:
            self._moving.add(row)
            proves = bool(self._tried) and not self._fails_after_bytes
        if proves:
            self.succeed()

    def ended(self, row: int) -> None:
        """Note that the work on a row has ended, whatever its outcome."""
        with self._lock:
            self._moving.discard(row)
            self._undoubted.discard(row)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the server cheaply within the block. An answer ends a pause that began when there was none.

        It ends on probation: until a row succeeds, one more failure pauses the stage again, for longer.
        """
        try:
            yield
        except Exception:
            self._is_unanswered = True
            raise
        with self._lock:
            was_unanswered, self._is_unanswered = self._is_unanswered, False
            has_ended = was_unanswered and self._end_pause()
            self._is_on_probation |= has_ended
        if has_ended:
            self._announce_end()

    def take_hastened(self) -> frozenset[int]:
        """The rows whose own backoff was due to a pause that has ended since the last call."""
        if not self._hastened:
            return frozenset()
        with self._lock:
            hastened, self._hastened = frozenset(self._hastened), set()
            return hastened

    # What concerns the whole stage

    def trip(self, failure: Failure) -> None:
        """Pause, or prolong the pause after a failed probe, for a failure that concerns every row."""
        self._pause(failure, concerns_all=True)

    def hold(self, failure: Failure, *, sign: Callable[[], None]) -> None:
        """Pause and try no row until `release`; `sign` is called when a row under way succeeds meanwhile."""
        if self._sign is None:
            self._pause(failure, concerns_all=True)
        with self._lock:
            self._sign, self._failure = sign, failure
            self._probe_at = math.inf

    def release(self) -> None:
        """Resume a stage that is held; the rows that failed for the same cause are hastened."""
        with self._lock:
            if self._sign is None:
                return
            self._sign = None
            self._trips = self._failures = 0
            self._tried.clear()
            self._end_pause()
        self._announce_end()

    def settle_suspicion(self, *, has_others: bool) -> None:
        """Pause if no other row will decide about a suspicion, or has not in `SUSPICION_SECONDS`."""
        with self._lock:
            failure = self._suspicions[0][0] if self._suspicions else None
            is_old = self._clock() - self._suspected_at > SUSPICION_SECONDS
        if failure is not None and (is_old or not has_others):
            self._pause(failure, concerns_all=False)

    def clear(self, code: str | None = None) -> None:
        """Resume, because the cause of the pause has ended; with `code`, only from a pause of that code."""
        with self._lock:
            if self._failure is None or code not in {None, self._failure.code}:
                return
            self._trips = 0
            has_ended = self._end_pause()
        if has_ended:
            self._announce_end()

    def probe_soon(self, code: str) -> None:
        """Allow a probe now if the stage is paused with this code, because its cause may have ended."""
        with self._lock:
            if self._failure is not None and self._failure.code == code and self._sign is None:
                self._probe_at, self._trips = self._clock(), 0

    def _is_own(self, row: int, *, is_paused: bool) -> bool:
        """Whether others have succeeded since the row failed for the environment; notes that it has again."""
        is_own = not is_paused and self._failed_at.get(row, self._successes) < self._successes
        self._failed_at[row] = _OWN if is_own else self._successes
        self._failed_at.move_to_end(row)
        if len(self._failed_at) > MAX_ROWS:
            self._failed_at.popitem(last=False)
        return is_own

    def _pause(self, failure: Failure, *, concerns_all: bool) -> None:
        with self._lock:
            if self._sign is not None:
                return
            is_news = self._failure is None or self._failure.code != failure.code
            if not self._trips:
                self._paused_at = self._clock()
            if self._failure is None or self._clock() >= self._probe_at:
                self._probe_at = self._clock() + self._backoff.ceiling(self._trips)
                self._trips += 1
            self._failure = failure
            self._suspicions.clear()
            self._concerns_all |= concerns_all
        if is_news:
            log.error("stage_paused", stage=self.stage, code=failure.code, reason=failure.sentence)
            self._notify()

    def _end_pause(self) -> bool:
        if self._sign is not None:
            self._sign()
            return False
        has_ended, self._failure, self._concerns_all = self._failure is not None, None, False
        if has_ended:
            self._hastened |= self._delayed
        return has_ended

    def _announce_end(self) -> None:
        log.info("stage_resumed", stage=self.stage)
        self._notify()
