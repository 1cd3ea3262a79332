"""`PublicCheck`: a public URL gives everyone the object, with its length and its type."""

import threading
from collections.abc import Iterator
from socket import create_server
from urllib.parse import urlsplit

import pytest

from storage import ErrorKind, PublicCheck, StorageError
from tests.support.certificates import Certificate
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.s3_server import S3Server

KEY = "videos/v/my video_720p.mp4"
CONTENT = bytes(1000)
RIGHT = {"content-type": "video/mp4", "content-range": "bytes 0-0/1000"}


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    with FaultProxy() as server:
        yield server


def answering(server: FaultProxy, status: int, headers: dict[str, str], body: bytes = b"\0") -> str:
    """Have the server answer so; returns the URL to fetch."""
    server.fault = lambda _request, _forward: Answer(status, headers, body)
    return f"{server.url}/videos/v/my%20video_720p.mp4"


def require(url: str, *, size: int = 1000, content_type: str = "video/mp4", timeout: float = 10.0) -> None:
    PublicCheck(timeout=timeout).require(url, key=KEY, size=size, content_type=content_type)


def refused(url: str, **expected: object) -> StorageError:
    with pytest.raises(StorageError) as caught:
        require(url, **expected)  # type: ignore[arg-type]  # what a test expects
    assert (caught.value.operation, caught.value.key) == ("fetch without credentials", KEY)
    return caught.value


@pytest.mark.parametrize("acl", ["public-read", "private"])
def test_a_real_server_lets_everyone_fetch_what_is_public_and_only_that(
    s3: S3Server, bucket: str, acl: str
) -> None:
    s3.client().put_object(
        Bucket=bucket,
        Key="my video.mp4",
        Body=CONTENT,
        ContentType="video/mp4",
        ACL=acl,  # type: ignore[arg-type]
    )
    url = f"{s3.url}/{bucket}/my%20video.mp4"
    if acl == "public-read":
        require(url)
        assert refused(url, size=999).code == "public-length"
    else:
        assert refused(url).code == "not-public"


def test_one_byte_is_asked_for_without_credentials(server: FaultProxy) -> None:
    require(answering(server, 206, RIGHT))
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/videos/v/my%20video_720p.mp4")
    assert request.headers["Range"] == "bytes=0-0"
    assert not {"Authorization", "Cookie", "X-Amz-Date"} & set(request.headers)


def test_a_type_may_have_parameters_and_any_case(server: FaultProxy) -> None:
    require(answering(server, 206, RIGHT | {"content-type": "Video/MP4; codecs=avc1"}))


def test_a_server_without_ranges_gives_the_length_of_the_whole(server: FaultProxy) -> None:
    url = answering(server, 200, {"content-type": "video/mp4"}, CONTENT)
    require(url)
    assert refused(url, size=999).code == "public-length"


def test_an_empty_object_has_no_first_byte(server: FaultProxy) -> None:
    url = answering(server, 416, {"content-range": "bytes */0", "content-type": "application/xml"}, b"")
    require(url, size=0)
    assert refused(url, size=1).code == "public-length"


@pytest.mark.parametrize(("status", "code"), [(401, "not-public"), (403, "not-public"), (404, "not-found")])
def test_a_refusal_names_the_three_ways_out(server: FaultProxy, status: int, code: str) -> None:
    error = refused(answering(server, status, {"content-type": "application/xml"}, b"<Error/>"))
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, code)
    for word in ("AWS_S3_ACL=public-read", "bucket policy", "CLOUDFRONT_DOMAIN", server.url, str(status)):
        assert word in error.hint


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (206, RIGHT | {"content-range": "bytes 0-0/999"}, "public-length"),
        (206, RIGHT | {"content-range": "bytes 0-0/*"}, "http-206"),
        (206, {"content-type": "video/mp4"}, "http-206"),
        (206, RIGHT | {"content-type": "text/html"}, "public-type"),
        (206, {"content-range": "bytes 0-0/1000"}, "public-type"),
        (416, {"content-range": "bytes */0"}, "public-length"),
        (500, RIGHT, "http-500"),
        (503, {}, "http-503"),
        (304, {}, "http-304"),
    ],
)
def test_whatever_else_is_wrong_may_be_right_later(
    server: FaultProxy, status: int, headers: dict[str, str], code: str
) -> None:
    """A cache may still hold the object of earlier content, and a site be down for a moment."""
    error = refused(answering(server, status, headers))
    assert (error.kind, error.code) == (ErrorKind.TRANSIENT, code)


