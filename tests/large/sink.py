"""An S3 server for large files: it keeps no byte of what it is sent, only checksums, and counts.

It speaks what an upload needs: PutObject, CreateMultipartUpload, UploadPart, ListParts,
CompleteMultipartUpload, AbortMultipartUpload, ListMultipartUploads and HeadObject. What it says about an
object is computed from the bytes that arrived, never taken from what the client claims; a claim that does
not fit is refused as AWS refuses it.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

from storage import checksums

BLOCK_BYTES: Final = 512 * 1024
PAGE_OF_PARTS: Final = 100
"""S3 may list fewer parts than it is asked for; so does this, for clients to notice."""
NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
CHECKSUM: Final = "x-amz-checksum-crc64nvme"


@dataclass(frozen=True)
class Piece:
    """A body that arrived, as far as it is remembered."""

    size: int
    crc: int
    etag: str


@dataclass
class Upload:
    """A multipart upload that is open."""

    key: str
    parts: dict[int, Piece] = field(default_factory=dict)
    begun_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class RefusedError(Exception):
    """What is asked is answered with an error."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class Sink:
    """The server's memory. `on_bytes` hears of each block that arrives, with the sum of all so far;
    `overwritten` counts the objects that came when there was one."""

    def __init__(self) -> None:
        self.url = ""
        self.bytes_received = 0
        self.parts_received = 0
        self.objects: dict[str, Piece] = {}
        self.overwritten = 0
        self.uploads: dict[str, Upload] = {}
        self.on_bytes: Callable[[int], None] = lambda _: None
        self._lock = threading.Lock()

    def count(self, length: int) -> None:
        """Note that bytes have come in, whatever becomes of them."""
        with self._lock:
            self.bytes_received += length
            total = self.bytes_received
        self.on_bytes(total)

    def put(self, key: str, piece: Piece, *, if_absent: bool = False) -> Piece:
        """A single PUT, which replaces nothing with `if_absent`."""
        with self._lock:
            if if_absent and key in self.objects:
                raise RefusedError(412, "PreconditionFailed")
            self._store(key, piece)
        return piece

    def begin(self, key: str) -> str:
        """Begin a multipart upload; returns its id."""
        upload_id = uuid.uuid4().hex
        with self._lock:
            self.uploads[upload_id] = Upload(key)
        return upload_id

    def add(self, upload_id: str, number: int, piece: Piece) -> None:
        """A part has arrived whole."""
        with self._lock:
            self._upload(upload_id).parts[number] = piece
            self.parts_received += 1

    def parts(self, upload_id: str, after: int, most: int) -> tuple[list[tuple[int, Piece]], bool]:
        """A page of an upload's parts, and whether there are more."""
        length = min(most, PAGE_OF_PARTS)
        with self._lock:
            parts = sorted(self._upload(upload_id).parts.items())
        left = [(number, piece) for number, piece in parts if number > after]
        return left[:length], len(left) > length

    def complete(self, upload_id: str, numbers: list[int], size: int | None, claimed: str | None) -> Piece:
        """Make an object of parts."""
        with self._lock:
            upload = self._upload(upload_id)
            try:
                parts = [upload.parts[number] for number in numbers]
            except KeyError as exc:
                raise RefusedError(400, "InvalidPart") from exc
            crc = 0
            for part in parts:
                crc = checksums.combine(crc, part.crc, part.size)
            whole = Piece(
                sum(part.size for part in parts),
                crc,
                checksums.multipart_etag([bytes.fromhex(part.etag) for part in parts]),
            )
            if size not in {None, whole.size}:
                raise RefusedError(400, "InvalidRequest")
            ensure_as_claimed(whole, claimed)
            self._store(upload.key, whole)
            del self.uploads[upload_id]
        return whole

    def abort(self, upload_id: str) -> None:
        """Forget an upload and its parts."""
        with self._lock:
            self._upload(upload_id)
            del self.uploads[upload_id]

    def _store(self, key: str, piece: Piece) -> None:
        self.overwritten += key in self.objects
        self.objects[key] = piece

    def _upload(self, upload_id: str) -> Upload:
        try:
            return self.uploads[upload_id]
        except KeyError as exc:
            raise RefusedError(404, "NoSuchUpload") from exc


