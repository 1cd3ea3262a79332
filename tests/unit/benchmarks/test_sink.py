"""The answers of the benchmarks' S3 server: what it computes of bodies, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from benchmarks import toolbox
from benchmarks.files import FileSet
from benchmarks.process import CommandFailedError
from benchmarks.sink_server import Sink, running_sink
from benchmarks.uploader import require_received, uploader_for
from storage import checksums

KEY = "/bucket/videos/a%20b.mp4"
CHECKSUM = "x-amz-checksum-crc64nvme"
ENCRYPTION = "x-amz-server-side-encryption"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
BODY = os.urandom(200_003)


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self, element: str) -> str | None:
        return ET.fromstring(self.body).findtext(f"{NAMESPACE}{element}")

    @property
    def code(self) -> str | None:
        return ET.fromstring(self.body).findtext("Code")


@dataclass(frozen=True)
class Client:
    """A connection to a sink."""

    sink: Sink
    connection: http.client.HTTPConnection

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(
            method,
            path,
            body,  # type: ignore[arg-type]  # bytes, or an iterator for a chunked body
            named,
            encode_chunked=named.get("Transfer-Encoding") == "chunked",
        )
        answer = self.connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())

    def head(self, path: str = KEY) -> Answer:
        return self("HEAD", path, x_amz_checksum_mode="ENABLED")


def connect(sink: Sink) -> http.client.HTTPConnection:
    host = urlsplit(sink.url).netloc
    if sink.certificate:
        return http.client.HTTPSConnection(
            host, timeout=20, context=ssl.create_default_context(cafile=sink.certificate)
        )
    return http.client.HTTPConnection(host, timeout=20)


@pytest.fixture(scope="module", params=["http", "https"])
def sink(request: pytest.FixtureRequest) -> Iterator[Sink]:
    try:
        with running_sink(tls=request.param == "https", etag="md5") as running:
            yield running
    except toolbox.UnavailableError as error:
        pytest.skip(f"the sink cannot be built here: {error}")


@pytest.fixture
def client(sink: Sink) -> Iterator[Client]:
    sink.reset()
    connection = connect(sink)
    yield Client(sink, connection)
    connection.close()


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def crc_of(body: bytes) -> str:
    return checksums.encode(checksums.crc(body, 0))


@pytest.mark.parametrize("length", [0, 1, 63, 64, 127, 128, 1000, len(BODY)])
def test_an_object_has_the_digests_of_its_body(client: Client, length: int) -> None:
    """Checksum and ETag are those of the bytes, whatever their number."""
    body = BODY[:length]
    put = client("PUT", KEY, body, x_amz_meta_origin="daemon", Content_Type="video/mp4")
    head = client.head()
    assert (put.status, put.headers["etag"]) == (200, etag_of(body))
    assert head.headers["content-length"] == str(length)
    assert (head.headers["etag"], head.headers[CHECKSUM]) == (etag_of(body), crc_of(body))
    assert head.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert head.headers["x-amz-meta-origin"] == "daemon"
    assert head.headers["content-type"] == "video/mp4"


def test_a_head_without_checksum_mode_has_no_checksum(client: Client) -> None:
    """As on AWS, a checksum is shown to those that ask for it."""
    client("PUT", KEY, BODY)
    assert CHECKSUM not in client("HEAD", KEY).headers


def test_a_body_with_another_checksum_is_refused(client: Client) -> None:
    """No object comes of a body that is not what its CRC64NVME or its MD5 says."""
    wrong = base64.b64encode(b"01234567").decode()
    wrong_md5 = base64.b64encode(hashlib.md5(b"x", usedforsecurity=False).digest()).decode()
    answers = [
        client("PUT", KEY, BODY, x_amz_checksum_crc64nvme=wrong),
        client("PUT", KEY, BODY, Content_MD5=wrong_md5),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(400, "BadDigest")] * 2
    assert client.head().status == 404


def test_a_condition_that_does_not_hold_is_refused(client: Client) -> None:
    """A present object answers `If-None-Match: *` with 412, another one than expected `If-Match`."""
    assert client("PUT", KEY, BODY, If_None_Match="*").status == 200
    assert client("PUT", KEY, b"other", If_None_Match="*").status == 412
    assert client("PUT", KEY, b"other", If_Match='"0"').status == 412
    assert client.head().headers["etag"] == etag_of(BODY)
    assert client("PUT", KEY, b"other", If_Match=etag_of(BODY)).status == 200


def begin(client: Client, key: str = KEY) -> str:
    upload_id = client("POST", f"{key}?uploads").text("UploadId")
    assert upload_id
    return upload_id


def complete(client: Client, upload_id: str, numbers: tuple[int, ...], **headers: str) -> Answer:
    parts = "".join(f"<Part><ETag>x</ETag><PartNumber>{number}</PartNumber></Part>" for number in numbers)
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return client("POST", f"{KEY}?uploadId={upload_id}", document, **headers)


def test_an_object_of_parts_has_the_digests_of_the_whole(client: Client) -> None:
    """Parts sent in any order; the checksum is combined, the ETag that of the parts' MD5s."""
    pieces = {2: BODY[100_000:], 1: BODY[:100_000]}
    upload_id = begin(client)
    for number, piece in pieces.items():
        path = f"{KEY}?partNumber={number}&uploadId={upload_id}"
        assert client("PUT", path, piece, x_amz_checksum_crc64nvme=crc_of(piece)).status == 200
    listed = client("GET", f"{KEY}?uploadId={upload_id}&max-parts=1")
    assert (listed.text("IsTruncated"), listed.text("NextPartNumberMarker")) == ("true", "1")
    done = complete(
        client, upload_id, (1, 2), x_amz_checksum_crc64nvme=crc_of(BODY), x_amz_mp_object_size=str(len(BODY))
    )
    digests = b"".join(hashlib.md5(pieces[number], usedforsecurity=False).digest() for number in (1, 2))
    expected = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-2"'
    assert (done.status, done.text("ETag"), done.text("ChecksumCRC64NVME")) == (200, expected, crc_of(BODY))
    assert client.head().headers[CHECKSUM] == crc_of(BODY)
    assert client("GET", f"{KEY}?uploadId={upload_id}").status == 404


