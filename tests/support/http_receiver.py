"""An HTTP server that receives webhooks and heartbeats, and answers as a test wants."""

from __future__ import annotations

import json
import queue
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """By name in lower case."""
    content: bytes

    @property
    def told(self) -> dict[str, Any]:
        """The event in it."""
        told: dict[str, Any] = json.loads(self.content)
        return told


@dataclass
class HttpReceiver:
    """A running receiver. `answers` has the statuses of the next answers, then 200; 0 hangs up."""

    url: str
    answers: list[int] = field(default_factory=list)
    silent: Event = field(default_factory=Event)
    """Set to keep every answer back until it is cleared, or the receiver ends."""
    received: list[Received] = field(default_factory=list)
    location: str = ""
    """Where answers from 300 to 399 lead."""
    _arrived: queue.Queue[Received] = field(default_factory=queue.Queue)
    _ended: Event = field(default_factory=Event)

    def next(self) -> Received:
        """Wait for the next request that no call has returned yet."""
        return self._arrived.get(timeout=WAIT_SECONDS)

    def answer(self, received: Received) -> int:
        """The status to answer with; waits while `silent` is set."""
        self.received.append(received)
        status = self.answers.pop(0) if self.answers else 200
        self._arrived.put(received)
        while self.silent.is_set() and not self._ended.wait(0.02):
            continue
        return status

    def end(self) -> None:
        """Answer what is kept back."""
        self._ended.set()


@contextmanager
def http_receiver(*, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[HttpReceiver]:
    """Run a receiver on a free port of the loopback interface, or on the one given."""
    receiver = HttpReceiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = self.rfile.read(length)
            status = receiver.answer(Received(self.command, self.path, headers, content))
            if not status:
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.end()
        server.shutdown()
        thread.join()
        server.server_close()
