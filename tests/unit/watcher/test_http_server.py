"""The HTTP server bounds what connects to it, and refuses what a browser must not be led to do."""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.support.served_site import serving
from watcher.http import server
from watcher.http.application import allowed_hosts
from watcher.http.server import MAX_CONNECTIONS
from watcher.telemetry.metrics import LedgerGauges, Metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return Metrics().registry


@pytest.fixture
def address(registry: CollectorRegistry) -> Iterator[str]:
    with serving(registry) as served:
        yield served


def connect(address: str) -> socket.socket:
    """A connection on which nothing was sent yet."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def is_ended(client: socket.socket) -> bool:
    """Whether the server ends the connection within ten seconds."""
    try:
        while client.recv(65536):
            continue
    except ConnectionResetError:
        return True
    return True


def open_files() -> int:
    """How many descriptors this process has, those of the server among them."""
    return len(os.listdir("/proc/self/fd"))


def answer_to(address: str, method: str = "GET", path: str = "/metrics", **headers: str) -> int:
    """The status of the answer to a request."""
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status


def test_a_taken_port_is_a_warning_and_is_tried_again(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.05)
    with capture_logs() as logged, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(registry, address):
            (line,) = logged
            assert (line["event"], line["log_level"]) == ("metrics_unavailable", "warning")
            assert line["address"] == address
            assert "HTTP_ADDRESS" in line["hint"]
            taken.close()
            deadline = time.monotonic() + 10
            while logged[-1]["event"] != "http_listening":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with urlopen(f"http://{address}/metrics", timeout=10) as answer:
                assert answer.status == 200
    assert len(logged) == 2, "it is said once"


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 70])
def test_a_host_that_is_not_this_one_is_a_warning_too(registry: CollectorRegistry, host: str) -> None:
    with capture_logs() as logged, serving(registry, f"{host}:9108"):
        assert [line["event"] for line in logged] == ["metrics_unavailable"]


def test_afterwards_the_port_is_free(registry: CollectorRegistry) -> None:
    with serving(registry) as address, urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(URLError, match="refused"):
        urlopen(f"http://{address}/metrics", timeout=10)
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        pass


def test_idle_connections_are_bounded_and_keep_no_request_from_its_answer(address: str) -> None:
    """The newest connections stay, and the oldest end."""
    with ExitStack() as clients:
        idle = [clients.enter_context(connect(address)) for _ in range(5 * MAX_CONNECTIONS)]
        with urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert b"video_uploader_sent_bytes_total" in answer.read()
        assert all(is_ended(client) for client in idle[: -MAX_CONNECTIONS + 1])
        assert not select.select(idle[-MAX_CONNECTIONS + 2 :], [], [], 0)[0]


def test_a_silent_connection_ends(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENCE_SECONDS", 0.1)
    with connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert is_ended(client)


def test_a_request_that_drips_ends(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a connection beyond its deadline."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    with connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nDrip: ")
        drips = 0
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"x")
            drips += 1
            assert drips < 200
        assert is_ended(client)


def test_a_client_that_does_not_read_the_answer_is_left(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes its end while most of the answer has not been taken."""
    monkeypatch.setattr(server, "SILENCE_SECONDS", 0.2)
    many = {f"{number:01000}": number for number in range(20_000)}
    registry.register(LedgerGauges(counts=lambda: many, settling=int, paused=dict, catalog=dict))
    with serving(registry) as address, connect(address) as client:
        client.sendall(f"GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        assert select.select([client], [], [], 10)[0], "the answer has begun"
        before, deadline = open_files(), time.monotonic() + 10
        while open_files() >= before:
            assert time.monotonic() < deadline, "the server has not closed its end"
            time.sleep(0.02)


def test_a_request_of_endless_headers_is_refused(address: str) -> None:
    headers = {f"X-{number}": "x" * 1000 for number in range(50)}
    with pytest.raises(HTTPError, match="431"):
        urlopen(Request(f"http://{address}/metrics", headers=headers), timeout=10)
    with connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_gauge_that_fails_is_an_answer_and_a_line_of_the_log(registry: CollectorRegistry) -> None:
    def broken() -> int:
        raise ZeroDivisionError("broken\non purpose")

    registry.register(LedgerGauges(counts=dict, settling=broken, paused=dict, catalog=dict))
    with capture_logs() as logged, serving(registry) as address:
        assert [answer_to(address), answer_to(address)] == [500, 500]
    assert [(line["event"], line["reason"]) for line in logged if line["log_level"] == "warning"] == [
        ("metrics_unanswered", "ZeroDivisionError: broken\\non purpose")
    ]


def test_a_request_for_another_host_is_refused(address: str) -> None:
    """A page of another site whose name was pointed at this address gets nothing (DNS rebinding)."""
    port = address.partition(":")[2]
    for host in (address, f"localhost:{port}", f"[::1]:{port}"):
        assert answer_to(address, Host=host) == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.0.2.7", ""):
        assert answer_to(address, Host=host) == 421


@pytest.mark.parametrize(
    ("bound", "host", "is_allowed"),
    [
        ("0.0.0.0:9108", "192.0.2.7:9108", True),
        ("0.0.0.0:9108", "[2001:db8::1]", True),
        ("[::]:9108", socket.gethostname(), True),
        ("0.0.0.0:9108", "evil.example", False),
        ("192.0.2.7:9108", "192.0.2.7", True),
        ("192.0.2.7:9108", "192.0.2.8", False),
        ("192.0.2.7:9108", "Uploader.Example.", True),
        ("[::1]:9108", "127.0.0.1", True),
    ],
)
def test_the_names_that_a_request_may_use(bound: str, host: str, is_allowed: bool) -> None:
    assert allowed_hosts(bound, ["uploader.example"])(host) is is_allowed


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_but_reading_is_possible(address: str, method: str) -> None:
    assert answer_to(address, method) == 405


def test_an_unknown_path_is_404(address: str) -> None:
    for path in ("/favicon.ico", "/metrics/", "//", "/static/../page.css"):
        assert answer_to(address, path=path) == 404


def test_a_head_request_has_the_answer_without_its_body(address: str) -> None:
    assert answer_to(address, "HEAD") == 200


def test_every_answer_forbids_what_a_page_does_not_need(address: str) -> None:
    for path in ("/metrics", "/nothing"):
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request("GET", path)
            headers = connection.getresponse().headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Date"]
        assert headers["Server"] is None


def test_a_server_that_nothing_asks_does_not_wake_up(registry: CollectorRegistry) -> None:
    """The kernel counts how often the thread went to sleep (`proc_pid_status(5)`)."""

    def naps() -> int:
        (thread,) = [one for one in threading.enumerate() if one.name == "http"]
        with open(f"/proc/{os.getpid()}/task/{thread.native_id}/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["voluntary_ctxt_switches"])

    with serving(registry) as address:
        assert answer_to(address) == 200
        threading.Event().wait(0.2)
        before = naps()
        threading.Event().wait(1.0)
        assert naps() - before <= 1, "uvicorn's own loop would have woken up ten times"
