"""Multipart uploads: created or resumed, sent in concurrent parts, completed or aborted.

See https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html. The checksum of the whole object
is combined from those of the parts as they were read, never taken from the server.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog

from storage import checksums
from storage.aws.response_parsing import required, unquoted, version
from storage.config import StorageConfig
from storage.dialect import (
    ALGORITHM,
    BODY_HEADERS,
    CRC,
    MULTIPART_ETAG,
    OBJECT_SIZE,
    PART_CHECKSUMS,
    SDK_ALGORITHM,
    TYPE,
    kept,
    more_parts_than,
    names_of,
)
from storage.errors import SourceChangedError, StorageError
from storage.proof_by_reading import makes_etags_of_md5s
from storage.transfer.crt_client import CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import S3_MIN_PART_SIZE, XML_NAMESPACE, Part, least_part_size, parts_of
from storage.transfer.part_sender import PartSender, SlowLineError
from storage.transfer.preconditions import Headers, with_condition
from storage.transfer.single_put import Sent, Transfer, object_headers

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

PART_ATTEMPTS = 3
LEAST_MAX_PARTS = 100
"""A server that takes fewer parts is not believed: they would be too large for the memory."""
_PART_NUMBER = re.compile(r"part[ -]?number", re.IGNORECASE)
_MAX_PART_NUMBER = re.compile(r"\b1 (?:and|to) ([0-9,]+)")
"""In S3's words: "Part number must be an integer between 1 and 10000, inclusive"."""
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