def test_a_completion_that_does_not_fit_its_parts_is_refused(client: Client) -> None:
    """Another checksum, another size or a part that was never sent makes no object."""
    upload_id = begin(client)
    client("PUT", f"{KEY}?partNumber=1&uploadId={upload_id}", BODY)
    wrong = base64.b64encode(b"01234567").decode()
    answers = [
        complete(client, upload_id, (1,), x_amz_checksum_crc64nvme=wrong),
        complete(client, upload_id, (1,), x_amz_mp_object_size="1"),
        complete(client, upload_id, (1, 2)),
    ]
    assert [answer.code for answer in answers] == ["BadDigest", "InvalidRequest", "InvalidPart"]
    assert client.head().status == 404
    assert client.sink.stats()["open_uploads"] == 1
    assert client("DELETE", f"{KEY}?uploadId={upload_id}").status == 204
    assert client.sink.stats()["open_uploads"] == 0


def test_open_uploads_are_listed(client: Client) -> None:
    """ListMultipartUploads shows those below a prefix."""
    upload_id = begin(client)
    begin(client, "/bucket/elsewhere.mp4")
    listed = ET.fromstring(client("GET", "/bucket?uploads&prefix=videos/").body)
    assert [element.text for element in listed.iter(f"{NAMESPACE}UploadId")] == [upload_id]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("is_right", [False, True])
def test_a_checksum_in_a_trailer_counts(client: Client, is_chunked: bool, is_right: bool) -> None:
    """aws-chunked bodies are unwrapped, within `Transfer-Encoding: chunked` or not."""
    claimed = crc_of(BODY if is_right else b"other")
    wrapped = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (BODY[:70_000], BODY[70_000:]))
    wrapped += b"0\r\n" + f"{CHECKSUM}:{claimed}\r\n\r\n".encode()
    headers = {
        "x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "Content_Encoding": "aws-chunked",
        "x_amz_decoded_content_length": str(len(BODY)),
        "x_amz_trailer": CHECKSUM,
    }
    if is_chunked:
        pieces = (wrapped[at : at + 9_999] for at in range(0, len(wrapped), 9_999))
        answer = client("PUT", KEY, pieces, Transfer_Encoding="chunked", **headers)
    else:
        answer = client("PUT", KEY, wrapped, **headers)
    assert answer.status == (200 if is_right else 400)
    if is_right:
        assert client.head().headers["etag"] == etag_of(BODY)


