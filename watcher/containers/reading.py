"""Bounded reads of an open file, the walk over its elements, and the error for an incomplete container."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_ELEMENTS = 2**18
"""Most boxes or elements that are read: an hour of video with two per frame, about a second of work."""


class IncompleteError(Exception):
    """A container is incomplete; the message says why, as a sentence."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The first `size` bytes of an open file; later growth is ignored."""

    descriptor: int
    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`, fewer at the end of the file. Raises OSError."""
        return os.pread(self.descriptor, max(0, min(length, self.size - offset)), offset)


@dataclass(frozen=True, slots=True)
class Element:
    """One top-level element of a container (a box, in MP4), and the offset of its end."""

    kind: bytes
    end: int


def elements(
    file: FileBytes, read_element: Callable[[FileBytes, int], Element], *, name: str
) -> Iterator[Element]:
    """The elements from the first byte to the last; `read_element` reads the one at an offset.

    Raises IncompleteError if there are too many of them, whose `name` is in the message.
    """
    offset = 0
    for _ in range(MAX_ELEMENTS):
        if offset == file.size:
            return
        element = read_element(file, offset)
        yield element
        offset = element.end
    raise IncompleteError(f"It has {MAX_ELEMENTS} {name} or more, which no player expects.")
