"""How the bytes of a file get to the server: in one PUT, or in parts that become an object at the end.

Either way the bytes that are sent are the bytes that are checked: each piece is read once, its CRC64NVME is
taken in memory and it is sent from there. A file that changes meanwhile cannot slip through between the two.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

import structlog

from storage import checksums
from storage.answers import required, unquoted, version
from storage.config import StorageConfig
from storage.errors import SourceChangedError, StorageError, UploadCancelledError
from storage.parts import part_size_for, parts_of
from storage.source import Source
from storage.translation import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

_ALGORITHM: Literal["CRC64NVME"] = "CRC64NVME"


@dataclass(frozen=True, slots=True)
class Target:
    """What an object is to be: its key, its media type, and metadata that S3 keeps beside it.

    Metadata travels in HTTP headers: `ValueError` for anything but printable ASCII.
    """

    key: str
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)

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

    source: Source
    target: Target
    checksum: str
    progress: Callable[[int], None]
    cancelled: Callable[[], bool]

    def body(self, content: bytes) -> "Body":
        """`content` as a request's body that can be cancelled in the middle."""
        return Body(content, self.cancelled)

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


class Body(io.BytesIO):
    """A request's body whose reading raises `UploadCancelledError` once it is cancelled."""

    def __init__(self, content: bytes, cancelled: Callable[[], bool]) -> None:
        super().__init__(content)
        self._cancelled = cancelled

    def read(self, size: int | None = -1, /) -> bytes:
        """As `io.BytesIO.read`."""
        if self._cancelled():
            raise UploadCancelledError
        return super().read(size)


class Sender:
    """Sends files with a boto3 client, one request after the other. Safe for threads, as the client is."""

    def __init__(self, client: "S3Client", config: StorageConfig) -> None:
        self._client = client
        self._config = config

    def send(self, transfer: Transfer) -> Sent:
        """Send one file; the object appears complete or not at all. Raises what botocore raises."""
        transfer.ensure_wanted()
        part_size = part_size_for(transfer.source.size)
        if part_size is None:
            return self._put(transfer)
        return self._put_in_parts(transfer, part_size)

    def _put(self, transfer: Transfer) -> Sent:
        content = transfer.source.read(0, transfer.source.size)
        transfer.ensure_sendable(checksums.crc(content))
        answer = self._client.put_object(
            Bucket=self._config.bucket,
            Key=transfer.target.key,
            Body=transfer.body(content),
            # Given here, botocore adds none of its own in a trailer, which some servers refuse; and some keep
            # a checksum only if its algorithm is named, too.
            ChecksumAlgorithm=_ALGORITHM,
            ChecksumCRC64NVME=transfer.checksum,
            **self._headers(transfer.target),
        )
        transfer.progress(len(content))
        return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), None)

    def _put_in_parts(self, transfer: Transfer, part_size: int) -> Sent:
        size = transfer.source.size
        with self._multipart(transfer.target) as multipart_id:
            whole = 0
            sent: list[CompletedPartTypeDef] = []
            for part in parts_of(size, part_size):
                transfer.ensure_wanted()
                content = transfer.source.read(part.offset, part.length)
                value = checksums.crc(content)
                sent.append(self._put_part(transfer, multipart_id, part.number, content, value))
                whole = checksums.combine(whole, value, part.length)
                transfer.progress(part.offset + part.length)
            transfer.ensure_sendable(whole)
            answer = self._client.complete_multipart_upload(
                Bucket=self._config.bucket,
                Key=transfer.target.key,
                UploadId=multipart_id,
                MultipartUpload={"Parts": sent},
                ChecksumCRC64NVME=transfer.checksum,
                ChecksumType="FULL_OBJECT",
                MpuObjectSize=size,
            )
        return Sent(unquoted(answer.get("ETag")), version(answer.get("VersionId")), part_size)

    def _put_part(
        self, transfer: Transfer, multipart_id: str, number: int, content: bytes, value: int
    ) -> "CompletedPartTypeDef":
        key = transfer.target.key
        checksum = checksums.encode(value)
        answer = self._client.upload_part(
            Bucket=self._config.bucket,
            Key=key,
            UploadId=multipart_id,
            PartNumber=number,
            Body=transfer.body(content),
            ChecksumAlgorithm=_ALGORITHM,
            ChecksumCRC64NVME=checksum,
        )
        etag = required(answer, "ETag", "upload", key)
        return {"PartNumber": number, "ETag": etag, "ChecksumCRC64NVME": checksum}

    @contextmanager
    def _multipart(self, target: Target) -> Iterator[str]:
        """A multipart upload by its id, aborted on any failure so that its parts are not paid for."""
        answer = self._client.create_multipart_upload(
            Bucket=self._config.bucket,
            Key=target.key,
            ChecksumAlgorithm=_ALGORITHM,
            ChecksumType="FULL_OBJECT",
            **self._headers(target),
        )
        multipart_id = required(answer, "UploadId", "upload", target.key)
        try:
            yield multipart_id
        except BaseException:
            self._abort(target.key, multipart_id)
            raise

    def _abort(self, key: str, multipart_id: str) -> None:
        """Abort a multipart upload. A failure is only logged: the one that led here is the one to raise."""
        try:
            with translated("abort the upload of", key):
                self._client.abort_multipart_upload(
                    Bucket=self._config.bucket, Key=key, UploadId=multipart_id
                )
        except StorageError as exc:
            if exc.code != "NoSuchUpload":
                _log.warning("abort_failed", key=key, multipart_id=multipart_id, code=exc.code, hint=exc.hint)

    def _headers(self, target: Target) -> "_Headers":
        headers = _Headers(ContentType=target.content_type, Metadata=target.metadata)
        if self._config.acl is not None:
            headers["ACL"] = self._config.acl
        if self._config.cache_control is not None:
            headers["CacheControl"] = self._config.cache_control
        return headers


class _Headers(TypedDict, total=False):
    """What a single PUT and the start of a multipart upload are both told about the object."""

    ACL: Literal["public-read"]
    CacheControl: str
    ContentType: str
    Metadata: Mapping[str, str]