def test_objects_are_listed_in_pages_and_by_directory(client: Client) -> None:
    """ListObjectsV2 sorts by key, continues after a token and gathers what a delimiter ends."""
    for name in ("b/1", "a", "b/2", "c"):
        client("PUT", f"/bucket/{name}", b"")
    first = ET.fromstring(client("GET", "/bucket?list-type=2&max-keys=2&delimiter=/").body)
    token = first.findtext(f"{NAMESPACE}NextContinuationToken")
    assert [element.text for element in first.iter(f"{NAMESPACE}Key")] == ["a"]
    assert [element.text for element in first.iter(f"{NAMESPACE}Prefix")] == ["b/"]
    rest = ET.fromstring(client("GET", f"/bucket?list-type=2&delimiter=/&continuation-token={token}").body)
    assert [element.text for element in rest.iter(f"{NAMESPACE}Key")] == ["c"]
    assert rest.findtext(f"{NAMESPACE}IsTruncated") == "false"


def test_an_object_can_be_deleted(client: Client) -> None:
    """After a DELETE the object is missing."""
    client("PUT", KEY, BODY)
    assert client("GET", KEY, Range="bytes=10-19").headers["content-range"] == f"bytes 10-19/{len(BODY)}"
    assert client("DELETE", KEY).status == 204
    assert client.head().status == 404


def test_requests_and_bytes_are_counted(client: Client) -> None:
    """The counts are those since the last reset."""
    client("PUT", KEY, BODY)
    client.head()
    stats = client.sink.stats()
    assert (stats["bytes"], stats["objects"]) == (len(BODY), 1)
    assert (stats["requests"]["PutObject"], stats["requests"]["HeadObject"]) == (1, 1)


def test_the_line_delays_answers_and_limits_bodies(client: Client) -> None:
    """An answer takes a round trip at least; a body takes its bytes by the bandwidth."""
    client.sink.set_line(rtt_ms=40, bytes_per_second=2_000_000)
    try:
        slow = Client(client.sink, connect(client.sink))
        began = time.monotonic()
        slow("PUT", KEY, BODY)
        assert time.monotonic() - began >= 0.08 + len(BODY) / 2_000_000 * 0.8
        began = time.monotonic()
        slow.head()
        assert time.monotonic() - began >= 0.04
        slow.connection.close()
    finally:
        client.sink.set_line()


def test_an_etag_is_the_md5_that_was_sent_where_none_is_computed() -> None:
    """Without `--etag md5` a client's own MD5 is believed; the object of a body without one is encrypted."""
    try:
        with running_sink(tls=False) as sink:
            client = Client(sink, connect(sink))
            md5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
            sent = client("PUT", KEY, BODY, Content_MD5=md5).headers
            assert (sent["etag"], ENCRYPTION in sent) == (etag_of(BODY), False)
            for answer in client("PUT", KEY, BODY), client("HEAD", KEY):
                assert answer.headers[ENCRYPTION] == "aws:kms"
                assert re.fullmatch('"[0-9a-f]{32}"', answer.headers["etag"])
                assert answer.headers["etag"] != etag_of(BODY)
            client.connection.close()
    except toolbox.UnavailableError as error:
        pytest.skip(f"the sink cannot be built here: {error}")


def test_a_run_that_sent_less_than_its_files_fails(client: Client) -> None:
    """Every object and every byte must have arrived; an object that was there before is none of the run's."""
    files = FileSet("", 2, len(BODY))
    client("PUT", "/bucket/a", BODY)
    with pytest.raises(CommandFailedError, match="1 objects"):
        require_received(client.sink, files)
    client("PUT", "/bucket/b", BODY[:-1])
    with pytest.raises(CommandFailedError, match="bytes"):
        require_received(client.sink, files)
    client("PUT", "/bucket/b", BODY)
    require_received(client.sink, files)


def test_an_uploader_finds_no_objects_of_a_run_before(client: Client, tmp_path: Path) -> None:
    """A fresh ledger belongs to an empty sink."""
    client("PUT", KEY, BODY)
    uploader_for(client.sink, str(tmp_path / "daemon"))
    assert client.head().status == 404
