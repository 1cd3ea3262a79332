"""Reads of whole files, for hashing: how many at once, in which order, and how fast.

Every such read beats with every block and ends soon after its thread is stopped. One that waits or
rests has no place, so that a small new file is hashed between two blocks of a large one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import IntEnum
from typing import Protocol

from db import Identity, State, Upload
from storage import UploadCancelledError

PLACES = 2
"""Files that are read at the same time: more would make a disk slower, and no network faster."""
COPY_SHARE = 0.5
"""The share of the time that is spent on reading local copies again; the rest is the compressor's."""
REST_AFTER_SECONDS = 0.05
LONGEST_REST_SECONDS = 1.0
"""However slow the disk: a sooner read, or a stop, may be waiting for the end of this rest."""
POLL_SECONDS = 0.25
"""How often a read that waits for a place looks whether it is to end."""


class Rank(IntEnum):
    """The order of reads; of equal ones the smaller file comes first."""

    NEW = 0
    """Content that was never hashed."""
    AGAIN = 1
    """Content of an upload that was hashed at an earlier attempt to send it."""
    COPY = 2
    """A copy of what is in S3, or of what waits for something else: nothing waits for it but its release."""

    @classmethod
    def of(cls, upload: Upload, identity: Identity) -> Rank:
        """The rank of hashing a file that has this identity now, to compare it with the upload's checksum."""
        if replace(identity, device=upload.device) != upload.identity:
            return cls.NEW
        return cls.AGAIN if upload.state is State.PENDING else cls.COPY


class ReadingThread(Protocol):
    """What a long read needs to know of the thread that it runs in."""

    @property
    def beat(self) -> Callable[[], object]:
        """Is called with every block, and while the read waits: a read that waits is not stuck."""

    @property
    def stopped(self) -> Callable[[], bool]:
        """Whether the read is to end."""

    @property
    def wait(self) -> Callable[[float], bool]:
        """Waits for some seconds; True if the thread is to stop."""


_Order = tuple[Rank, int, int]
"""Rank, size in bytes, and a number that no other read has. Less is sooner."""


class Hashing:
    """The places for long reads of one process. Safe for threads; `clock` gives monotonic seconds."""

    def __init__(self, *, places: int = PLACES, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._free = places
        self._waiting: set[_Order] = set()
        self._numbers = itertools.count()
        self._clock = clock
        self._bytes_read = 0

    @property
    def bytes_read(self) -> int:
        """How many bytes have been read so far: while this grows, there is progress."""
        return self._bytes_read

    def pace(self, rank: Rank, size: int, thread: ReadingThread) -> PacedRead:
        """The pace for reads of one file of `size` bytes in a thread."""
        return PacedRead(self, (rank, size, next(self._numbers)), thread, self._clock)

    def take(self, order: _Order, check: Callable[[], None]) -> None:
        """Wait for a place: until one is free and no read that waits is sooner. `check` may raise."""
        with self._changed:
            self._waiting.add(order)
            try:
                while not self._free or min(self._waiting) != order:
                    check()
                    self._changed.wait(POLL_SECONDS)
                self._free -= 1
            finally:
                self._waiting.remove(order)
                self._changed.notify_all()

    def give_back(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def note(self, order: _Order, count: int) -> bool:
        """Count bytes that were read; returns whether a read that is sooner waits for a place."""
        with self._changed:
            self._bytes_read += count
            return bool(self._waiting) and min(self._waiting) < order


class PacedRead(AbstractContextManager[Callable[[int], None]]):
    """A `storage.source_file.Pace`: holds a place while it is entered. `Hashing.pace` makes it.

    Raises `UploadCancelledError` when the thread's `stopped` returns true.
    """

    def __init__(
        self, hashing: Hashing, order: _Order, thread: ReadingThread, clock: Callable[[], float]
    ) -> None:
        self._hashing = hashing
        self._order = order
        self._thread = thread
        self._clock = clock
        self._has_place = False
        self._since = 0.0
        self._busy_seconds = 0.0
        """For how long it has had a place since its last rest."""

    def __enter__(self) -> Callable[[int], None]:
        self._take()
        return self._before_block

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def _before_block(self, count: int) -> None:
        self._check()
        is_outranked = self._hashing.note(self._order, count)
        must_rest = self._order[0] is Rank.COPY and (
            self._busy_seconds + self._clock() - self._since >= REST_AFTER_SECONDS
        )
        if is_outranked or must_rest:
            self._give_back()
            if must_rest:
                self._rest()
            self._take()

    def _rest(self) -> None:
        seconds = min(self._busy_seconds * (1 / COPY_SHARE - 1), LONGEST_REST_SECONDS)
        self._busy_seconds = 0.0
        if self._thread.wait(seconds):
            raise UploadCancelledError(operation="read")

    def _check(self) -> None:
        self._thread.beat()
        if self._thread.stopped():
            raise UploadCancelledError(operation="read")

    def _take(self) -> None:
        self._hashing.take(self._order, self._check)
        self._has_place = True
        self._since = self._clock()

    def _give_back(self) -> None:
        if self._has_place:
            self._has_place = False
            self._busy_seconds += self._clock() - self._since
            self._hashing.give_back()
