"""Multipart uploads: created or resumed, sent in concurrent parts, completed or aborted.

See https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html. The checksum of the whole object
is combined from those of the parts as they were read, never taken from the server.
"""

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import structlog

from storage import checksums
from storage.aws.response_parsing import required, unquoted, version
from storage.config import StorageConfig
from storage.errors import SourceChangedError, StorageError
from storage.transfer.crt_client import REQUEST_SECONDS, CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import MAX_PARTS, S3_MIN_PART_SIZE, Part, parts_of
from storage.transfer.part_sender import PartSender
from storage.transfer.single_put import (
    ALGORITHM,
    CHECKSUM_HEADER,
    Sent,
    Transfer,
    object_headers,
    with_condition,
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

PART_ATTEMPTS = 3
COMPLETE_SECONDS = 600.0
"""Completion can take several minutes, by AWS's documentation of CompleteMultipartUpload."""


@dataclass(frozen=True, slots=True)
class Multipart:
    """What resuming a multipart upload takes: its id on the server, and the part size in bytes."""

    upload_id: str
    part_size: int


@dataclass(frozen=True, slots=True)
class OpenMultipart:
    """A multipart upload on the server that is neither completed nor aborted."""

    key: str
    upload_id: str
    initiated_at: datetime


@dataclass(frozen=True, slots=True)
class _SentPart:
    etag: str
    crc: int


class MultipartSender:
    """Uploads one file in parts. `on_multipart` is given a new multipart upload before any part is sent.

    A failed upload is aborted without `on_multipart`, and otherwise left open to be resumed.
    """

    def __init__(
        self,
        crt: CrtClient,
        config: StorageConfig,
        transfer: Transfer,
        on_multipart: Callable[[Multipart], None] | None,
    ) -> None:
        self._crt = crt
        self._config = config
        self._transfer = transfer
        self._key = transfer.target.key
        self._on_multipart = on_multipart
        self._sent: dict[int, _SentPart] = {}
        self._crcs: dict[int, int] = {}
        self._accepted = 0

    def send(self, resume: Multipart | None, part_size: int) -> Sent:
        """Resume `resume` if the server still has it, else create an upload with parts of `part_size`."""
        listed = self._listed_parts(resume) if resume is not None else None
        multipart = self._create(part_size) if resume is None or listed is None else resume
        try:
            self._adopt_parts(multipart, listed or {})
            self._send_parts(multipart)
            return self._complete(multipart)
        except SourceChangedError:
            self._abort(multipart)
            raise
        except BaseException:
            if self._on_multipart is None:
                self._abort(multipart)
            raise

    def _create(self, part_size: int) -> Multipart:
        answer = self._crt.call(
            self._request(
                "CreateMultipartUpload",
                "POST",
                "uploads=",
                ("x-amz-checksum-algorithm", ALGORITHM),
                ("x-amz-checksum-type", "FULL_OBJECT"),
                *object_headers(self._config, self._transfer),
            ),
            cancelled=self._transfer.cancelled,
        )
        multipart = Multipart(required(answer, "UploadId", "upload", self._key), part_size)
        if self._on_multipart is not None:
            try:
                self._on_multipart(multipart)
            except BaseException:
                self._abort(multipart)
                raise
        return multipart

    def _listed_parts(self, multipart: Multipart) -> dict[int, Mapping[str, Any]] | None:
        """The parts that the server lists, by number; None if the upload cannot be resumed."""
        size = self._transfer.source.size
        if multipart.part_size < S3_MIN_PART_SIZE or size > multipart.part_size * MAX_PARTS:
            self._abort(multipart)
            return None
        try:
            return {int(part["PartNumber"]): part for part in self._list(multipart)}
        except StorageError as exc:
            if exc.code != "NoSuchUpload":
                raise
        _log.info("multipart_gone", key=self._key, multipart_id=multipart.upload_id)
        return None

    def _list(self, multipart: Multipart) -> Iterator[Mapping[str, Any]]:
        marker = 0
        while True:
            query = f"max-parts=1000&part-number-marker={marker}&{_upload_id(multipart)}"
            answer = self._crt.call(
                self._request("ListParts", "GET", query), cancelled=self._transfer.cancelled
            )
            yield from answer.get("Parts", [])
            following = int(answer.get("NextPartNumberMarker") or 0)
            if not answer.get("IsTruncated") or following <= marker:
                return
            marker = following

    def _adopt_parts(self, multipart: Multipart, listed: Mapping[int, Mapping[str, Any]]) -> None:
        """Adopt the listed parts whose content is that of the file."""
        for part in parts_of(self._transfer.source.size, multipart.part_size):
            held = listed.get(part.number)
            if held is not None and held.get("Size") == part.length and self._is_ours(part, held):
                self._note(part, str(held["ETag"]))
        if listed:
            _log.info("upload_resumed", key=self._key, parts_kept=len(self._sent), bytes_kept=self._accepted)

    def _is_ours(self, part: Part, held: Mapping[str, Any]) -> bool:
        source, cancelled = self._transfer.source, self._transfer.cancelled
        self._crcs[part.number] = source.crc(part.offset, part.length, cancelled)
        checksum = checksums.decode(held.get("ChecksumCRC64NVME"))
        if checksum is not None:
            return checksum == self._crcs[part.number]
        return unquoted(held.get("ETag")) == source.md5(part.offset, part.length, cancelled).hex()

    def _send_parts(self, multipart: Multipart) -> None:
        def prepare(part: Part, content: memoryview) -> Request:
            self._crcs[part.number] = crc = checksums.crc(content)
            return Request(
                operation="UploadPart",
                method="PUT",
                purpose="upload",
                key=self._key,
                query=f"partNumber={part.number}&{_upload_id(multipart)}",
                headers=(
                    (CHECKSUM_HEADER, checksums.encode(crc)),
                    ("x-amz-sdk-checksum-algorithm", ALGORITHM),
                ),
                body=content,
            )

        def accepted(part: Part, answer: Mapping[str, Any]) -> None:
            self._note(part, required(answer, "ETag", "upload", self._key))

        sender = PartSender(
            self._crt,
            self._transfer.source,
            self._key,
            attempts=PART_ATTEMPTS,
            cancelled=self._transfer.cancelled,
        )
        parts = parts_of(self._transfer.source.size, multipart.part_size)
        sender.send((part for part in parts if part.number not in self._sent), prepare, accepted)

    def _note(self, part: Part, etag: str) -> None:
        self._sent[part.number] = _SentPart(etag, self._crcs[part.number])
        self._accepted += part.length
        self._transfer.progress(self._accepted)

    def _complete(self, multipart: Multipart) -> Sent:
        size = self._transfer.source.size
        whole = 0
        for part in parts_of(size, multipart.part_size):
            whole = checksums.combine(whole, self._sent[part.number].crc, part.length)
        self._transfer.ensure_unchanged(whole)

        def attempt(condition: tuple[tuple[str, str], ...]) -> Mapping[str, Any]:
            return self._crt.call(
                self._request(
                    "CompleteMultipartUpload",
                    "POST",
                    _upload_id(multipart),
                    (CHECKSUM_HEADER, self._transfer.checksum),
                    ("x-amz-checksum-type", "FULL_OBJECT"),
                    ("x-amz-mp-object-size", str(size)),
                    *condition,
                    body=self._part_list(),
                ),
                seconds=COMPLETE_SECONDS,
                cancelled=self._transfer.cancelled,
            )

        answer = with_condition(self._crt, self._transfer.target, attempt)
        etag = required(answer, "ETag", "upload", self._key)
        return Sent(unquoted(etag), version(answer.get("VersionId")), multipart.part_size)

    def _part_list(self) -> bytes:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(part.etag)}</ETag>"
            f"<ChecksumCRC64NVME>{checksums.encode(part.crc)}</ChecksumCRC64NVME></Part>"
            for number, part in sorted(self._sent.items())
        )
        root = "CompleteMultipartUpload"
        return f'<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</{root}>'.encode()

    def _request(
        self, operation: str, method: str, query: str, *headers: tuple[str, str], body: bytes = b""
    ) -> Request:
        return Request(
            operation=operation,
            method=method,
            purpose="upload",
            key=self._key,
            query=query,
            headers=headers,
            body=body,
        )

    def _abort(self, multipart: Multipart) -> None:
        """Abort the upload; a failure is only logged, because the one that led here is raised."""
        try:
            abort(self._crt, self._key, multipart.upload_id)
        except StorageError as exc:
            _log.warning(
                "abort_failed",
                key=self._key,
                multipart_id=multipart.upload_id,
                code=exc.code,
                hint=exc.hint,
            )


def abort(crt: CrtClient, key: str, upload_id: str, *, seconds: float = REQUEST_SECONDS) -> None:
    """Abort a multipart upload, if there is one with this id. Raises `StorageError`."""
    request = Request(
        operation="AbortMultipartUpload",
        method="DELETE",
        purpose="abort the upload of",
        key=key,
        query=f"uploadId={quote(upload_id, safe='')}",
    )
    try:
        crt.call(request, seconds=seconds)
    except StorageError as exc:
        if exc.code not in {"NoSuchUpload", "http-404"}:
            raise


def _upload_id(multipart: Multipart) -> str:
    return f"uploadId={quote(multipart.upload_id, safe='')}"
