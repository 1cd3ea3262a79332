"""The run queue: threads with brief steps of Python code run one after the other.

The interpreter runs one thread at a time, and a thread gives up its lock for every system call
(docs.python.org/3/glossary.html#term-global-interpreter-lock). Among tens of threads that each make hundreds
of brief calls for a file, each call becomes a wait for the others: that costs as much as all their work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RUN_SECONDS = 0.01
"""A thread that has run for longer without a wait is no longer waited for: it may read from a slow disk."""


class _Place:
    """The right to run, until the thread that has it is no longer waited for."""

    __slots__ = ("lock", "since")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.since = 0.0


class _Thread(threading.local):
    """The place that a thread has; None while it waits for something else, or is not in the queue."""

    place: _Place | None = None


class RunQueue:
    """Lets a thread run until it waits for something, and then the next one.

    This saves time, and protects nothing: nobody waits for a thread that runs for more than `RUN_SECONDS`.
    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._place = _Place()
        self._thread = _Thread()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the block in turn with those of other threads."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let others run during the block, in which this thread waits; nothing outside of `running`."""
        if not self._leave():
            yield
            return
        try:
            yield
        finally:
            self._enter()

    def _enter(self) -> None:
        place = self._place
        while not place.lock.acquire(timeout=RUN_SECONDS):
            if place is self._place and self._clock() - place.since > RUN_SECONDS:
                self._place = _Place()
            place = self._place
        place.since = self._clock()
        self._thread.place = place

    def _leave(self) -> bool:
        place, self._thread.place = self._thread.place, None
        if place is None:
            return False
        place.lock.release()
        return True