class MultipartSender:
    """Uploads one file in parts. `on_multipart` is given a new multipart upload before any part is sent.

    A failed upload is aborted without `on_multipart`, and otherwise left open to be resumed. `completing` is
    called before the object can exist, with the ETag that is made from the parts' MD5s; None if their ETags
    are none.
    """

    def __init__(
        self,
        crt: CrtClient,
        config: StorageConfig,
        transfer: Transfer,
        on_multipart: Callable[[Multipart], None] | None,
        completing: Callable[[str | None], None],
    ) -> None:
        self._crt = crt
        self._config = config
        self._transfer = transfer
        self._key = transfer.target.key
        self._on_multipart = on_multipart
        self._completing = completing
        self._etags: dict[int, str] = {}
        self._crcs: dict[int, int] = {}
        self._accepted = 0
        self._is_resumed = False
        self._has_checksums = crt.dialect.sends_checksums
        """Whether the server was told that it is to keep checksums, and is sent those of the parts."""

    def send(self, resume: Multipart | None, part_size: int) -> Sent:
        """Resume `resume` if the server still has it, else create an upload with parts of `part_size`.

        One that the server has and does not let go on is aborted, and the upload begins anew, once; and once
        in larger parts at a server that turns out to take fewer. Raises `SlowLineError` where smaller parts
        are better; the upload was aborted.
        """
        size = self._transfer.source.size
        listed = self._kept_parts(resume) if resume is not None else None
        self._is_resumed = is_renewed = listed is not None
        if resume is not None and listed is not None:
            try:
                return self._send_all(resume, listed)
            except StorageError as exc:
                if not _is_unfit(exc):
                    raise
                self._begin_anew(resume, exc)
        part_size = max(part_size, least_part_size(size, self._crt.max_parts))
        multipart = self._create(part_size)
        try:
            return self._send_all(multipart, {})
        except StorageError as exc:
            larger = least_part_size(size, self._crt.max_parts)
            if larger <= part_size:
                if is_renewed and _is_unfit(exc) and self._on_multipart is not None:
                    self._abort(multipart)
                raise
            self._begin_anew(multipart, exc)
        return self._send_all(self._create(larger), {})

    def _begin_anew(self, multipart: Multipart, reason: StorageError) -> None:
        """Give up an upload that cannot go on, and forget its parts."""
        self._abort(multipart)
        _log.info("upload_begun_anew", key=self._key, multipart_id=multipart.upload_id, reason=reason.said)
        self._is_resumed = False
        self._has_checksums = self._crt.dialect.sends_checksums
        self._accepted = 0
        self._etags.clear()
        self._crcs.clear()

    def _send_all(self, multipart: Multipart, listed: Mapping[int, Mapping[str, Any]]) -> Sent:
        try:
            self._adopt_parts(multipart, listed)
            self._send_parts(multipart)
            return self._complete(multipart)
        except (SourceChangedError, SlowLineError):
            self._abort(multipart)
            raise
        except BaseException:
            if self._on_multipart is None:
                self._abort(multipart)
            raise

    def _create(self, part_size: int) -> Multipart:
        dialect = self._crt.dialect
        headers = object_headers(self._config, self._transfer)
        if dialect.sends_checksums and dialect.takes(CRC, "UploadPart"):
            headers = ((ALGORITHM, "CRC64NVME"), (TYPE, "FULL_OBJECT"), *headers)

        def attempt(omit: frozenset[str]) -> Mapping[str, Any]:
            sent = kept(headers, omit)
            self._has_checksums = ALGORITHM in names_of(sent)
            request = Request(
                "CreateMultipartUpload", "POST", self._key, query="uploads=", headers=tuple(sent)
            )
            return self._crt.call(request, cancelled=self._transfer.cancelled)

        answer = dialect.negotiate("CreateMultipartUpload", names_of(headers), attempt)
        multipart = Multipart(required(answer, "UploadId", "upload", self._key), part_size)
        if self._on_multipart is not None:
            try:
                self._on_multipart(multipart)
            except BaseException:
                self._abort(multipart)
                raise
        return multipart

    def _kept_parts(self, multipart: Multipart) -> dict[int, Mapping[str, Any]] | None:
        """The parts that the server lists, by number; None if the upload cannot be resumed."""
        size = self._transfer.source.size
        if multipart.part_size < S3_MIN_PART_SIZE or size > multipart.part_size * self._crt.max_parts:
            self._abort(multipart)
            return None
        try:
            return {int(part["PartNumber"]): part for part in self._list(multipart)}
        except StorageError as exc:
            # Ceph says NoSuchKey of an upload that is gone.
            if exc.code not in {"NoSuchUpload", "NoSuchKey"}:
                raise
        _log.info("multipart_gone", key=self._key, multipart_id=multipart.upload_id)
        return None

    def _list(self, multipart: Multipart) -> Iterator[Mapping[str, Any]]:
        marker = 0
        while True:
            query = f"max-parts=1000&part-number-marker={marker}&{_query(multipart.upload_id)}"
            request = Request("ListParts", "GET", self._key, query=query)
            answer = self._crt.call(request, cancelled=self._transfer.cancelled)
            yield from answer.get("Parts", [])
            next_marker = int(answer.get("NextPartNumberMarker") or 0)
            if not answer.get("IsTruncated") or next_marker <= marker:
                return
            marker = next_marker

    def _adopt_parts(self, multipart: Multipart, listed: Mapping[int, Mapping[str, Any]]) -> None:
        """Adopt the listed parts whose content is that of the file."""
        for part in parts_of(self._transfer.source.size, multipart.part_size):
            kept = listed.get(part.number)
            if kept is not None and kept.get("Size") == part.length and self._is_unchanged(part, kept):
                self._record(part, str(kept["ETag"]))
        if listed:
            _log.info("upload_resumed", key=self._key, parts_kept=len(self._etags), bytes_kept=self._accepted)

    def _is_unchanged(self, part: Part, kept: Mapping[str, Any]) -> bool:
        self._transfer.ensure_not_cancelled()
        source, content = self._transfer.source, self._transfer.content
        crc = self._crcs[part.number] = source.crc(part.offset, part.length)
        checksum = checksums.decode(kept.get("ChecksumCRC64NVME"))
        if checksum is not None:
            is_same = checksum == crc
        else:
            is_same = unquoted(kept.get("ETag")) == source.md5(part.offset, part.length).hex()
        if not (is_same or content.is_known) and (
            checksum is not None or makes_etags_of_md5s(self._crt, self._config, MULTIPART_ETAG)
        ):
            content.note_different_part()
        return is_same

    def _send_parts(self, multipart: Multipart) -> None:
        """Send what the server does not have; one part alone until the server has accepted its headers.

        Once a part goes without a checksum all do, because completion names those of all or of none.
        """
        parts = list(parts_of(self._transfer.source.size, multipart.part_size))
        dialect = self._crt.dialect
        while any(part.number not in self._etags for part in parts):
            names = BODY_HEADERS if self._has_checksums else BODY_HEADERS - {CRC, SDK_ALGORITHM}

            def attempt(omit: frozenset[str], names: frozenset[str] = names) -> None:
                self._has_checksums = CRC in names - omit
                if not self._has_checksums:
                    # The parts alone would not tell a later attempt whether the file is still the same.
                    self._transfer.content.checksum()
                left = [part for part in parts if part.number not in self._etags]
                if not dialect.is_sounded("UploadPart", names):
                    left = left[:1]
                self._send(multipart, left, BODY_HEADERS - names | omit)

            try:
                dialect.negotiate("UploadPart", names, attempt, remember=not self._is_resumed)
            except StorageError as exc:
                self._note_part_limit(exc)
                raise

    def _note_part_limit(self, refusal: StorageError) -> None:
        """Learn from the refusal of a part because of its number how many the server takes."""
        if not refusal.is_refusal or _PART_NUMBER.search(refusal.said) is None:
            return
        told = _MAX_PART_NUMBER.search(refusal.said)
        limit = int(told[1].replace(",", "")) if told is not None else max(self._etags, default=0)
        if LEAST_MAX_PARTS <= limit < self._crt.max_parts:
            self._crt.dialect.learn(more_parts_than(limit), refusal.said)

    def _send(self, multipart: Multipart, parts: Sequence[Part], omit: frozenset[str]) -> None:
        def prepare(part: Part, content: memoryview) -> Request:
            self._crcs[part.number] = crc = checksums.crc(content)
            return Request(
                "UploadPart",
                "PUT",
                self._key,
                query=f"partNumber={part.number}&{_query(multipart.upload_id)}",
                headers=tuple(self._crt.dialect.body_headers(content, checksums.encode(crc), omit)),
                body=content,
            )

        def accepted(part: Part, answer: Mapping[str, Any]) -> None:
            self._record(part, required(answer, "ETag", "upload", self._key))

        sender = PartSender(
            self._crt,
            self._transfer.source,
            self._key,
            attempts=PART_ATTEMPTS,
            cancelled=self._transfer.cancelled,
            is_too_slow=lambda: not self._etags and self._transfer.is_too_slow(),
        )
        sender.send(parts, prepare, accepted)

    def _record(self, part: Part, etag: str) -> None:
        self._etags[part.number] = etag
        self._accepted += part.length
        self._transfer.progress(self._accepted)

    def _complete(self, multipart: Multipart) -> Sent:
        size = self._transfer.source.size
        whole = 0
        for part in parts_of(size, multipart.part_size):
            whole = checksums.combine(whole, self._crcs[part.number], part.length)
        self._transfer.ensure_unchanged(whole)
        self._completing(self._expected_etag())
        self._transfer.ensure_not_cancelled()

        def attempt(condition: Headers) -> Mapping[str, Any]:
            headers: Headers = ((OBJECT_SIZE, str(size)), *condition)
            names = names_of(headers)
            if self._has_checksums:
                headers = ((CRC, self._transfer.content.checksum()), (TYPE, "FULL_OBJECT"), *headers)
                names = names_of(headers) | {PART_CHECKSUMS}

            def send(omit: frozenset[str]) -> Mapping[str, Any]:
                request = Request(
                    "CompleteMultipartUpload",
                    "POST",
                    self._key,
                    query=_query(multipart.upload_id),
                    headers=tuple(kept(headers, omit)),
                    body=self._part_list(with_checksums=PART_CHECKSUMS in names - omit),
                )
                return self._crt.call(request, seconds=COMPLETE_SECONDS, cancelled=self._transfer.cancelled)

            return self._crt.dialect.negotiate("CompleteMultipartUpload", names, send)

        answer = with_condition(
            self._crt.dialect,
            self._key,
            self._transfer.target.condition,
            attempt,
            present_etag=self._transfer.present_etag,
        )
        # Ceph answers with an empty one; the HEAD request that follows proves the object anyway.
        etag = unquoted(answer.get("ETag"))
        return Sent(etag, version(answer.get("VersionId")), multipart.part_size)

    def _expected_etag(self) -> str | None:
        try:
            digests = [bytes.fromhex(unquoted(etag)) for _, etag in sorted(self._etags.items())]
        except ValueError:
            return None
        is_md5 = all(len(digest) == checksums.MD5_BYTES for digest in digests)
        return checksums.multipart_etag(digests) if is_md5 else None

    def _part_list(self, *, with_checksums: bool) -> bytes:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(etag)}</ETag>"
            + (
                f"<ChecksumCRC64NVME>{checksums.encode(self._crcs[number])}</ChecksumCRC64NVME>"
                if with_checksums
                else ""
            )
            + "</Part>"
            for number, etag in sorted(self._etags.items())
        )
        root = "CompleteMultipartUpload"
        return f'<{root} xmlns="{XML_NAMESPACE}">{parts}</{root}>'.encode()

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


def _is_unfit(error: StorageError) -> bool:
    """Whether an upload that was begun earlier may never take what it is sent.

    It was begun in another dialect, the server replaces no part that it has (rclone's), or no longer has one.
    """
    is_refused = error.is_refusal and error.status != HTTPStatus.FORBIDDEN
    return is_refused or error.code in {"InvalidPart", "InvalidPartOrder"}


def abort(crt: CrtClient, key: str, upload_id: str) -> None:
    """Abort a multipart upload, if there is one with this id. Raises `StorageError`."""
    purpose = "abort the upload of"
    try:
        crt.call(Request("AbortMultipartUpload", "DELETE", key, purpose, _query(upload_id)))
    except StorageError as exc:
        if exc.code not in {"NoSuchUpload", "http-404"}:
            raise


def _query(upload_id: str) -> str:
    return f"uploadId={quote(upload_id, safe='')}"
