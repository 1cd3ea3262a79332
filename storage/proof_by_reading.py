"""Finds out with small objects what a server's answers prove, and reads back what they do not prove."""

import html
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog

from storage import checksums
from storage.aws.response_parsing import required, unquoted, version
from storage.bucket.documents import key_prefix
from storage.config import StorageConfig
from storage.dialect import (
    ALGORITHM,
    BODY_HEADERS,
    COMPARISON,
    CONTENT_MD5,
    CRC,
    HEEDED_IF_NONE_MATCH,
    MODE,
    OBJECT_SIZE,
    PART_CHECKSUMS,
    PART_COMPARISON,
    PUT_ETAG,
    READ_ETAG,
    SDK_ALGORITHM,
    TYPE,
    kept,
    names_of,
)
from storage.errors import ErrorKind, StorageError, UploadCancelledError
from storage.transfer.crt_client import POLL_SECONDS, CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import XML_NAMESPACE
from storage.transfer.preconditions import Headers
from storage.transfer.single_put import option_headers
from storage.verification import ObjectHead

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

PIECE_BYTES = 8 * 1024 * 1024
"""How much is read at a time."""
FIRST_LOOK_SECONDS = 0.5
"""How long to wait for a small object that the server does not show yet, before it is asked again."""
CONTENT = b"video-uploader finds out what this server makes of the ETag of an object, and removes this one.\n"
_RIGHT_CHECKSUM = checksums.encode(checksums.crc(CONTENT))
PROBE_NAME = ".video-uploader-probe-"
"""The start of the names of objects that find something out, below the prefix of all keys."""
WRONG_CHECKSUM = checksums.encode(checksums.crc(CONTENT) ^ 1)
_PURPOSE = "try wrong checksums on"
_COMPLETED_WITH = frozenset({CRC, TYPE, OBJECT_SIZE, PART_CHECKSUMS})
_MISMATCH_CODES = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)
"""Error codes by which servers refuse a checksum that is not the content's."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads an object back. `moved` is called after each piece.

    `look` gives what a HEAD request says now, and `delays` the seconds after which it is asked again, as a
    generator that waits for as long when it goes on and ends with 0.
    """

    crt: CrtClient
    key: str
    look: Callable[[], ObjectHead]
    delays: Callable[[], Iterator[float]]
    cancelled: Callable[[], bool]
    moved: Callable[[], None]

    def checksum(self, head: ObjectHead) -> str:
        """The CRC64NVME, in S3's text form, of an object that is read once, within the bandwidth limit.

        All its pieces must come under the ETag of the HEAD request `head`. A server that has named another
        one for as long as it may lag does so always: there they must come under that one, and another HEAD
        request at the end must say what `head` does. Raises `StorageError`: transient if the object is
        replaced meanwhile.
        """
        _log.info(
            "object_read_back", key=self.key, size=head.size, reason="the server gives no other proof of it"
        )
        value = done = 0
        expected = head.etag
        while done < head.size:
            length = min(PIECE_BYTES, head.size - done)
            piece, etag = self._read(done, length)
            if done == 0 and etag not in ("", expected):
                always_differs = not self.crt.dialect.takes(READ_ETAG)
                expected = etag if always_differs else self._settled_etag(head)
                if etag != expected:
                    piece, etag = self._read(done, length)
            if len(piece) != length or etag not in ("", expected):
                raise self._changed(f"{len(piece)} bytes came instead of {length}, under the ETag {etag}.")
            value = checksums.crc(piece, value)
            done += length
            self.moved()
        if expected != head.etag:
            if not self.look().is_same_as(head):
                raise self._changed("It is another one than before it was read.")
            self.crt.dialect.learn(READ_ETAG, f"GET named {expected} what HEAD named {head.etag}")
        return checksums.encode(value)

    def _settled_etag(self, head: ObjectHead) -> str:
        """The ETag under which the object is read: that of `head` or, at the end of the delays, another."""
        named: set[str] = set()
        for delay in self.delays():
            _, etag = self._read(0, 1)
            named.add(etag)
            if etag == head.etag or not delay:
                break
            if not self.look().is_same_as(head):
                raise self._changed("It is another one than when it was looked up.")
        if etag != head.etag and len(named) > 1:
            raise self._changed(f"It was read under the ETags {', '.join(sorted(named))}.")
        return etag

    def _read(self, start: int, length: int) -> tuple[bytes, str]:
        while (wait := self.crt.bandwidth.take(length)) > 0:
            if self.cancelled():
                raise UploadCancelledError(operation="read back", key=self.key)
            time.sleep(min(wait, POLL_SECONDS))
        headers = (("Range", f"bytes={start}-{start + length - 1}"),)
        seconds = max(self.crt.stall_seconds, length / 1024)
        request = Request("GetObject", "GET", self.key, "read back", headers=headers)
        answer = self.crt.call(request, seconds=seconds, cancelled=self.cancelled)
        return answer.get("Body") or b"", unquoted(answer.get("ETag"))

    def _changed(self, detail: str) -> StorageError:
        hint = f"{detail} It is tried again."
        return StorageError(ErrorKind.TRANSIENT, "read back", self.key, "incomplete-answer", hint)


