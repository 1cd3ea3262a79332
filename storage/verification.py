"""Decides from the answer to a HEAD request whether an object is the same as the local file.

Size alone proves nothing: the full-object checksum has to agree or, where a server keeps none, the ETag
computed with the part size that was used.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from storage import checksums

ETAG_OF_MD5 = re.compile(r"[0-9a-f]{32}(-[0-9]{1,5})?")
"""An ETag, without quotes, that is computed from the content."""


class Verdict(StrEnum):
    """What a HEAD request proves about an object."""

    AGREES = "agrees"
    """It exists and is provably the same as the local file."""
    DIFFERS = "differs"
    """It exists and provably differs."""
    MISSING = "missing"
    """It does not exist."""
    UNKNOWN = "unknown"
    """Access is denied (403), or the answer holds nothing that would prove it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof of an object that agrees with the local file.

    Attributes:
        size: bytes, as the server says.
        checksum: the CRC64NVME that the server names, or None if it names none; see `confirmed_by`.
        etag: without quotes.
        version_id: on a bucket with versioning, that of the confirmed version.
        confirmed_by: which of the two digests proved it, or that the object was read back.

    """

    size: int
    checksum: str | None
    etag: str
    version_id: str | None
    confirmed_by: Literal["checksum", "etag", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    """The answer to a HEAD request for an existing object.

    Attributes:
        size: bytes.
        checksum: value of `x-amz-checksum-crc64nvme`.
        checksum_type: value of `x-amz-checksum-type`: FULL_OBJECT, COMPOSITE, or None without the header.
        etag: without quotes.
        etag_is_digest: False if the object is encrypted in a way that makes its ETag no MD5 (SSE-KMS, SSE-C).
        last_modified: when it was written, in UTC, to the second.
        metadata: user metadata, by lower-case name.

    """

    size: int
    checksum: str | None
    checksum_type: str | None
    etag: str
    etag_is_digest: bool
    version_id: str | None
    last_modified: datetime | None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_checksum(self) -> str | None:
        """The CRC64NVME of the whole object; None if the server keeps none or sends a malformed one."""
        is_full = self.checksum_type != "COMPOSITE" and checksums.decode(self.checksum) is not None
        return self.checksum if is_full else None

    def is_same_as(self, other: "ObjectHead") -> bool:
        """Whether two answers are about the same object, as far as they tell."""
        told = ("size", "etag", "version_id", "last_modified")
        return all(getattr(self, name) == getattr(other, name) for name in told)

    def contradicts(self, checksum: str) -> bool:
        """Whether the server names a full-object CRC64NVME that is another one."""
        full = self.full_checksum
        return full is not None and checksums.decode(full) != checksums.decode(checksum)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A verdict, the sentence that explains it and, for `Verdict.AGREES` only, the receipt.

    `head` is what the server says about the object; None if no object was seen.
    """

    verdict: Verdict
    detail: str
    receipt: Receipt | None = None
    head: ObjectHead | None = None

    @property
    def etag(self) -> str | None:
        """The ETag of the object, without quotes; None if none was seen."""
        return (self.head.etag or None) if self.head else None

    @property
    def last_modified(self) -> datetime | None:
        """When the object was written, in UTC, to the second; None if that is unknown."""
        return self.head.last_modified if self.head else None


def compare(
    head: ObjectHead,
    *,
    size: int,
    checksum: str,
    compares_checksums: Callable[[ObjectHead], bool],
    expected_etags: Callable[[], Collection[str]] | None = None,
    proven_etag: str | None = None,
) -> Confirmation:
    """Compare an object with the local file's size in bytes and CRC64NVME.

    `compares_checksums` returns whether the server compares checksums of such objects with contents: one that
    repeats what it was told proves nothing by it. It is called only where that decides. `proven_etag` is that
    which the object had when its content was proven: whatever the server makes ETags from, the same one means
    the same content (RFC 9110, section 8.8.3). `expected_etags` costs a pass over the file and is called only
    where nothing else decides.
    """
    confirmation = _decide(head, size, checksum, compares_checksums, expected_etags, proven_etag)
    return replace(confirmation, head=head)


def proven_by_reading(head: ObjectHead) -> Confirmation:
    """The confirmation of an object that was read back, and has the local file's checksum."""
    receipt = Receipt(head.size, head.full_checksum, head.etag, head.version_id, "reading")
    detail = f"The object was read back: it has the local file's {head.size} bytes."
    return Confirmation(Verdict.AGREES, detail, receipt, head)


def _decide(
    head: ObjectHead,
    size: int,
    checksum: str,
    compares_checksums: Callable[[ObjectHead], bool],
    expected_etags: Callable[[], Collection[str]] | None,
    proven_etag: str | None,
) -> Confirmation:
    if head.size != size:
        return Confirmation(Verdict.DIFFERS, f"The object has {head.size} bytes, the local file {size}.")
    kept = head.full_checksum
    if head.contradicts(checksum):
        return Confirmation(
            Verdict.DIFFERS, f"The object's CRC64NVME is {kept}, the local file's {checksum}."
        )
    if proven_etag and head.etag == proven_etag:
        return _agreement(head, size, "etag")
    if kept is not None and compares_checksums(head):
        return _agreement(head, size, "checksum")
    is_digest = head.etag_is_digest and ETAG_OF_MD5.fullmatch(head.etag)
    if not is_digest or (expected_etags is None and not proven_etag):
        proof = "a full-object CRC64NVME that it has compared with the content"
        return Confirmation(
            Verdict.UNKNOWN, f"The size agrees, but the server sends neither {proof} nor an ETag to compare."
        )
    expected = [proven_etag or ""] if expected_etags is None else expected_etags()
    if head.etag not in expected:
        return Confirmation(
            Verdict.DIFFERS,
            f"The object's ETag is {head.etag}, the local file's would be {' or '.join(expected)}; no "
            "CRC64NVME is kept that the server has compared.",
        )
    return _agreement(head, size, "etag")


def _agreement(head: ObjectHead, size: int, by: Literal["checksum", "etag"]) -> Confirmation:
    proof = f"ETag {head.etag}" if by == "etag" else f"CRC64NVME {head.checksum}"
    return Confirmation(
        Verdict.AGREES,
        f"The object has the local file's {size} bytes and {proof}.",
        Receipt(size, head.full_checksum, head.etag, head.version_id, by),
    )
