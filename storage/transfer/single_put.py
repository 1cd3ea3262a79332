"""Uploads a file in a single PUT, and what single and multipart uploads have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import structlog

from storage import checksums
from storage.aws.response_parsing import unquoted, version
from storage.config import StorageConfig
from storage.errors import PreconditionError, SourceChangedError, StorageError, UploadCancelledError
from storage.source_file import SourceFile
from storage.transfer.crt_client import CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import Part
from storage.transfer.part_sender import PartSender
from storage.transfer.preconditions import UNCONDITIONAL, WriteCondition

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ALGORITHM = "CRC64NVME"
CHECKSUM_HEADER = "x-amz-checksum-crc64nvme"
PUT_ATTEMPTS = 1
"""The CRT has tried it twice by then; further retries are the caller's decision."""

_PRECONDITION_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "http-412", "http-409"})
_UNSUPPORTED_CODES = frozenset({"NotImplemented", "http-501"})
_GONE_CODES = frozenset({"NoSuchKey", "http-404"})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Target:
    """The object that an upload makes: its key, media type and user metadata.

    `condition` is that on which it may be written. Metadata is sent in HTTP headers: `ValueError` for
    anything but printable ASCII.
    """

    key: str
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    condition: WriteCondition = UNCONDITIONAL

    def __post_init__(self) -> None:
        for name, value in self.metadata.items():
            text = name + value
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"metadata {name!r}: {value!r} is not printable ASCII: percent-encode it")


@dataclass(frozen=True, slots=True)
class Sent:
    """The server's answer to an upload. It proves nothing yet; `ObjectStore.confirm` does.

    Attributes:
        etag: without quotes.
        version_id: on a bucket with versioning, that of the new version.
        part_size: in bytes, which the ETag depends on; None for a single PUT.

    """

    etag: str
    version_id: str | None
    part_size: int | None


def ignore_progress(_sent: int) -> None:
    """For uploads whose progress is not shown."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One upload of one file; see `ObjectStore.upload`. `acl` is the canned ACL to send, if any."""

    source: SourceFile
    target: Target
    checksum: str
    acl: str | None
    progress: Callable[[int], None]
    cancelled: Callable[[], bool]

    def ensure_unchanged(self, value: int) -> None:
        """Raise unless `value`, the CRC64NVME of all that was read, is what was hashed and still current.

        Raises `UploadCancelledError` if the upload has been cancelled.
        """
        if checksums.encode(value) != self.checksum:
            raise SourceChangedError(
                f"its CRC64NVME is {checksums.encode(value)} and was {self.checksum} when it was hashed",
                operation="upload",
                key=self.target.key,
            )
        self.source.ensure_unchanged()
        self.ensure_not_cancelled()

    def ensure_not_cancelled(self) -> None:
        """Raise `UploadCancelledError` if the upload has been cancelled."""
        if self.cancelled():
            raise UploadCancelledError(key=self.target.key)


def put_object(crt: CrtClient, config: StorageConfig, transfer: Transfer) -> Sent:
    """Upload a file in a single PUT. Raises `StorageError`."""
    target, size = transfer.target, transfer.source.size
    headers = object_headers(config, transfer)

    def attempt(condition: tuple[tuple[str, str], ...]) -> Sent:
        answers: list[Mapping[str, Any]] = []

        def prepare(_: Part, content: memoryview) -> Request:
            transfer.ensure_unchanged(checksums.crc(content))
            # Some servers keep a checksum only if its algorithm is named too.
            checksum = ((CHECKSUM_HEADER, transfer.checksum), ("x-amz-sdk-checksum-algorithm", ALGORITHM))
            return Request(
                operation="PutObject",
                method="PUT",
                purpose="upload",
                key=target.key,
                headers=(*headers, *checksum, *condition),
                body=content,
            )

        sender = PartSender(
            crt, transfer.source, target.key, attempts=PUT_ATTEMPTS, cancelled=transfer.cancelled
        )
        sender.send([Part(1, 0, size)], prepare, lambda _, answer: answers.append(answer))
        (answer,) = answers
        return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), None)

    sent = with_condition(crt, target, attempt)
    transfer.progress(size)
    return sent


def with_condition(
    crt: CrtClient, target: Target, attempt: Callable[[tuple[tuple[str, str], ...]], _T]
) -> _T:
    """Call `attempt`, which makes an object appear, with the headers of the target's condition.

    Raises `PreconditionError` if it is not met. A server that does not support conditions is sent none, then
    and from then on.
    """
    header = target.condition.header
    if header is None or not crt.conditions_supported:
        return attempt(())
    try:
        return attempt((header,))
    except StorageError as exc:
        if exc.code in _PRECONDITION_CODES or (header[0] == "If-Match" and exc.code in _GONE_CODES):
            raise PreconditionError(target.key, exc.code) from exc
        if exc.code not in _UNSUPPORTED_CODES:
            raise
    result = attempt(())
    crt.conditions_supported = False
    _log.info("conditions_unsupported", key=target.key)
    return result


def object_headers(config: StorageConfig, transfer: Transfer) -> tuple[tuple[str, str], ...]:
    """The headers about the object, for a single PUT and for the start of a multipart upload."""
    target = transfer.target
    optional = {
        "x-amz-acl": transfer.acl,
        "Cache-Control": config.cache_control,
        "x-amz-storage-class": config.storage_class,
        "x-amz-server-side-encryption": config.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": config.sse_kms_key_id,
        "x-amz-tagging": urlencode(config.tags, quote_via=quote) or None,
    }
    return (
        ("Content-Type", target.content_type),
        *((f"x-amz-meta-{name}", value) for name, value in target.metadata.items()),
        *((name, value) for name, value in optional.items() if value is not None),
    )
