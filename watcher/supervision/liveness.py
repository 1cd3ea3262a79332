"""Whether the daemon really makes progress: what decides if the service manager's watchdog is fed.

A process that runs is not yet one that works. Every thread that matters gives a sign of life while it is
busy; one that owes it for too long is a stall, and a daemon that stalls is better restarted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pulse:
    """One worker's sign of life. Owned by one thread; read by the one that asks `Liveness.stalled`."""

    def __init__(
        self, name: str, patience: float, clock: Callable[[], float], forget: Callable[[Pulse], None]
    ) -> None:
        self.name = name
        self.patience = patience
        """Seconds that may pass between two beats of a busy worker."""
        self._clock = clock
        self._forget = forget
        # One attribute, so that a beat is one store and needs no lock: the uploader beats with every part.
        self._last_beat: float | None = clock()

    def beat(self) -> None:
        """The worker is busy and has just made progress."""
        self._last_beat = self._clock()

    def idle(self) -> None:
        """The worker waits for work, for as long as it takes; the next `beat` ends this."""
        self._last_beat = None

    def stop(self) -> None:
        """The worker has ended as it should. Whoever ends without saying so while busy is a stall."""
        self._forget(self)

    def overdue(self, now: float) -> float | None:
        """Seconds since the last beat if these are more than `patience`, else ``None``."""
        last_beat = self._last_beat
        if last_beat is None or now - last_beat <= self.patience:
            return None
        return now - last_beat


class Liveness:
    """All signs of life of one daemon.

    `clock` counts seconds and never goes back. Every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pulses: list[Pulse] = []
        self._checks: dict[str, Callable[[], bool]] = {}
        self._failing_since: dict[str, float] = {}

    def pulse(self, name: str, patience: float) -> Pulse:
        """A new worker's pulse, which counts as busy from now on.

        `patience` is in seconds: more than the longest step between two beats can take when all is well,
        time-outs included. Names need not be unique.
        """
        pulse = Pulse(name, patience, self._clock, self._forget)
        with self._lock:
            self._pulses.append(pulse)
        return pulse

    def add_check(self, name: str, check: Callable[[], bool]) -> None:
        """Ask `check` too, each time: for what gives no pulse, such as another library's threads.

        It must be quick and must not raise. An idle worker's pulse says nothing about its thread:
        ``Thread.is_alive`` is the check for that. A second check of the same name replaces the first.
        """
        with self._lock:
            self._checks[name] = check

    def stalled(self) -> list[str]:
        """Who does not make progress and for how long, in words; empty when all is well."""
        with self._lock:
            pulses = list(self._pulses)
            checks = dict(self._checks)
        # Checks run outside the lock: they are other people's code.
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
            # By identity, and without complaint about one that was stopped already.
            self._pulses = [other for other in self._pulses if other is not pulse]