def compares_checksums(crt: CrtClient, config: StorageConfig) -> bool:
    """Whether the server compares a CRC64NVME with the content: known, or found out by one small request.

    A server that does refuses an object with a wrong checksum; one that stores it repeats whatever it is
    told, which proves nothing. The object is removed again. Where no such object may be stored, the server is
    not known to compare. Raises `StorageError` where there was no answer.
    """
    dialect = crt.dialect

    if not dialect.takes(CRC, "PutObject"):
        return False

    def ask() -> bool:
        key = _probe_key(config)
        headers = [(CRC, WRONG_CHECKSUM), *_options(crt, config)]
        if dialect.takes(SDK_ALGORITHM, "PutObject"):
            headers.append((SDK_ALGORITHM, "CRC64NVME"))
        sending = Request("PutObject", "PUT", key, "try a wrong checksum on", "", tuple(headers), CONTENT)
        try:
            stored = crt.call(sending)
        except StorageError as exc:
            if exc.code in _MISMATCH_CODES:
                dialect.accept(COMPARISON)
                return True
            if not exc.is_refusal:
                raise
            dialect.learn(COMPARISON, f"{exc.said}, to a small object that would have told")
            return False
        dialect.learn(COMPARISON, "It stored an object with a wrong checksum")
        _remove(crt, key, stored)
        return False

    return dialect.find_out(COMPARISON, ask)


def compares_checksums_of_parts(crt: CrtClient, config: StorageConfig) -> bool:
    """The same of an object made of parts: known, or found out by a small upload, which is aborted again.

    A part of it is sent with a wrong checksum, and so is that of the whole. A server that refuses them, and
    takes the same with the right ones, compares; so does one that takes no notice and answers the right one.
    Raises `StorageError` where there was no answer.
    """
    dialect = crt.dialect
    if not (dialect.takes(CRC, "UploadPart") and dialect.takes(ALGORITHM, "CreateMultipartUpload")):
        return False

    def ask() -> bool:
        upload = _CheckedUpload(crt, config)
        try:
            believed = upload.believed()
        except StorageError as exc:
            if not exc.is_refusal:
                raise
            if not dialect.is_sounded("CompleteMultipartUpload", _COMPLETED_WITH):
                return False  # a large upload will teach which of its headers was refused
            believed = f"{exc.said}, to a small upload that would have told"
        finally:
            upload.clear_up()
        if believed:
            dialect.learn(PART_COMPARISON, believed)
        else:
            dialect.accept(PART_COMPARISON)
        return not believed

    return dialect.find_out(PART_COMPARISON, ask)


