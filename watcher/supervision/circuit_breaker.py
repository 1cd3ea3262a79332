"""A circuit breaker: an environment error pauses a whole stage and is not counted against any upload."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from watcher.errors import Failure
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()


class CircuitBreaker:
    """Whether a stage is paused, and when one row may be tried as a probe; safe for threads.

    Pauses and resumptions are logged with `stage`, the stage's name. `clock` gives monotonic seconds. The
    first probe comes after `backoff.base` seconds at the earliest.
    """

    def __init__(self, stage: str, *, clock: Callable[[], float], backoff: Backoff) -> None:
        self.stage = stage
        self._clock = clock
        self._backoff = backoff
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._trips = 0
        self._probe_at = 0.0
        self._notify: Callable[[], None] = lambda: None

    def on_change(self, notify: Callable[[], None]) -> None:
        """Have `notify` called when the stage pauses, when the reason changes, and when it resumes."""
        self._notify = notify

    @property
    def failure(self) -> Failure | None:
        """Why the stage is paused; None while it runs."""
        return self._failure

    def trip(self, failure: Failure) -> None:
        """Pause, or prolong the pause after a failed probe."""
        with self._lock:
            is_news = self._failure is None or self._failure.code != failure.code
            if self._failure is None or self._clock() >= self._probe_at:
                self._probe_at = self._clock() + self._backoff.ceiling(self._trips)
                self._trips += 1
            self._failure = failure
        if is_news:
            log.error("stage_paused", stage=self.stage, code=failure.code, reason=failure.sentence)
            self._notify()

    def clear(self, code: str | None = None) -> None:
        """Resume after a success; with `code`, only from a pause of that code."""
        with self._lock:
            if self._failure is None or code not in {None, self._failure.code}:
                return
            self._failure, self._trips = None, 0
        log.info("stage_resumed", stage=self.stage)
        self._notify()

    def seconds_to_probe(self) -> float | None:
        """The time until one row may be tried; None while the stage is not paused."""
        with self._lock:
            return None if self._failure is None else max(0.0, self._probe_at - self._clock())

    def probe_soon(self, code: str) -> None:
        """Allow a probe now if the stage is paused with this code, because its cause may have ended."""
        with self._lock:
            if self._failure is not None and self._failure.code == code:
                self._probe_at, self._trips = self._clock(), 0
