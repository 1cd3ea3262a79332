"""Uploads a file in a single PUT, and what single and multipart uploads have in common."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from storage import checksums
from storage.aws.response_parsing import unquoted, version
from storage.config import StorageConfig
from storage.dialect import BODY_HEADERS, kept, names_of
from storage.errors import PreconditionError, SourceChangedError, StorageError, UploadCancelledError
from storage.source_file import SourceFile
from storage.transfer.crt_client import POLL_SECONDS, CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_sender import RECALL_SECONDS, SlowLineError, ensure_not_starved
from storage.transfer.preconditions import Headers, WriteCondition, with_condition


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


def ignore_completion(_digest: str | None) -> None:
    """For uploads whose ETag, or checksum, is not noted in advance."""


def ignore_movement() -> None:
    """For uploads of which nothing watches whether their bytes move."""


class Content:
    """The CRC64NVME of a file that is sent, in S3's text form: known before, or once every part was read.

    `hash_first` reads the file for it. `hashed` is given what was computed as the parts went out, before the
    object can exist. `part_differs` is called where the file is not what a part has that was sent before.
    What these raise ends the upload.
    """

    def __init__(
        self,
        checksum: str | None,
        hash_first: Callable[[], str],
        hashed: Callable[[str], None],
        part_differs: Callable[[], None],
    ) -> None:
        self._checksum = checksum
        self._hash_first = hash_first
        self._hashed = hashed
        self._part_differs = part_differs

    def checksum(self) -> str:
        """The checksum; reads the file if it is not known."""
        if self._checksum is None:
            self._checksum = self._hash_first()
        return self._checksum

    @property
    def is_known(self) -> bool:
        """Whether the file need not be read for `checksum`."""
        return self._checksum is not None

    def note_read(self, checksum: str) -> None:
        """Take the checksum of what was read and sent, if none is known."""
        if self._checksum is None:
            self._hashed(checksum)
            self._checksum = checksum

    def note_different_part(self) -> None:
        """Note that a part which was sent before differs, while the checksum is not known, which decides."""
        self._part_differs()


@dataclass(frozen=True, slots=True)
class Transfer:
    """One upload of one file; see `ObjectStore.upload`."""

    source: SourceFile
    target: Target
    content: Content
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
        checksum = checksums.encode(value)
        if self.content.is_known and checksum != self.content.checksum():
            raise SourceChangedError(
                f"its CRC64NVME is {checksum} and was {self.content.checksum()} when it was hashed",
                operation="upload",
                key=self.target.key,
            )
        self.source.ensure_unchanged()
        self.ensure_not_cancelled()
        self.content.note_read(checksum)

    def ensure_not_cancelled(self) -> None:
        """Raise `UploadCancelledError` if the upload has been cancelled."""
        if self.cancelled():
            raise UploadCancelledError(key=self.target.key)


class _RecalledError(Exception):
    """The line has no room for the body at present, which is sent again once it has."""


def put_object(crt: CrtClient, config: StorageConfig, transfer: Transfer) -> Sent:
    """Upload a file in a single PUT. Raises `StorageError`, and `SlowLineError` where parts are better."""
    target = transfer.target
    headers = object_headers(config, transfer)
    dialect = crt.dialect

    def attempt(condition: Headers) -> Sent:
        def send(omit: frozenset[str]) -> Sent:
            if target.condition.is_required and not omit.isdisjoint(names_of(condition)):
                raise PreconditionError(target.key, "condition-refused")
            is_repeated = False
            while True:
                try:
                    answer = _send(crt, transfer, kept((*headers, *condition), omit), omit)
                except _RecalledError:
                    continue
                except StorageError as exc:
                    if is_repeated or not crt.is_readdressed(exc):
                        raise
                    is_repeated = True
                    continue
                return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), None)

        return dialect.negotiate("PutObject", names_of((*headers, *condition)) | BODY_HEADERS, send)

    sent = with_condition(dialect, target.key, target.condition, attempt, present_etag=transfer.present_etag)
    transfer.progress(transfer.source.size)
    return sent


def _send(
    crt: CrtClient, transfer: Transfer, headers: Sequence[tuple[str, str]], omit: frozenset[str]
) -> Mapping[str, Any]:
    """Read the file into a buffer, check it there and send it from there, in one request.

    Raises `_RecalledError` if a line that turned out to be slow has no room for the body.
    """
    source, key = transfer.source, transfer.target.key

    def ensure_worth_it() -> None:
        transfer.ensure_not_cancelled()
        if transfer.is_too_slow():
            raise SlowLineError

    with crt.buffers.slot(source.size, ensure_worth_it) as slot:
        source.read_into(slot.buffer, 0)
        transfer.ensure_unchanged(checksums.crc(slot.buffer))
        body_headers = crt.dialect.body_headers(slot.buffer, transfer.content.checksum(), omit)
        request = Request("PutObject", "PUT", key, headers=(*headers, *body_headers), body=slot.buffer)
        while (wait := crt.bandwidth.take(source.size)) > 0:
            ensure_worth_it()
            source.ensure_unchanged()
            time.sleep(min(wait, POLL_SECONDS))
        moved_before = crt.moved

        def watch(started: float) -> None:
            if time.monotonic() - started <= RECALL_SECONDS:
                ensure_worth_it()
                if slot.is_excess:
                    raise _RecalledError
            transfer.ensure_not_cancelled()
            source.ensure_unchanged()
            if crt.is_stalled(started):
                raise crt.stalled(request)
            ensure_not_starved(crt, key, source.size, started, moved_before)

        started = time.monotonic()
        try:
            answer = crt.exchange(request, watch, slot.release_memory)
        except StorageError as exc:
            if exc.code == "timeout" and time.monotonic() - started > crt.stall_seconds:
                # The CRT gives up a connection that takes nothing for 30 seconds, twice.
                raise crt.stalled(request) from exc
            raise
        crt.buffers.note_success()
    crt.await_bandwidth(started, source.size, transfer.cancelled)
    return answer


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