class _CheckedUpload:
    """A small multipart upload, with the checksums that a large one would have."""

    def __init__(self, crt: CrtClient, config: StorageConfig) -> None:
        self._crt = crt
        self._key = f"{_probe_key(config)}-parts"
        self._options = _options(crt, config)
        self._upload = self._etag = ""
        self._number = 1
        self._part_checksum = _RIGHT_CHECKSUM
        self._completed: Mapping[str, Any] | None = None

    def believed(self) -> str:
        """What the server believed that is not so; empty if nothing. Raises `StorageError`."""
        dialect = self._crt.dialect
        names = names_of(((ALGORITHM, ""), (TYPE, ""), *self._options))
        begun = dialect.negotiate("CreateMultipartUpload", names, self._begin)
        self._upload = f"uploadId={quote(required(begun, 'UploadId', _PURPOSE, self._key), safe='')}"
        self._etag = dialect.negotiate("UploadPart", BODY_HEADERS, self._send_part)
        if not dialect.takes(CRC, "UploadPart"):
            return "It takes no checksums of parts"
        is_refused = self._is_refused(self._send)
        if is_refused and not dialect.takes(CRC, "CompleteMultipartUpload"):
            return ""
        # If it took a wrong checksum of the part, that of the whole agrees with it.
        self._part_checksum = _RIGHT_CHECKSUM if is_refused else WRONG_CHECKSUM
        if self._is_refused(self._complete):
            return ""
        mode = self._taken("HeadObject", ((MODE, "ENABLED"),))
        repeated = _look(self._crt, self._key, mode).get("ChecksumCRC64NVME")
        is_right = checksums.decode(repeated) == checksums.crc(CONTENT)
        return "" if is_right else f"It took a wrong checksum, and answered {repeated}"

    def clear_up(self) -> None:
        """Abort the upload, or remove what was made of it."""
        if self._completed is not None:
            _remove(self._crt, self._key, self._completed)
        elif self._upload:
            _clear_up(self._crt, Request("AbortMultipartUpload", "DELETE", self._key, _PURPOSE, self._upload))

    def _is_refused(self, send: Callable[[str], object]) -> bool:
        """Whether a request is refused with a wrong checksum, and for no other reason."""
        try:
            send(WRONG_CHECKSUM)
        except StorageError as exc:
            if exc.code in _MISMATCH_CODES:
                return True
            if exc.status != HTTPStatus.BAD_REQUEST:
                raise
        else:
            return False
        send(_RIGHT_CHECKSUM)
        return True

    def _begin(self, omit: frozenset[str]) -> Mapping[str, Any]:
        headers = ((ALGORITHM, "CRC64NVME"), (TYPE, "FULL_OBJECT"), *self._options)
        request = Request("CreateMultipartUpload", "POST", self._key, _PURPOSE, "uploads=")
        return self._crt.call(replace(request, headers=tuple(kept(headers, omit))))

    def _send_part(self, omit: frozenset[str]) -> str:
        headers = self._crt.dialect.body_headers(memoryview(CONTENT), _RIGHT_CHECKSUM, omit)
        query = f"partNumber=1&{self._upload}"
        request = Request("UploadPart", "PUT", self._key, _PURPOSE, query, tuple(headers), CONTENT)
        return required(self._crt.call(request), "ETag", _PURPOSE, self._key)

    def _send(self, checksum: str) -> None:
        """Send the second part; it becomes the object's only one, unless its checksum is refused."""
        headers = self._taken("UploadPart", ((CRC, checksum), (SDK_ALGORITHM, "CRC64NVME")))
        query = f"partNumber=2&{self._upload}"
        request = Request("UploadPart", "PUT", self._key, _PURPOSE, query, headers, CONTENT)
        self._etag = required(self._crt.call(request), "ETag", _PURPOSE, self._key)
        self._number = 2

    def _complete(self, checksum: str) -> None:
        operation = "CompleteMultipartUpload"
        headers = ((CRC, checksum), (TYPE, "FULL_OBJECT"), (OBJECT_SIZE, str(len(CONTENT))))
        told = ((PART_CHECKSUMS, f"<ChecksumCRC64NVME>{self._part_checksum}</ChecksumCRC64NVME>"),)
        inner = "".join(value for _, value in self._taken(operation, told))
        body = _part_list(self._etag, self._number, inner)
        taken = self._taken(operation, headers)
        completing = Request(operation, "POST", self._key, _PURPOSE, self._upload, taken, body)
        self._completed = self._crt.call(completing)

    def _taken(self, operation: str, headers: Headers) -> tuple[tuple[str, str], ...]:
        return tuple(each for each in headers if self._crt.dialect.takes(each[0], operation))


def makes_etags_of_md5s(crt: CrtClient, config: StorageConfig, feature: str) -> bool:
    """Whether the server computes ETags from content: known, or found out by storing a small object.

    `feature` is `PUT_ETAG` or `MULTIPART_ETAG`. The object is removed again. Raises `StorageError`.
    """
    dialect = crt.dialect

    def ask() -> bool:
        key = _probe_key(config)
        options = tuple(_options(crt, config))
        made = (_put if feature == PUT_ETAG else _put_in_parts)(crt, key, options)
        etag = unquoted(_look(crt, key).get("ETag"))
        digest = checksums.md5(CONTENT)
        is_digest = etag in (digest.hex(), checksums.multipart_etag([digest]))
        if is_digest:
            dialect.accept(feature)
        else:
            dialect.learn(feature, f"It made the ETag {etag} of an object whose MD5 is {digest.hex()}")
        _remove(crt, key, made)
        return is_digest

    return dialect.find_out(feature, ask)


