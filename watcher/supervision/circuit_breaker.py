"""A stage that pauses as a whole: what is wrong with the environment is not any one file's fault."""

from __future__ import annotations

import threading
from collections.abc import Callable

from watcher.errors import Failure
from watcher.supervision.backoff import Backoff


class CircuitBreaker:
    """Whether a stage is paused and when one row may be tried as a probe; safe for threads.

    `clock` gives monotonic seconds. The first probe comes after `backoff.base` seconds at the earliest.
    """

    def __init__(self, *, clock: Callable[[], float], backoff: Backoff) -> None:
        self._clock = clock
        self._backoff = backoff
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._trips = 0
        self._probe_at = 0.0
        self._tell: Callable[[], None] = lambda: None

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have `tell` called whenever the stage pauses, for a new reason too, and when it goes on."""
        self._tell = tell

    @property
    def failure(self) -> Failure | None:
        """Why the stage is paused; None while it runs."""
        return self._failure

    def trip(self, failure: Failure) -> bool:
        """Pause, or go on pausing for longer after a failed probe. Returns whether this is news."""
        with self._lock:
            is_news = self._failure is None or self._failure.code != failure.code
            if self._failure is None or self._clock() >= self._probe_at:
                self._probe_at = self._clock() + self._backoff.ceiling(self._trips)
                self._trips += 1
            self._failure = failure
        if is_news:
            self._tell()
        return is_news

    def clear(self) -> bool:
        """Go on: something got through. Returns whether the stage had been paused."""
        with self._lock:
            was_paused, self._failure, self._trips = self._failure is not None, None, 0
        if was_paused:
            self._tell()
        return was_paused

    def seconds_to_probe(self) -> float | None:
        """How long until one row may be tried; None while the stage is not paused."""
        with self._lock:
            return None if self._failure is None else max(0.0, self._probe_at - self._clock())

    def probe_soon(self, code: str) -> None:
        """Let a row be tried now if this is why the stage pauses: the reason seems to have gone away."""
        with self._lock:
            if self._failure is not None and self._failure.code == code:
                self._probe_at, self._trips = self._clock(), 0
