"""Is what S3 holds what is on disk? The decision, apart from the request that asks.

Size alone is never enough: the full-object checksum has to agree or, where a server keeps none, the ETag
computed from our own part size.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from storage import checksums

ETAG_OF_MD5 = re.compile(r"[0-9a-f]{32}(-[0-9]{1,5})?")
"""What an ETag without quotes looks like if it can be computed from the content."""


class Verdict(StrEnum):
    """What a HEAD request said about an object."""

    AGREES = "agrees"
    """It is there and provably the same as the local file."""
    DIFFERS = "differs"
    """It is there and provably not the same."""
    MISSING = "missing"
    """It is not there."""
    UNKNOWN = "unknown"
    """We are not allowed to know (403), or the server tells nothing that would prove it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof of an object that agrees with the local file.

    Attributes:
        size: bytes, as the server says.
        checksum: the server's CRC64NVME, or None if it keeps none.
        etag: without quotes.
        version_id: on a bucket with versions, the one that was confirmed.
        confirmed_by: which of the two digests proved it.

    """

    size: int
    checksum: str | None
    etag: str
    version_id: str | None
    confirmed_by: Literal["checksum", "etag"]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A verdict, the sentence that explains it and, if it is `Verdict.AGREES` and only then, the receipt.

    Attributes:
        etag: of the object that is there, whosoever it is, without quotes; None if none was seen.
        last_modified: when that object was written, in UTC, to the second.

    """

    verdict: Verdict
    detail: str
    receipt: Receipt | None = None
    etag: str | None = None
    last_modified: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    """What a server says about an object that exists, as it says it.

    Attributes:
        size: bytes.
        checksum: value of `x-amz-checksum-crc64nvme`.
        checksum_type: value of `x-amz-checksum-type`: FULL_OBJECT, COMPOSITE, or None if not told.
        etag: without quotes.
        etag_is_digest: False if the object is encrypted in a way that makes its ETag no MD5 (SSE-KMS, SSE-C).

    """

    size: int
    checksum: str | None
    checksum_type: str | None
    etag: str
    etag_is_digest: bool
    version_id: str | None
    last_modified: datetime | None


def judge(
    head: ObjectHead, *, size: int, checksum: str, expected_etag: Callable[[], str] | None
) -> Confirmation:
    """Compare what the server says with the local file's size in bytes and CRC64NVME.

    `expected_etag` costs a pass over the file and is only called where nothing else can decide.
    """
    confirmation = _decide(head, size, checksum, expected_etag)
    return replace(confirmation, etag=head.etag or None, last_modified=head.last_modified)


def _decide(
    head: ObjectHead, size: int, checksum: str, expected_etag: Callable[[], str] | None
) -> Confirmation:
    if head.size != size:
        return Confirmation(Verdict.DIFFERS, f"The object has {head.size} bytes, the local file {size}.")
    kept = checksums.decode(head.checksum) if head.checksum_type != "COMPOSITE" else None
    if kept is not None:
        if kept != checksums.decode(checksum):
            return Confirmation(
                Verdict.DIFFERS, f"The object's CRC64NVME is {head.checksum}, the local file's {checksum}."
            )
        return _agrees(head, size, head.checksum)
    if not head.etag_is_digest or not ETAG_OF_MD5.fullmatch(head.etag) or expected_etag is None:
        return Confirmation(
            Verdict.UNKNOWN,
            "The size agrees, but the server tells neither a full-object CRC64NVME nor an ETag to compare.",
        )
    expected = expected_etag()
    if head.etag != expected:
        return Confirmation(
            Verdict.DIFFERS,
            f"The object's ETag is {head.etag}, the local file's would be {expected}; no CRC64NVME is kept.",
        )
    return _agrees(head, size, None)


def _agrees(head: ObjectHead, size: int, checksum: str | None) -> Confirmation:
    proof = f"ETag {head.etag}" if checksum is None else f"CRC64NVME {checksum}"
    return Confirmation(
        Verdict.AGREES,
        f"The object has the local file's {size} bytes and {proof}.",
        Receipt(size, checksum, head.etag, head.version_id, "etag" if checksum is None else "checksum"),
    )