def keeps_objects(crt: CrtClient, config: StorageConfig) -> bool:
    """Whether If-None-Match keeps the server from replacing an object, which some take and ignore.

    Known, or found out by writing a small object twice, which is removed again. Raises `StorageError`.
    """
    dialect = crt.dialect

    def ask() -> bool:
        key = _probe_key(config)
        options = tuple(_options(crt, config))
        made = [_put(crt, key, options)]
        try:
            made.append(_put(crt, key, (*options, ("If-None-Match", "*"))))
        except StorageError as exc:
            if exc.status != HTTPStatus.PRECONDITION_FAILED:
                raise
            dialect.accept(HEEDED_IF_NONE_MATCH)
            return True
        finally:
            _remove(crt, key, *made)
        dialect.learn(HEEDED_IF_NONE_MATCH, "It replaced an object despite If-None-Match.")
        return False

    return dialect.find_out(HEEDED_IF_NONE_MATCH, ask)


def _probe_key(config: StorageConfig) -> str:
    return f"{key_prefix(config.prefix)}{PROBE_NAME}{uuid.uuid4()}"


def _options(crt: CrtClient, config: StorageConfig) -> list[tuple[str, str]]:
    """The options of an object that a bucket's policy may demand, and that the server takes."""
    return [(name, value) for name, value in option_headers(config) if crt.dialect.takes(name, "PutObject")]


def _remove(crt: CrtClient, key: str, *made: Mapping[str, Any]) -> None:
    """Remove an object, and in a bucket with versions those that the answers in `made` name.

    A version that may not be removed is hidden, as any object is there that is removed without naming one.
    """
    removing = Request("DeleteObject", "DELETE", key, "remove")
    versions = [found for answer in made if (found := version(answer.get("VersionId")))]
    queries = [f"versionId={quote(found, safe='')}" for found in versions]
    if not queries or not all(_clear_up(crt, replace(removing, query=query)) for query in queries):
        _clear_up(crt, removing)


def _clear_up(crt: CrtClient, request: Request) -> bool:
    """Remove what was made to find something out; a failure is only logged, because that is known by then."""
    try:
        crt.call(request)
    except StorageError as exc:
        _log.warning("probe_left", key=request.key, code=exc.code, hint=exc.hint)
        return False
    return True


def _put(crt: CrtClient, key: str, options: Headers) -> Mapping[str, Any]:
    def attempt(omit: frozenset[str]) -> Mapping[str, Any]:
        headers = crt.dialect.body_headers(
            memoryview(CONTENT), checksums.encode(checksums.crc(CONTENT)), omit
        )
        return crt.call(Request("PutObject", "PUT", key, "try to store", "", (*options, *headers), CONTENT))

    return crt.dialect.negotiate("PutObject", BODY_HEADERS, attempt)


def _put_in_parts(crt: CrtClient, key: str, options: Headers) -> Mapping[str, Any]:
    purpose = "find out the ETag of"
    begun = crt.call(Request("CreateMultipartUpload", "POST", key, purpose, "uploads=", options))
    upload = f"uploadId={quote(required(begun, 'UploadId', purpose, key), safe='')}"
    try:

        def attempt(omit: frozenset[str]) -> str:
            headers = crt.dialect.body_headers(memoryview(CONTENT), "", BODY_HEADERS - {CONTENT_MD5} | omit)
            query = f"partNumber=1&{upload}"
            request = Request("UploadPart", "PUT", key, purpose, query, tuple(headers), CONTENT)
            return required(crt.call(request), "ETag", purpose, key)

        part = crt.dialect.negotiate("UploadPart", {CONTENT_MD5}, attempt)
        completing = Request("CompleteMultipartUpload", "POST", key, purpose, upload, body=_part_list(part))
        return crt.call(completing)
    except StorageError:
        _clear_up(crt, Request("AbortMultipartUpload", "DELETE", key, purpose, upload))
        raise


def _part_list(etag: str, number: int = 1, inner: str = "") -> bytes:
    """The body of CompleteMultipartUpload with one part; `inner` is XML about it."""
    part = f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(etag)}</ETag>{inner}</Part>"
    root = "CompleteMultipartUpload"
    return f'<{root} xmlns="{XML_NAMESPACE}">{part}</{root}>'.encode()


def _look(crt: CrtClient, key: str, headers: tuple[tuple[str, str], ...] = ()) -> Mapping[str, Any]:
    """The answer to a HEAD request, repeated for 15 seconds while the server does not show the object."""
    wait = FIRST_LOOK_SECONDS
    while True:
        try:
            return crt.call(Request("HeadObject", "HEAD", key, "find out the proof of", headers=headers))
        except StorageError as exc:
            if exc.status != HTTPStatus.NOT_FOUND or wait > FIRST_LOOK_SECONDS * 16:
                raise
        time.sleep(wait)
        wait *= 2
