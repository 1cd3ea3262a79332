"""How many bodies may be under way, and in which memory they lie: one allowance for all uploads.

Memory stays bounded however large or many the files are: a body is in one of a few buffers from the moment
it is read until the server has answered. A server that asks to slow down halves the number of slots for
everybody; answers that come well give them back one by one.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.transfer.part_layout import SMALLEST_PART

_REUSED_FROM = 1024 * 1024
"""Smaller buffers are made anew each time; larger ones, up to a usual part, are kept for the next."""
_MOST_UNREAD = 3 * SMALLEST_PART
"""How much may be in our memory at once, waiting to be read into the library's; it is read quickly."""


class Slot:
    """The right to have one body under way, and the memory to read it into. Safe for threads."""

    def __init__(self, slots: "BufferPool", memory: bytearray, length: int) -> None:
        self.buffer = memoryview(memory)[:length]
        self.length = length
        self._slots = slots
        self._memory: bytearray | None = memory
        self._is_held = True

    def give_back_memory(self) -> None:
        """Say that nothing reads the memory any more; the body stays under way. Again is harmless."""
        with self._slots.lock:
            memory, self._memory = self._memory, None
            if memory is not None:
                self._slots.take_back_memory(self.length, memory)

    def give_back(self) -> None:
        """Say that the body is under way no more. Memory that was not given back is not used again."""
        with self._slots.lock:
            if self._is_held:
                self._is_held = False
                if self._memory is not None:
                    self._memory = None
                    self._slots.take_back_memory(self.length, None)
                self._slots.take_back(self.length)


@dataclass(eq=False, slots=True)
class Reservation:
    """A place in the queue for a slot."""

    length: int
    grant: Callable[[Slot], None] = field(repr=False)


class BufferPool:
    """Grants slots in the order in which they were asked for. Safe for threads.

    `most` bodies, and `budget` bytes of them, may be under way; one larger than all that goes alone. A body
    counts until it is answered, because the library beneath has a copy of its own for so long.
    """

    def __init__(self, most: int, budget: int) -> None:
        self._most = most
        self._budget = budget
        self._limit = most
        self.lock = threading.RLock()
        self._queue: deque[Reservation] = deque()
        self._under_way = 0
        self._bytes = 0
        self._unread = 0
        self._spare: list[bytearray] = []
        self._successes = 0
        self._generation = 0

    @property
    def limit(self) -> int:
        """How many may be under way at present."""
        return self._limit

    @property
    def generation(self) -> int:
        """Grows each time the limit is lowered; see `slow_down`."""
        return self._generation

    def ask(self, length: int, grant: Callable[[Slot], None]) -> Reservation:
        """Queue up for a slot of `length` bytes; `grant` is called with it, maybe at once, in any thread."""
        reservation = Reservation(length, grant)
        with self.lock:
            self._queue.append(reservation)
            self._serve()
        return reservation

    def withdraw(self, reservation: Reservation) -> None:
        """Leave the queue. When this returns, the slot either has been granted or never will be."""
        with self.lock:
            if reservation in self._queue:
                self._queue.remove(reservation)
                self._serve()

    def slow_down(self, generation: int) -> bool:
        """The server asked for fewer requests: halve the limit and say so.

        `generation` is what it was when that request was sent: those that were under way together count once.
        """
        with self.lock:
            if generation != self._generation:
                return False
            self._generation += 1
            self._successes = 0
            lowered = self._limit > 1
            self._limit = max(1, self._limit // 2)
            return lowered

    def succeeded(self) -> None:
        """A body was accepted; as many of them in a row as are allowed at once allow one more."""
        with self.lock:
            self._successes += 1
            if self._limit < self._most and self._successes >= self._limit:
                self._successes = 0
                self._limit += 1
                self._serve()

    def _serve(self) -> None:
        while self._queue and self._under_way < self._limit:
            length = self._queue[0].length
            if self._bytes and self._bytes + length > self._budget:
                return
            if self._unread and self._unread + length > _MOST_UNREAD:
                return
            reservation = self._queue.popleft()
            self._under_way += 1
            self._bytes += length
            self._unread += length
            reservation.grant(Slot(self, self._memory(length), length))

    def _memory(self, length: int) -> bytearray:
        if not _REUSED_FROM <= length <= SMALLEST_PART:
            return bytearray(length)
        return self._spare.pop() if self._spare else bytearray(SMALLEST_PART)

    def take_back_memory(self, length: int, memory: bytearray | None) -> None:
        """Keep memory, unless it is lost, for the next body; for slots, which hold the lock."""
        self._unread -= length
        if memory is not None and len(memory) == SMALLEST_PART:
            self._spare.append(memory)
        self._serve()

    def take_back(self, length: int) -> None:
        """Let somebody else have a body of `length` bytes under way; for slots, which hold the lock."""
        self._under_way -= 1
        self._bytes -= length
        self._serve()
