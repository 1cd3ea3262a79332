"""The proxy that misbehaves, before a real server of echoes: each fault does what its name says."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.faults.wire import Wire
from tests.faults.wire_faults import BlackHole, Cut, Delayed, Refused

SHORT_SECONDS = 0.2


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


class _TcpEcho(socketserver.ThreadingTCPServer):
    daemon_threads = False


class _UnixEcho(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False


@contextmanager
def echo(place: str | None = None) -> Iterator[str]:
    """A server that says what it hears, on a free port or a Unix socket; yields where."""
    with _TcpEcho(("127.0.0.1", 0), _Echo) if place is None else _UnixEcho(place, _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield place or "{}:{}".format(*server.socket.getsockname())
        finally:
            server.shutdown()
            thread.join()


def call(wire: Wire, said: bytes = b"hello", *, timeout: float = 10) -> bytes:
    """Say something on a connection of its own, and hear the answer; empty if there is none."""
    with socket.create_connection(("127.0.0.1", wire.port), timeout) as connection:
        connection.sendall(said)
        return connection.recv(65536)


def test_bytes_that_are_no_http_pass_as_they_are(tmp_path: os.PathLike[str]) -> None:
    """Also to a Unix socket; the other tests here go to a TCP port."""
    with echo(os.path.join(tmp_path, "echo")) as upstream, Wire(upstream) as wire:
        assert call(wire, b"\0\xff\r\nPUT") == b"\0\xff\r\nPUT"
        with socket.create_connection(("127.0.0.1", wire.port), 10) as connection:
            connection.sendall(b"last words")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as heard:
                assert heard.read() == b"last words"


def test_a_cut_ends_open_connections_and_new_ones() -> None:
    with echo() as upstream, Wire(upstream) as wire, ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", wire.port), 10))
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        injection = wire.inject(Cut())
        with pytest.raises(ConnectionError):
            connection.recv(100)
        with pytest.raises(ConnectionError):
            call(wire)
        assert injection.injected == 2
        wire.relieve()
        assert call(wire) == b"hello"


def test_refused_means_that_nobody_listens_and_the_port_is_kept() -> None:
    with echo() as upstream, Wire(upstream) as wire:
        port = wire.port
        for _ in range(2):
            injection = wire.inject(Refused())
            with pytest.raises(ConnectionRefusedError):
                call(wire)
            assert injection.injected >= 1
            wire.relieve()
            assert call(wire) == b"hello"
        assert wire.port == port


def test_a_black_hole_says_nothing_on_any_connection() -> None:
    with echo() as upstream, Wire(upstream) as wire:
        with socket.create_connection(("127.0.0.1", wire.port), SHORT_SECONDS) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"hello"
            injection = wire.inject(BlackHole())
            connection.sendall(b"hello")
            with pytest.raises(TimeoutError):
                connection.recv(100)
        with pytest.raises(TimeoutError):
            call(wire, timeout=SHORT_SECONDS)
        assert injection.injected == 2
        wire.relieve()
        assert call(wire) == b"hello"


def test_a_delay_delays_both_ways() -> None:
    with echo() as upstream, Wire(upstream) as wire:
        injection = wire.inject(Delayed(0.1))
        started = time.monotonic()
        assert call(wire) == b"hello"
        assert time.monotonic() - started >= 0.2
        assert injection.injected == 2
