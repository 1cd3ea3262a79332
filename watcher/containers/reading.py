"""What the container walks have in common: small reads of an open file, and the finding they end with."""

import os
from dataclasses import dataclass

MAX_ELEMENTS = 2**18
"""How many boxes or elements a walk goes through: an hour of two a frame, about a second of work."""


class IncompleteError(Exception):
    """A container is not complete; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of an open file, whose size was taken before: beyond it there is nothing."""

    descriptor: int
    size: int

    def at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on, fewer where the file ends. Raises OSError."""
        return os.pread(self.descriptor, max(0, min(length, self.size - offset)), offset)
