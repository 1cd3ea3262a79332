"""The proxy that misbehaves, before a real HTTP server: each fault does what its name says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.faults.http_faults import (
    AnswerCorrupted,
    AnswerCut,
    AnswerDropped,
    Answered,
    BodyCorrupted,
    CutInBody,
    StalledInBody,
    Throttled,
)
from tests.faults.http_wire import HttpWire
from tests.faults.wire_faults import Injection, Requests
from tests.support.s3_requests import BODIES, WRITES

BODY = bytes(range(256)) * 400
ANSWER = b"the server's answer"
SHORT_SECONDS = 0.2


class Site:
    """A real HTTP server; `got` is every request that arrived whole, with its body."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Site]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self._body()
                if body is None:
                    self.close_connection = True
                    return
                site.got.append((self.command, self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", str(len(ANSWER)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(ANSWER)

            do_GET = do_HEAD = do_PUT = do_POST = handle_any  # noqa: N815  # http.server's names

            def _body(self) -> bytes | None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    whole = b""
                    while length := int(self.rfile.readline(), 16):
                        whole += self.rfile.read(length)
                        self.rfile.readline()
                    self.rfile.readline()
                    return whole
                announced = int(self.headers.get("Content-Length", 0))
                try:
                    body = self.rfile.read(announced)
                except ConnectionError:
                    return None
                return body if len(body) == announced else None

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
                pass

        return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().running() as site:
        yield site


@pytest.fixture
def wire(site: Site) -> Iterator[HttpWire]:
    with HttpWire(site.url) as wire:
        yield wire


@contextmanager
def client(wire: HttpWire) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", wire.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def put(wire: HttpWire, body: bytes = BODY, *, timeout: float = 10) -> tuple[int, bytes]:
    """One PUT on a connection of its own."""
    with client(wire) as connection:
        connection.timeout = timeout
        connection.request("PUT", "/bucket/key", body)
        response = connection.getresponse()
        return response.status, response.read()


def test_requests_of_every_form_pass_as_they_are_on_one_connection(site: Site, wire: HttpWire) -> None:
    with client(wire) as connection:
        for method, target, body in (
            ("PUT", "/bucket/key", BODY),
            ("HEAD", "/bucket/key", b""),
            ("PUT", "/bucket/key?partNumber=1&uploadId=u", BODY),
            ("POST", "/bucket/key?uploads", b""),
            ("PUT", "/bucket/empty", b""),
            ("GET", "/bucket/key", b""),
        ):
            connection.request(method, target, body)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"" if method == "HEAD" else ANSWER)
        first = connection.sock
        connection.request("PUT", "/bucket/key", iter([BODY, b"more"]), encode_chunked=True)
        assert connection.getresponse().read() == ANSWER
        assert connection.sock is first
    assert [body for _, _, body in site.got] == [BODY, b"", BODY, b"", b"", b"", BODY + b"more"]
    assert wire.actions == [
        *("PutObject", "HeadObject", "UploadPart", "CreateMultipartUpload", "PutObject", "GET", "PutObject")
    ]


def test_a_client_that_expects_100_continue_gets_it_also_before_an_error(site: Site, wire: HttpWire) -> None:
    wire.inject(Answered(503, "SlowDown"))
    with socket.create_connection(("127.0.0.1", wire.port), 10) as connection:
        connection.sendall(
            b"PUT /bucket/key HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        with connection.makefile("rb") as answers:
            assert answers.readline().startswith(b"HTTP/1.1 100")
            while answers.readline().strip():
                continue
            connection.sendall(b"12345")
            assert answers.readline().split()[1] == b"503"
    assert site.got == []


def test_the_choice_of_requests_is_one_of_action_number_and_rhythm() -> None:
    for requests, name, struck in (
        (Requests(), "every request", [1, 2, 3, 4, 5, 6, 7]),
        (Requests(first=2), "the first 2 requests", [1, 2]),
        (Requests(first=1), "the first request", [1]),
        (Requests(WRITES, every=3), "every 3rd write", [3, 6]),
        (Requests(BODIES, every=2, first=2), "every 2nd upload, 2 times", [2, 4]),
        (Requests(frozenset({"PutObject"}), every=5), "every 5th PutObject", [5]),
        (Requests(frozenset({"HeadObject"})), "every HeadObject", []),
    ):
        injection = Injection(Answered(503, "SlowDown"), requests)
        assert injection.name == f"503 SlowDown, {name}"
        assert [number for number in range(1, 8) if injection.takes("PutObject")] == struck, name


def test_an_error_is_answered_in_place_of_the_server_which_hears_nothing(site: Site, wire: HttpWire) -> None:
    injection = wire.inject(Answered(400, "RequestTimeout"), Requests(BODIES, first=2))
    answers = [put(wire) for _ in range(3)]
    assert [status for status, _ in answers] == [400, 400, 200]
    assert b"<Code>RequestTimeout</Code>" in answers[0][1]
    assert (len(site.got), injection.injected) == (1, 2)


def test_a_body_that_is_cut_off_never_arrives_whole(site: Site, wire: HttpWire) -> None:
    injection = wire.inject(CutInBody(), Requests(first=1))
    with pytest.raises((ConnectionError, HTTPException)):
        put(wire)
    assert (site.got, injection.injected) == ([], 1)
    assert put(wire) == (200, ANSWER)


def test_a_dropped_answer_is_to_something_that_was_done(site: Site, wire: HttpWire) -> None:
    injection = wire.inject(AnswerDropped(), Requests(first=1))
    with pytest.raises((ConnectionError, HTTPException)):
        put(wire)
    assert (len(site.got), injection.injected) == (1, 1)
    assert put(wire) == (200, ANSWER)


def test_an_answer_that_is_cut_ends_early(site: Site, wire: HttpWire) -> None:
    wire.inject(AnswerCut(), Requests(first=1))
    with socket.create_connection(("127.0.0.1", wire.port), 10) as connection:
        connection.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: h\r\n\r\n")
        with connection.makefile("rb") as answers:
            heard = answers.read()
    assert heard.startswith(b"HTTP/1.1 200")
    assert not heard.endswith(ANSWER)
    assert len(site.got) == 1


def test_one_byte_of_a_body_is_another_one(site: Site, wire: HttpWire) -> None:
    injection = wire.inject(BodyCorrupted(), Requests(first=1))
    assert put(wire) == (200, ANSWER)
    ((_, _, arrived),) = site.got
    assert len(arrived) == len(BODY)
    assert [at for at in range(len(BODY)) if arrived[at] != BODY[at]] == [len(BODY) // 2]
    assert injection.injected == 1


def test_one_byte_of_an_answer_is_another_one_each_time_elsewhere(wire: HttpWire) -> None:
    def heard() -> bytes:
        with socket.create_connection(("127.0.0.1", wire.port), 10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answers:
                return b"".join(line for line in answers if not line.startswith(b"Date"))

    good = heard()
    wire.inject(AnswerCorrupted(), Requests())
    places = {tuple(at for at in range(len(good)) if bad[at] != good[at]) for bad in (heard() for _ in "123")}
    assert len(places) > 1
    assert all(len(place) <= 1 for place in places)


def test_what_is_throttled_arrives_late_and_whole(site: Site, wire: HttpWire) -> None:
    fault = Throttled(len(BODY) / 0.25)
    injection = wire.inject(fault)
    started = time.monotonic()
    assert put(wire) == (200, ANSWER)
    assert time.monotonic() - started >= 0.25
    assert (site.got[0][2], injection.injected, fault.name) == (BODY, 1, "throttled to 0.4096 MB/s")


def test_a_stall_in_a_body_can_be_waited_for_and_nothing_is_left_of_it(site: Site) -> None:
    """Neither thread nor descriptor nor port, although a request was under way."""
    descriptors, threads = os.listdir("/proc/self/fd"), threading.active_count()
    with HttpWire(site.url) as wire:
        injection = wire.inject(StalledInBody())
        with pytest.raises(AssertionError, match="injected 0 times, not 1"):
            injection.wait_for(1, seconds=0.01)
        with pytest.raises(TimeoutError):
            put(wire, timeout=SHORT_SECONDS)
        injection.wait_for(1)
        assert site.got == []
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", wire.port))
        again.listen()
    for thread in threading.enumerate()[threads:]:
        thread.join(5)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
