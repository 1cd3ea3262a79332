"""The HTTP server of `/metrics`: a bounded number of connections, each of which ends after a bounded time.

Whatever connects to the port takes no file descriptors, threads or time from the uploads.
"""

from __future__ import annotations

import http.client
import io
import socket
import sys
import threading
import time
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

import structlog
from prometheus_client import MetricsHandler

from watcher.telemetry.formatting import printable
from watcher.telemetry.logging import RepeatFilter
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

MAX_CONNECTIONS = 16
"""Connections, and threads that answer them. A new one replaces the oldest."""

CONNECTION_SECONDS = 15.0
"""How long a connection may last, from its acceptance to the last byte of the answer."""

SILENCE_SECONDS = 5.0
"""How long a client may send no part of its request, or take no part of the answer."""

MAX_REQUEST_BYTES = 16 * 1024
"""Length of a request line with all headers; a longer request is answered 431 (RFC 6585, section 5)."""

EVICTION_SECONDS = 1.0
"""How long to wait for the thread of a connection that was replaced."""


class _Request(io.BufferedReader):
    """The bytes of one request, up to `MAX_REQUEST_BYTES`."""

    _left = MAX_REQUEST_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        if not self._left:
            raise http.client.LineTooLong("request")
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        line = super().readline(wanted)
        self._left -= len(line)
        return line


class _Handler(MetricsHandler):
    """Answers one request of HTTP/1.0."""

    timeout = SILENCE_SECONDS
    rbufsize = 0

    def setup(self) -> None:
        super().setup()
        self.rfile = _Request(self.rfile)


class _Server(ThreadingMixIn, TCPServer):
    """Answers each connection in a thread of its own.

    A connection ends when its socket is shut down, which wakes the thread that reads or writes it.
    """

    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, handler: type) -> None:
        self.address_family = family
        self._reported = RepeatFilter()
        self._changed = threading.Condition()
        self._deadlines: dict[socket.socket, float] = {}
        """When each open connection must end, oldest first; infinite once it was shut down."""
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Without free file descriptors the connection stays acceptable, and would be tried in a loop.
            with self._changed:
                self._changed.wait(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            if len(self._deadlines) >= MAX_CONNECTIONS:
                self._end_until(float("inf"), limit=1)
                self._changed.wait_for(lambda: len(self._deadlines) < MAX_CONNECTIONS, EVICTION_SECONDS)
            if len(self._deadlines) >= MAX_CONNECTIONS:
                super().shutdown_request(request)
                return
            self._deadlines[request] = time.monotonic() + CONNECTION_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._deadlines.pop(request, None)
            self._changed.notify_all()

    def service_actions(self) -> None:
        """Called twice a second and after every connection."""
        with self._changed:
            self._end_until(time.monotonic())

    def end_all(self) -> None:
        with self._changed:
            self._end_until(float("inf"))

    def _end_until(self, deadline: float, *, limit: int = MAX_CONNECTIONS) -> None:
        """Shut down the connections that must end before `deadline`, oldest first."""
        overdue = [request for request, end in self._deadlines.items() if end < deadline]
        for request in overdue[:limit]:
            self._deadlines[request] = float("inf")
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        exc = sys.exc_info()[1]
        reason = printable(f"{type(exc).__name__}: {exc}")
        if not isinstance(exc, OSError) and self._reported.is_news("metrics", reason):
            log.warning("metrics_unanswered", reason=reason)


class MetricsServer:
    """Serves `/metrics` at an address like ``127.0.0.1:9108``; with an empty address it does nothing."""

    def __init__(self, metrics: Metrics, address: str) -> None:
        self._registry = metrics.registry
        self._address = address
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to serve. An address that cannot be bound is only a warning: uploads matter more."""
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        try:
            family, *_, found = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._server = _Server((str(found[0]), int(port)), family, _Handler.factory(self._registry))
        except (OSError, UnicodeError) as exc:
            # A host name that cannot be encoded in IDNA raises UnicodeError.
            log.warning(
                "metrics_unavailable",
                address=self._address,
                reason=str(exc),
                hint="Set METRICS_ADDRESS to a free host:port, or empty.",
            )
            return
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port and every connection."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.end_all()
            self._thread.join()
            self._server = self._thread = None