def ensure_as_claimed(piece: Piece, claimed: str | None) -> None:
    """Refuse bytes that are not those of the checksum that came along."""
    if claimed is not None and claimed != checksums.encode(piece.crc):
        raise RefusedError(400, "BadDigest")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    sink: Sink

    def handle(self) -> None:
        """Serve until the client goes; one that is killed goes without a word."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_GET(self) -> None:
        self._serve(lambda _, query: self._get(query))

    def do_HEAD(self) -> None:
        self._serve(lambda key, _: self._head(key))

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""

    def _serve(self, action: Callable[[str, dict[str, str]], None]) -> None:
        address = urlsplit(self.path)
        _, _, key = unquote(address.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        try:
            action(key, query)
        except RefusedError as refused:
            body = f"<Error><Code>{refused.code}</Code><Message>Refused.</Message></Error>"
            self._answer(refused.status, body)

    def _put(self, key: str, query: dict[str, str]) -> None:
        piece = self._receive()
        if piece is None:
            self.close_connection = True
            return
        ensure_as_claimed(piece, self.headers.get(CHECKSUM))
        if "uploadId" in query:
            self.sink.add(query["uploadId"], int(query["partNumber"]), piece)
        else:
            self.sink.put(key, piece, if_absent=self.headers.get("If-None-Match") == "*")
        self._answer(200, "", {"ETag": f'"{piece.etag}"', CHECKSUM: checksums.encode(piece.crc)})

    def _post(self, key: str, query: dict[str, str]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            upload_id = self.sink.begin(key)
            self._answer(200, _document("InitiateMultipartUploadResult", {"Key": key, "UploadId": upload_id}))
            return
        numbers = [
            int(element.text or "") for element in ET.fromstring(body).iter(f"{{{NAMESPACE}}}PartNumber")
        ]
        size = self.headers.get("x-amz-mp-object-size")
        whole = self.sink.complete(
            query["uploadId"], numbers, None if size is None else int(size), self.headers.get(CHECKSUM)
        )
        fields = {"Key": key, "ETag": f'"{whole.etag}"', "ChecksumCRC64NVME": checksums.encode(whole.crc)}
        self._answer(200, _document("CompleteMultipartUploadResult", fields))

    def _get(self, query: dict[str, str]) -> None:
        if "uploads" in query:
            found = [
                _fields(
                    "Upload", {"Key": upload.key, "UploadId": upload_id, "Initiated": _iso(upload.begun_at)}
                )
                for upload_id, upload in list(self.sink.uploads.items())
                if upload.key.startswith(query.get("prefix", ""))
            ]
            self._answer(200, _document("ListMultipartUploadsResult", {"IsTruncated": "false"}, *found))
            return
        if "uploadId" not in query:
            raise RefusedError(501, "NotImplemented")
        page, more = self.sink.parts(
            query["uploadId"], int(query.get("part-number-marker", 0)), int(query.get("max-parts", 1000))
        )
        listed = [
            _fields(
                "Part",
                {
                    "PartNumber": str(number),
                    "Size": str(piece.size),
                    "ETag": f'"{piece.etag}"',
                    "ChecksumCRC64NVME": checksums.encode(piece.crc),
                },
            )
            for number, piece in page
        ]
        fields = {"IsTruncated": str(more).lower()}
        if more:
            fields["NextPartNumberMarker"] = str(page[-1][0])
        self._answer(200, _document("ListPartsResult", fields, *listed))

    def _head(self, key: str) -> None:
        piece = self.sink.objects.get(key)
        if piece is None:
            self._answer(404, "")
            return
        self.send_response_only(200)
        self.send_header("Content-Length", str(piece.size))
        self.send_header("ETag", f'"{piece.etag}"')
        self.send_header("Last-Modified", format_datetime(datetime.now(UTC), usegmt=True))
        self.send_header(CHECKSUM, checksums.encode(piece.crc))
        self.send_header("x-amz-checksum-type", "FULL_OBJECT")
        self.end_headers()

    def _delete(self, key: str, query: dict[str, str]) -> None:
        if "uploadId" in query:
            self.sink.abort(query["uploadId"])
        else:
            self.sink.objects.pop(key, None)
        self._answer(204, "")

    def _receive(self) -> Piece | None:
        """Take the body and keep its digests; None if it does not come whole."""
        length = left = int(self.headers["Content-Length"])
        crc, md5 = 0, hashlib.md5(usedforsecurity=False)
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while left:
            got = self.rfile.readinto(buffer[: min(left, BLOCK_BYTES)])
            if not got:
                return None
            crc = checksums.crc(buffer[:got], crc)
            md5.update(buffer[:got])
            self.sink.count(got)
            left -= got
        return Piece(length, crc, md5.hexdigest())

    def _answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        content = body.encode()
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _document(root: str, fields: dict[str, str], *children: str) -> str:
    return f'<{root} xmlns="{NAMESPACE}">{_elements(fields)}{"".join(children)}</{root}>'


def _fields(name: str, fields: dict[str, str]) -> str:
    return f"<{name}>{_elements(fields)}</{name}>"


def _elements(fields: dict[str, str]) -> str:
    return "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@contextmanager
def running_sink() -> Iterator[Sink]:
    """A sink on a free port of the loopback interface while the block lasts."""
    sink = Sink()
    handler = type("SinkHandler", (Handler,), {"sink": sink})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    sink.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
