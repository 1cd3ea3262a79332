"""The run queue: threads with brief steps of Python code run one after the other.

The interpreter runs one thread at a time, and a thread gives up its lock for every system call
(docs.python.org/3/glossary.html#term-global-interpreter-lock). Among tens of threads that each make hundreds
of brief calls for a file, each call becomes a wait for the others: that costs as much as all their work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

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


class _Running(AbstractContextManager[None]):
    """A block in the queue. It is a class, as it is entered for every wait: a generator takes longer."""

    __slots__ = "_enter", "_leave"

    def __init__(self, enter: Callable[[], None], leave: Callable[[], bool]) -> None:
        self._enter = enter
        self._leave = leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()


class _Waiting(_Running):
    """A block out of the queue, for a thread that was in it."""

    __slots__ = ("_was_running",)

    def __enter__(self) -> None:
        self._was_running = self._leave()

    def __exit__(self, *_: object) -> None:
        if self._was_running:
            self._enter()


class RunQueue:
    """Lets a thread run until it waits for something, and then the next one.

    This saves time, and protects nothing: nobody waits for a thread that runs for more than `RUN_SECONDS`.
    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._place = _Place()
        self._thread = _Thread()
        self._queued: set[int] = set()
        """The threads that wait for their turn."""

    @property
    def is_contended(self) -> bool:
        """Whether a thread waits for its turn: there is no time left that more threads could use."""
        return bool(self._queued)

    def running(self) -> AbstractContextManager[None]:
        """Run the block in turn with those of other threads."""
        return _Running(self._enter, self._leave)

    def waiting(self) -> AbstractContextManager[None]:
        """Let others run during the block, in which this thread waits; nothing outside of `running`."""
        return _Waiting(self._enter, self._leave)

    def _enter(self) -> None:
        place = self._place
        if not place.lock.acquire(blocking=False):
            place = self._await_place()
        place.since = self._clock()
        self._thread.place = place

    def _await_place(self) -> _Place:
        me = threading.get_ident()
        self._queued.add(me)
        try:
            place = self._place
            while not place.lock.acquire(timeout=RUN_SECONDS):
                if place is self._place and self._clock() - place.since > RUN_SECONDS:
                    self._place = _Place()
                place = self._place
        finally:
            self._queued.discard(me)
        return place

    def _leave(self) -> bool:
        place, self._thread.place = self._thread.place, None
        if place is None:
            return False
        place.lock.release()
        return True
