"""How a file is divided for a multipart upload.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html (at most 10,000 parts, each but the
last at least 5 MiB).
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

MIB = 1024 * 1024
XML_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
"""Of a list of parts, in S3's API."""
MULTIPART_THRESHOLD = 16 * MIB
"""Files from this size on are sent in parts."""
MIN_PART_SIZE = 8 * MIB
"""The smallest part size that is chosen here, unless the line is known to be slow."""
S3_MIN_PART_SIZE = 5 * MIB
"""The smallest part size that S3 accepts."""
MAX_PARTS = 10_000
_MAX_PARTS_OF_HOSTS = MappingProxyType({"scw.cloud": 1_000})
"""By the domain of a server, how many parts it takes at most, if that is less.

Source: https://www.scaleway.com/en/docs/object-storage/api-cli/multipart-uploads/.
"""
LONGEST_SINGLE_PUT_SECONDS = 60.0
"""A file that takes longer at the measured rate is sent in parts, so that an interruption costs less."""
LONGEST_PART_SECONDS = 15.0
"""Parts are as small as S3 accepts them if those of the usual size take longer at the measured rate."""


class Part(NamedTuple):
    """One part of a file: its number, from 1, and its position and length in bytes."""

    number: int
    offset: int
    length: int


def max_parts_of(endpoint_url: str | None) -> int:
    """How many parts the server of an endpoint is known to take at most; None is AWS."""
    host = "" if endpoint_url is None else urlsplit(endpoint_url).hostname or ""
    known = (limit for domain, limit in _MAX_PARTS_OF_HOSTS.items() if f".{host}".endswith(f".{domain}"))
    return next(known, MAX_PARTS)


def part_size_for(size: int, rate: float | None = None, max_parts: int = MAX_PARTS) -> int | None:
    """The part size for a file of `size` bytes, a whole number of MiB; None for a single PUT.

    `rate` is what the line takes, in bytes per second, if that is known: on a slow one parts are smaller, and
    smaller files are sent in parts. Parts are as large as it takes for no more than `max_parts`.
    """
    is_slow = rate is not None and size > max(S3_MIN_PART_SIZE, rate * LONGEST_SINGLE_PUT_SECONDS)
    if size < MULTIPART_THRESHOLD and not is_slow:
        return None
    is_slow = rate is not None and rate * LONGEST_PART_SECONDS < MIN_PART_SIZE
    return max(S3_MIN_PART_SIZE if is_slow else MIN_PART_SIZE, least_part_size(size, max_parts))


def least_part_size(size: int, max_parts: int) -> int:
    """The smallest whole number of MiB of which `max_parts` parts hold `size` bytes."""
    return -(-size // (max_parts * MIB)) * MIB


def part_size_of(etag: str, size: int, likely: int | None, max_parts: int = MAX_PARTS) -> int | None:
    """The part size with which a file of `size` bytes was sent from here, by the number of parts in its ETag.

    `likely` where that decides nothing; None for a single PUT.
    """
    limits = (max_parts, MAX_PARTS)
    others = (part_size_for(size, rate, limit) for limit in limits for rate in (None, 0.0))
    for part_size in (likely, *others):
        if part_size is not None and etag.endswith(f"-{-(-size // part_size)}"):
            return part_size
    return likely if "-" in etag else None


def parts_of(size: int, part_size: int) -> Iterator[Part]:
    """The parts of a file of `size` bytes, in order; the last may be shorter."""
    for index, offset in enumerate(range(0, size, part_size)):
        yield Part(index + 1, offset, min(part_size, size - offset))
