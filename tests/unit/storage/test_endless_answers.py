"""Every request ends, whatever the server sends, and no answer fills the memory: each client, each way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

import storage.aws.clients
import storage.cloudfront
from storage import Distribution, ErrorKind, ObjectStore, StorageError
from storage.anonymous_http import AnonymousHttp
from storage.aws.bounded_answers import MAX_ANSWER_BYTES
from storage.transfer.crt_client import CrtClient
from storage.transfer.crt_request import Request
from tests.support.endless_server import BODY, HEADERS, EndlessServer
from tests.support.s3_server import config_for

pytestmark = pytest.mark.long

DEADLINE_SECONDS = 0.3
"""In the place of the tens of seconds that an answer may take."""
BUSY_SECONDS = 20
"""A request that takes longer than this does not end by its deadline, however busy the machine."""
MEGABYTE = b"x" * (1 << 20)

Fetch = Callable[[str], object]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (storage.aws.clients, storage.cloudfront):
        monkeypatch.setattr(module, "READ_TIMEOUT_SECONDS", DEADLINE_SECONDS)


def list_objects(url: str) -> object:
    with ObjectStore(config_for(url, "b")) as store:
        return list(store.objects())


def ask_whether_public(url: str) -> object:
    with ObjectStore(config_for(url, "b")) as store:
        return store.is_public("k")


def invalidate(url: str) -> object:
    config = config_for(url, "b", cloudfront_distribution_id="E1", cloudfront_endpoint_url=url)
    with Distribution(config) as distribution:
        return distribution.invalidate(["/k"], reference="r")


def fetch_anonymously(url: str) -> object:
    return AnonymousHttp(timeout=DEADLINE_SECONDS).fetch(f"{url}/k")


def call_crt(url: str) -> object:
    with closing(CrtClient(config_for(url, "b"))) as crt:
        return crt.call(Request("HeadObject", "HEAD", "k"), seconds=DEADLINE_SECONDS)


@contextmanager
def ends(*codes: str) -> Iterator[None]:
    """A transient error with one of these codes, in time."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        yield
    assert time.monotonic() - started < BUSY_SECONDS
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.code in codes
    assert caught.value.is_outage


@pytest.mark.parametrize(
    "fetch",
    [list_objects, ask_whether_public, invalidate, fetch_anonymously, call_crt],
    ids=lambda f: f.__name__,
)
def test_headers_that_drip_end_by_the_deadline(fetch: Fetch) -> None:
    """Each byte comes long before a read would time out."""
    with EndlessServer(HEADERS, b"x", seconds=0.05) as server, ends("timeout"):
        fetch(server.url)
    assert server.sent


@pytest.mark.parametrize("fetch", [list_objects, invalidate, fetch_anonymously], ids=lambda f: f.__name__)
def test_a_body_that_drips_ends_by_the_deadline(fetch: Fetch) -> None:
    with EndlessServer(BODY, b" ", seconds=0.05) as server, ends("timeout"):
        fetch(server.url)
    assert server.sent


@pytest.mark.parametrize(
    "fetch", [list_objects, ask_whether_public, invalidate, fetch_anonymously], ids=lambda f: f.__name__
)
def test_headers_that_do_not_end_are_not_kept(fetch: Fetch) -> None:
    """`http.client` limits a line; the rest is limited here."""
    line = b"X-Long: " + b"x" * 60_000 + b"\r\n"
    with (
        EndlessServer(b"HTTP/1.1 200 OK\r\n", line, seconds=0.001) as server,
        ends("connection", "too-large-answer", "timeout"),
    ):
        fetch(server.url)
    assert server.sent < 4 * MAX_ANSWER_BYTES


@pytest.mark.parametrize("fetch", [list_objects, invalidate], ids=lambda f: f.__name__)
def test_a_body_that_does_not_end_is_not_kept(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the speed of the loopback interface it would be gigabytes before the deadline."""
    for module in (storage.aws.clients, storage.cloudfront):
        monkeypatch.setattr(module, "READ_TIMEOUT_SECONDS", BUSY_SECONDS)
    with EndlessServer(BODY, MEGABYTE, seconds=0) as server, ends("too-large-answer"):
        fetch(server.url)
    assert server.sent < 4 * MAX_ANSWER_BYTES


def test_redirects_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is in time, and the whole is not."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n"
    with EndlessServer(head, b"\r\n", seconds=0.1) as server, ends("timeout"):
        AnonymousHttp(timeout=DEADLINE_SECONDS).fetch(server.url, max_redirects=50)


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_an_answer_to_the_crt_that_does_not_end_is_cut(status: str) -> None:
    """The CRT keeps an answer until it is complete; its connection is shut down long before the deadline."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(MEGABYTE), MEGABYTE)
    with (
        EndlessServer(head.encode(), chunk, seconds=0.003) as server,
        ends("connection", "unreadable-answer", "InternalError"),
        closing(CrtClient(config_for(server.url, "b"))) as crt,
    ):
        crt.call(Request("ListParts", "GET", "k", query="uploadId=1"))
    assert server.sent < 64 * MAX_ANSWER_BYTES
