"""Slots for request bodies in flight, and the memory that each body is read into, shared by all uploads.

Memory stays bounded for files of any number and size: a body occupies a slot from the moment it is read until
the server has answered. A server that asks to slow down halves the number of slots; successful requests
restore them one by one. On a slow line no more is in flight than it takes in seconds, down to one body at a
time, so that an interruption costs little.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from storage.transfer.part_layout import MIN_PART_SIZE

WAIT_SECONDS = 0.2
"""How often a thread that waits for a slot looks whether it is still to wait."""
_FEW = 5
"""A limit of so few bodies is halved as it is, however many were in flight."""
_REUSED_FROM = 512 * 1024
"""Smaller buffers are allocated each time; larger ones, up to the usual part size, are kept for reuse."""
_MAX_UNREAD = MIN_PART_SIZE
"""Bytes in our buffers that the CRT has not yet copied into its own.

It copies a part in less time than the line takes for those that are under way: one at a time is enough.
"""


class Slot:
    """The right to have one body in flight, and the memory to read it into. Safe for threads."""

    def __init__(self, pool: "BufferPool", memory: bytearray, length: int) -> None:
        self.buffer = memoryview(memory)[:length]
        self.length = length
        self._pool = pool
        self._memory: bytearray | None = memory
        self._is_held = True

    @property
    def is_excess(self) -> bool:
        """Whether the bodies that were granted before leave no room for this one on the line."""
        return self._pool.is_excess(self)

    def release_memory(self) -> None:
        """Give the memory back, which nothing reads any more; the body stays in flight. Idempotent."""
        with self._pool.lock:
            memory, self._memory = self._memory, None
            if memory is not None:
                self._pool.reclaim_memory(self.length, memory)

    def release(self) -> None:
        """Give the slot back. Memory that was not released before is never used again. Idempotent."""
        with self._pool.lock:
            if self._is_held:
                self._is_held = False
                if self._memory is not None:
                    self._memory = None
                    self._pool.reclaim_memory(self.length, None)
                self._pool.reclaim(self)


@dataclass(eq=False, slots=True)
class Reservation:
    """A place in the queue for a slot."""

    length: int
    grant: Callable[[Slot], None] = field(repr=False)


class BufferPool:
    """Grants slots in the order of their reservations. Safe for threads.

    At most `max_bodies` bodies with `max_bytes` bytes together are in flight; a body larger than that is
    alone. A body counts until it is answered, because the CRT keeps a copy of its own that long.
    """

    def __init__(self, max_bodies: int, max_bytes: int) -> None:
        self._max_bodies = max_bodies
        self._max_bytes = max_bytes
        self._limit = max_bodies
        self._budget: float = max_bytes
        self.lock = threading.RLock()
        self._queue: deque[Reservation] = deque()
        self._slots: list[Slot] = []
        self._bytes = 0
        self._unread = 0
        self._spare: list[bytearray] = []
        """Memory for reuse, the last used first; its sizes are powers of two."""
        self._successes = 0
        self._generation = 0

    @property
    def limit(self) -> int:
        """How many bodies may be in flight at present."""
        return self._limit

    @property
    def max_bytes(self) -> int:
        """The most bytes of bodies in flight together, unless one body alone has more."""
        return self._max_bytes

    def set_budget(self, length: float) -> None:
        """Set how many bytes the line takes in the time that bodies in flight may need together.

        It adds to the other limits. One body is always granted.
        """
        with self.lock:
            self._budget = min(length, self._max_bytes)
            self._grant_next()

    def is_excess(self, slot: Slot) -> bool:
        """Whether the budget has no room for a granted slot after those that were granted before it."""
        with self.lock:
            total = 0
            for granted in self._slots:
                total += granted.length
                if granted is slot:
                    return granted is not self._slots[0] and total > self._budget
            return False

    @property
    def generation(self) -> int:
        """Grows each time the limit is lowered; see `slow_down`."""
        return self._generation

    def reserve(self, length: int, grant: Callable[[Slot], None]) -> Reservation:
        """Queue for a slot of `length` bytes. `grant` is called with it, possibly at once, in any thread."""
        reservation = Reservation(length, grant)
        with self.lock:
            self._queue.append(reservation)
            self._grant_next()
        return reservation

    @contextmanager
    def slot(self, length: int, waiting: Callable[[], None]) -> Iterator[Slot]:
        """A slot for the block, of `length` bytes.

        While there is none, `waiting` is called every `WAIT_SECONDS`; what it raises ends the wait.
        """
        granted: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        reservation = self.reserve(length, granted.put)
        slot: Slot | None = None
        try:
            while slot is None:
                try:
                    slot = granted.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    waiting()
            yield slot
        finally:
            self.cancel(reservation)
            if slot is None and not granted.empty():
                slot = granted.get()
            if slot is not None:
                slot.release()

    def cancel(self, reservation: Reservation) -> None:
        """Leave the queue. On return the slot either has been granted or never will be."""
        with self.lock:
            if reservation in self._queue:
                self._queue.remove(reservation)
                self._grant_next()

    def slow_down(self, generation: int) -> bool:
        """Allow half of what is in flight, because the server asked for fewer requests; whether that is less.

        `generation` is that of the moment when the request was sent: requests in flight together count once.
        """
        with self.lock:
            if generation != self._generation:
                return False
            self._generation += 1
            self._successes = 0
            lowered = self._limit > 1
            in_flight = max(len(self._slots), _FEW) if self._slots else self._limit
            self._limit = max(1, min(in_flight, self._limit) // 2)
            return lowered

    def note_success(self) -> None:
        """Count an accepted body; a full limit of them in a row raises a lowered limit by one."""
        with self.lock:
            self._successes += 1
            if self._limit < self._max_bodies and self._successes >= self._limit:
                self._successes = 0
                self._limit += 1
                self._grant_next()

    def _grant_next(self) -> None:
        while self._queue and len(self._slots) < self._limit:
            length = self._queue[0].length
            if self._bytes and self._bytes + length > self._budget:
                return
            if self._unread and self._unread + length > _MAX_UNREAD:
                return
            reservation = self._queue.popleft()
            slot = Slot(self, self._memory(length), length)
            self._slots.append(slot)
            self._bytes += length
            self._unread += length
            reservation.grant(slot)

    def _memory(self, length: int) -> bytearray:
        if not _REUSED_FROM < length <= MIN_PART_SIZE:
            return bytearray(length)
        size = 1 << (length - 1).bit_length()
        for number, spare in enumerate(self._spare):
            if len(spare) == size:
                return self._spare.pop(number)
        return bytearray(size)

    def reclaim_memory(self, length: int, memory: bytearray | None) -> None:
        """Keep memory, unless it is lost, for the next body. For slots, which hold the lock."""
        self._unread -= length
        if memory is not None and _REUSED_FROM < len(memory) <= MIN_PART_SIZE:
            self._spare.insert(0, memory)
            while sum(map(len, self._spare)) > _MAX_UNREAD:
                self._spare.pop()
        self._grant_next()

    def reclaim(self, slot: Slot) -> None:
        """Count a body as no longer in flight. For slots, which hold the lock."""
        self._slots.remove(slot)
        self._bytes -= slot.length
        self._grant_next()
