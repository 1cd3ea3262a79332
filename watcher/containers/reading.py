"""Bounded reads of an open file, the walk over its elements, and the error for an incomplete container."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

MAX_ELEMENTS = 2**18
"""Most boxes or elements that a walk reads: an hour of video with two per frame, about a second of work."""
MAX_SECONDS = 20.0
"""Most time that a walk takes once it has read `TIMED_FROM` elements; fewer may be read from a slow disk."""
TIMED_FROM = 2**10
WINDOW = 2**25
"""How many bytes before the end are searched for the last fragment, in blocks."""
BLOCK = 2**16


class IncompleteError(Exception):
    """A container is incomplete; the message says why, as a sentence."""


class UnfinishedWalkError(IncompleteError):
    """A container has more elements than a walk may read, and is taken to be incomplete unless its end is."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The first `size` bytes of an open file; later growth is ignored.

    A walk over its elements reads at most `most`, and asks `clock` for the monotonic seconds.
    """

    descriptor: int
    size: int
    most: int = MAX_ELEMENTS
    clock: Callable[[], float] = time.monotonic

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`, fewer at the end of the file. Raises OSError."""
        return os.pread(self.descriptor, max(0, min(length, self.size - offset)), offset)

    def last_occurrences(self, pattern: bytes, end: int) -> Iterator[int]:
        """The offsets of a pattern before `end`, the last first, within `WINDOW` bytes. Raises OSError."""
        first = max(0, end - WINDOW)
        overlap = len(pattern) - 1
        while end > first:
            begin = max(first, end - BLOCK)
            block = self.read_at(begin, end - begin + overlap)
            at = len(block)
            while (at := block.rfind(pattern, 0, at + overlap)) >= 0:
                yield begin + at
            end = begin


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a container (a box, in MP4), and the offsets of its content and of what follows it."""

    kind: bytes
    content: int
    end: int


E = TypeVar("E", bound=Element)


def elements(
    file: FileBytes, read_element: Callable[[FileBytes, int], E], *, name: str, begin: int = 0
) -> Iterator[E]:
    """The elements from `begin` to the last byte; `read_element` reads the one at an offset.

    Raises UnfinishedWalkError if there are too many of them, whose `name` is in the message.
    """
    offset = begin
    deadline = file.clock() + MAX_SECONDS
    for number in range(file.most):
        if offset == file.size:
            return
        if number and number % TIMED_FROM == 0 and file.clock() > deadline:
            raise UnfinishedWalkError(
                f"It has so many {name} that {number} of them took {MAX_SECONDS:g} seconds to read."
            )
        element = read_element(file, offset)
        yield element
        offset = element.end
    raise UnfinishedWalkError(f"It has {file.most} {name} or more, which no player expects.")
