"""Bounded reads of an open file, and the error for an incomplete container."""

import os
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
