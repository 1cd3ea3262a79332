"""How a file is cut for a multipart upload.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html (at most 10,000 parts, each but the
last at least 5 MiB).
"""

from collections.abc import Iterator
from typing import NamedTuple

MIB = 1024 * 1024
SINGLE_PUT_BELOW = 16 * MIB
SMALLEST_PART = 8 * MIB
"""The smallest that we make."""
SMALLEST_ALLOWED = 5 * MIB
"""The smallest that S3 takes, but for the last one."""
MAX_PARTS = 10_000


class Part(NamedTuple):
    """One piece of a file: its number as S3 counts, from 1, and where it lies, in bytes."""

    number: int
    offset: int
    length: int


def part_size_for(size: int) -> int | None:
    """The part size, a whole number of MiB, that a file of `size` bytes is sent in; None for a single PUT."""
    if size < SINGLE_PUT_BELOW:
        return None
    return max(SMALLEST_PART, -(-size // (MAX_PARTS * MIB)) * MIB)


def parts_of(size: int, part_size: int) -> Iterator[Part]:
    """The parts of a file of `size` bytes, in order; the last may be shorter."""
    for index, offset in enumerate(range(0, size, part_size)):
        yield Part(index + 1, offset, min(part_size, size - offset))
