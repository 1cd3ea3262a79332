"""How the bytes of a file get to the server: in one PUT, or in parts that become an object at the end."""

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
from storage.transfer.preconditions import ANYTHING, WriteCondition

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ALGORITHM = "CRC64NVME"
CHECKSUM_HEADER = "x-amz-checksum-crc64nvme"
PUT_ATTEMPTS = 1
"""The CRT has tried it twice by then; patience is the caller's."""

_PRECONDITION_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "http-412", "http-409"})
_UNKNOWN_CONDITION_CODES = frozenset({"NotImplemented", "http-501"})
_GONE_CODES = frozenset({"NoSuchKey", "http-404"})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Target:
    """What an object is to be: its key, its media type, and metadata that S3 keeps beside it.

    `only_if` is the condition on which it may be written; without `with_acl` the configured ACL is not sent.
    Metadata travels in HTTP headers: `ValueError` for anything but printable ASCII.
    """

    key: str
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    only_if: WriteCondition = ANYTHING
    with_acl: bool = True

    def __post_init__(self) -> None:
        for name, value in self.metadata.items():
            text = name + value
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"metadata {name!r}: {value!r} is not printable ASCII: percent-encode it")


@dataclass(frozen=True, slots=True)
class Sent:
    """What the server answered to an upload. Not a proof yet: that is what `ObjectStore.confirm` is for.

    Attributes:
        etag: without quotes.
        version_id: on a bucket with versions, the one that was made.
        part_size: bytes a part, which the ETag depends on; None for a single PUT.

    """

    etag: str
    version_id: str | None
    part_size: int | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file on its way to becoming one object; see `ObjectStore.upload`."""

    source: SourceFile
    target: Target
    checksum: str
    progress: Callable[[int], None]
    cancelled: Callable[[], bool]

    def ensure_sendable(self, value: int) -> None:
        """Raise unless `value`, the CRC64NVME of all that was read, is what was hashed and still stands."""
        if checksums.encode(value) != self.checksum:
            raise SourceChangedError(
                f"its CRC64NVME is {checksums.encode(value)} and was {self.checksum} when it was hashed",
                operation="upload",
                key=self.target.key,
            )
        self.source.ensure_unchanged()
        self.ensure_wanted()

    def ensure_wanted(self) -> None:
        """Raise `UploadCancelledError` if the upload has been cancelled."""
        if self.cancelled():
            raise UploadCancelledError(key=self.target.key)


def put(engine: CrtClient, config: StorageConfig, transfer: Transfer) -> Sent:
    """Send a file in a single PUT. Raises `StorageError`."""
    target, size = transfer.target, transfer.source.size
    headers = object_headers(config, target)

    def attempt(condition: tuple[tuple[str, str], ...]) -> Sent:
        answers: list[Mapping[str, Any]] = []

        def prepare(_: Part, content: memoryview) -> Request:
            transfer.ensure_sendable(checksums.crc(content))
            # Some servers keep a checksum only if its algorithm is named, too.
            checksum = ((CHECKSUM_HEADER, transfer.checksum), ("x-amz-sdk-checksum-algorithm", ALGORITHM))
            return Request(
                operation="PutObject",
                method="PUT",
                doing="upload",
                key=target.key,
                headers=(*headers, *checksum, *condition),
                body=content,
            )

        sender = PartSender(
            engine, transfer.source, target.key, attempts=PUT_ATTEMPTS, cancelled=transfer.cancelled
        )
        sender.send([Part(1, 0, size)], prepare, lambda _, answer: answers.append(answer))
        (answer,) = answers
        return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), None)

    sent = on_condition(engine, target, attempt)
    transfer.progress(size)
    return sent


def on_condition(
    engine: CrtClient, target: Target, attempt: Callable[[tuple[tuple[str, str], ...]], _T]
) -> _T:
    """Make an object appear by `attempt`, which is given the headers that carry the target's condition.

    Raises `PreconditionError` if it is not met. To a server that does not know such conditions none is
    sent, from then on never again.
    """
    header = target.only_if.header
    if header is None or not engine.conditions_supported:
        return attempt(())
    try:
        return attempt((header,))
    except StorageError as exc:
        if exc.code in _PRECONDITION_CODES or (header[0] == "If-Match" and exc.code in _GONE_CODES):
            raise PreconditionError(target.key, exc.code) from exc
        if exc.code not in _UNKNOWN_CONDITION_CODES:
            raise
    result = attempt(())
    engine.conditions_supported = False
    _log.info("conditions_unsupported", key=target.key)
    return result


def object_headers(config: StorageConfig, target: Target) -> tuple[tuple[str, str], ...]:
    """What a single PUT and the start of a multipart upload are both told about the object."""
    optional = {
        "x-amz-acl": config.acl if target.with_acl else None,
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
