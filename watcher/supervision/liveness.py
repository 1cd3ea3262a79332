"""Liveness: whether the daemon makes progress, which decides whether it feeds the service manager's watchdog.

Every background thread beats while it is busy. One that has not beaten for longer than its patience is a
stall, and systemd restarts a daemon that stalls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

FRESH = timedelta(seconds=30)
"""A daemon whose heartbeat is older has died, or has lost the database."""


class Pulse:
    """The heartbeat of one thread, which only that thread writes; `Liveness.stalled` reads it."""

    def __init__(
        self, name: str, patience: float, clock: Callable[[], float], forget: Callable[[Pulse], None]
    ) -> None:
        self.name = name
        self.patience = patience
        """Seconds that may pass between two beats of a busy worker."""
        self._clock = clock
        self._forget = forget
        # A single attribute, so that a beat needs no lock: the uploader beats with every part.
        self._last_beat: float | None = clock()

    def beat(self) -> None:
        """Note progress of the busy worker."""
        self._last_beat = self._clock()

    def idle(self) -> None:
        """Note that the worker waits for work, without a limit; the next `beat` ends this."""
        self._last_beat = None

    def stop(self) -> None:
        """Note that the worker has ended. A worker that ends without this call while busy is a stall."""
        self._forget(self)

    def overdue(self, now: float) -> float | None:
        """Seconds since the last beat if these are more than `patience`, else ``None``."""
        last_beat = self._last_beat
        if last_beat is None or now - last_beat <= self.patience:
            return None
        return now - last_beat


class Liveness:
    """The pulses and checks of one process.

    `clock` gives monotonic seconds. Every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pulses: list[Pulse] = []
        self._checks: dict[str, Callable[[], bool]] = {}
        self._failing_since: dict[str, float] = {}

    def pulse(self, name: str, patience: float) -> Pulse:
        """A new worker's pulse, which counts as busy from now on.

        `patience` is in seconds: more than the time between two beats can be in normal operation, time-outs
        included. Names need not be unique.
        """
        pulse = Pulse(name, patience, self._clock, self._forget)
        with self._lock:
            self._pulses.append(pulse)
        return pulse

    def add_check(self, name: str, check: Callable[[], bool]) -> None:
        """Add a check that `stalled` calls each time, for what has no pulse, such as a library's threads.

        It must be quick and must not raise. A thread that ended while idle has no overdue pulse; a check of
        ``Thread.is_alive`` finds it. A second check of the same name replaces the first.
        """
        with self._lock:
            self._checks[name] = check

    def stalled(self) -> list[str]:
        """A phrase for each worker or check that makes no progress, with the duration; empty if all do."""
        with self._lock:
            pulses = list(self._pulses)
            checks = dict(self._checks)
        # Checks run outside the lock, because they may call this object.
        failing = {name for name, check in checks.items() if not check()}
        now = self._clock()
        stalls = [
            f"{pulse.name}: no progress for {overdue:.0f} s"
            for pulse in pulses
            if (overdue := pulse.overdue(now)) is not None
        ]
        with self._lock:
            self._failing_since = {name: self._failing_since.get(name, now) for name in sorted(failing)}
            stalls += [
                f"{name}: not alive for {now - since:.0f} s" for name, since in self._failing_since.items()
            ]
        return stalls

    def _forget(self, pulse: Pulse) -> None:
        with self._lock:
            # By identity, because names are not unique; a pulse may be stopped twice.
            self._pulses = [other for other in self._pulses if other is not pulse]
