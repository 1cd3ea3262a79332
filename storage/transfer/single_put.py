"""Uploads a file in a single PUT, and what single and multipart uploads have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from storage import checksums
from storage.aws.response_parsing import unquoted, version
from storage.config import StorageConfig
from storage.dialect import BODY_HEADERS, kept, names_of
from storage.errors import SourceChangedError, UploadCancelledError
from storage.source_file import SourceFile
from storage.transfer.crt_client import CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import Part
from storage.transfer.part_sender import PartSender
from storage.transfer.preconditions import Headers, WriteCondition, with_condition

PUT_ATTEMPTS = 1
"""The CRT has tried it twice by then; further retries are the caller's decision."""


@dataclass(frozen=True, slots=True)
class Target:
    """The object that an upload makes: its key, media type and user metadata.

    `condition` is that on which it may be written. Metadata is sent in HTTP headers: `ValueError` for
    anything but printable ASCII.
    """

    key: str
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    condition: WriteCondition = field(default_factory=WriteCondition.unconditional)

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


def ignore_completion(_expected_etag: str | None) -> None:
    """For uploads whose ETag is not noted in advance."""


def ignore_movement() -> None:
    """For uploads of which nothing watches whether their bytes move."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One upload of one file; see `ObjectStore.upload`."""

    source: SourceFile
    target: Target
    checksum: str
    progress: Callable[[int], None]
    cancelled: Callable[[], bool]
    is_too_slow: Callable[[], bool]
    """Whether the line turned out to be so slow that other parts would be chosen now."""
    present_etag: Callable[[], str | None]
    """Looks the object up: its ETag, None if there is none."""

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
    """Upload a file in a single PUT. Raises `StorageError`, and `SlowLineError` where parts are better."""
    target, size = transfer.target, transfer.source.size
    headers = object_headers(config, transfer)
    dialect = crt.dialect

    def attempt(condition: Headers) -> Sent:
        def send(omit: frozenset[str]) -> Sent:
            answers: list[Mapping[str, Any]] = []

            def prepare(_: Part, content: memoryview) -> Request:
                transfer.ensure_unchanged(checksums.crc(content))
                body_headers = dialect.body_headers(content, transfer.checksum, omit)
                sent = (*kept((*headers, *condition), omit), *body_headers)
                return Request("PutObject", "PUT", target.key, headers=sent, body=content)

            sender = PartSender(
                crt,
                transfer.source,
                target.key,
                attempts=PUT_ATTEMPTS,
                cancelled=transfer.cancelled,
                is_too_slow=transfer.is_too_slow,
            )
            sender.send([Part(1, 0, size)], prepare, lambda _, answer: answers.append(answer))
            (answer,) = answers
            return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), None)

        return dialect.negotiate("PutObject", names_of((*headers, *condition)) | BODY_HEADERS, send)

    sent = with_condition(dialect, target.key, target.condition, attempt, present_etag=transfer.present_etag)
    transfer.progress(size)
    return sent


def object_headers(config: StorageConfig, transfer: Transfer) -> tuple[tuple[str, str], ...]:
    """The headers about the object, for a single PUT and for the start of a multipart upload."""
    target = transfer.target
    acl = () if config.acl is None else (("x-amz-acl", config.acl),)
    return (
        ("Content-Type", target.content_type),
        *((f"x-amz-meta-{name}", value) for name, value in target.metadata.items()),
        *acl,
        *option_headers(config),
    )


def option_headers(config: StorageConfig) -> tuple[tuple[str, str], ...]:
    """The headers of the options that every object gets, without its ACL."""
    optional = {
        "Cache-Control": config.cache_control,
        "x-amz-storage-class": config.storage_class,
        "x-amz-server-side-encryption": config.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": config.sse_kms_key_id,
        "x-amz-tagging": urlencode(config.tags, quote_via=quote) or None,
    }
    return tuple((name, value) for name, value in optional.items() if value is not None)