def test_a_redirect_is_followed_as_players_follow_it(server: FaultProxy) -> None:
    def move(request: Request, forward: Forward) -> Answer:
        if request.path == "/old":
            return Answer(302, {"location": "/new"})
        return Answer(206, RIGHT, b"\0")

    server.fault = move
    require(f"{server.url}/old")
    assert [request.path for request in server.requests] == ["/old", "/new"]
    assert {request.headers["Range"] for request in server.requests} == {"bytes=0-0"}


def test_a_redirect_in_circles_ends(server: FaultProxy) -> None:
    url = answering(server, 302, {"location": "/again"}, b"")
    assert refused(url).code == "http-302"


def test_nothing_on_this_machine_is_read_for_a_url_that_says_so(server: FaultProxy) -> None:
    error = refused(answering(server, 302, {"location": "file:///etc/hostname"}, b""))
    assert error.code == "http-302"


def test_a_server_that_does_not_answer_is_a_matter_of_time(server: FaultProxy) -> None:
    release = threading.Event()

    def be_silent(request: Request, forward: Forward) -> None:
        release.wait(20)

    server.fault = be_silent
    try:
        error = refused(f"{server.url}/x", timeout=0.1)
    finally:
        release.set()
    assert (error.kind, error.code) == (ErrorKind.TRANSIENT, "timeout")


def test_a_connection_that_breaks_off_is_a_matter_of_time(server: FaultProxy) -> None:
    server.fault = lambda _request, _forward: None
    error = refused(f"{server.url}/x")
    assert (error.kind, error.code) == (ErrorKind.TRANSIENT, "connection")


def test_a_server_that_is_away_is_a_matter_of_time() -> None:
    with create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    error = refused(f"http://127.0.0.1:{port}/x")
    assert (error.kind, error.code) == (ErrorKind.TRANSIENT, "connection")
    assert "AWS_S3_BASE_URL" in error.hint


def test_a_certificate_counts_if_its_authority_is_named(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Answer(206, RIGHT, b"\0")
    with FaultProxy(fault=lambda _request, _forward: fault, tls=certificate.server_side) as server:
        error = refused(f"{server.url}/x")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
        require(f"{server.url}/x")
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "untrusted-certificate")
    assert "AWS_CA_BUNDLE" in error.hint


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unusable_bundle_is_reported_at_once(
    tmp_path: object, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{tmp_path}/bundle.pem"
    if content is not None:
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", path)
    with pytest.raises(StorageError, match="AWS_CA_BUNDLE") as caught:
        PublicCheck()
    assert caught.value.kind is ErrorKind.ENVIRONMENT


@pytest.mark.parametrize(
    "url", ["no url", "file:///etc/hostname", "http://cdn.example:port/x", "http://cdn.example/é"]
)
def test_what_is_no_url_is_the_operators_to_correct(url: str) -> None:
    error = refused(url)
    assert error.kind is ErrorKind.ENVIRONMENT
    assert "AWS_S3_BASE_URL" in error.hint


def test_the_environments_proxy_is_used_as_players_behind_it_would(
    server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", answering(server, 206, RIGHT).rpartition("/videos")[0])
    require("http://cdn.example/x")
    assert urlsplit(server.requests[0].path).netloc == "cdn.example"
