"""Runs an ASGI application on uvicorn in one thread, with a bounded number of connections of bounded length.

Whatever connects to the port takes no file descriptors, threads or time from the uploads. The thread does not
wake up while nothing is connected.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

import h11
import structlog
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from watcher.telemetry import RepeatFilter, printable

log = structlog.get_logger()

MAX_CONNECTIONS = 16
"""Open connections. A new one replaces the oldest that is no stream of events."""

REQUEST_SECONDS = 15.0
"""How long a connection may last without a request, and a request until the last byte of its answer."""

SILENCE_SECONDS = 5.0
"""How long a client may send no part of its request, or take no part of the answer."""

MAX_REQUEST_BYTES = 16 * 1024
"""Length of a request line with all headers; a longer request is answered 431 (RFC 6585, section 5)."""

RETRY_SECONDS = 10.0
"""Between two attempts to bind an address that is in use."""

STOP_SECONDS = 2
"""How long the answers that are under way may take at the end."""

STREAMS = frozenset({"/events"})
"""The paths whose answers do not end by themselves; the application bounds their number."""


class HttpServer:
    """Serves an application at an address like ``127.0.0.1:9108``, for the length of a `with` block.

    An address that cannot be bound is a warning, because uploads matter more, and is tried again. `close` is
    called in the server's thread before the open connections are waited for: it ends the streams.
    """

    def __init__(
        self, application: ASGIApp, address: str, *, close: Callable[[], None] = lambda: None
    ) -> None:
        self._application = application
        self._address = address
        self._close = close
        self._reported = RepeatFilter()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_loop = threading.Event()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> Self:
        self._listener = self._bind()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_loop.wait(STOP_SECONDS)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(2 * STOP_SECONDS)

    def _bind(self) -> socket.socket | None:
        host, _, port = self._address.rpartition(":")
        try:
            family, kind, protocol, _, found = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(found)
                listener.listen(128)
            except OSError:
                listener.close()
                raise
        except (OSError, UnicodeError) as exc:
            # A host name that cannot be encoded in IDNA raises UnicodeError.
            if self._reported.is_news("bind", str(exc)):
                log.warning(
                    "metrics_unavailable",
                    address=self._address,
                    reason=str(exc),
                    hint="It is tried again. Free the port, or set HTTP_ADDRESS to another one, or empty.",
                )
            return None
        log.info("http_listening", address=self._address)
        return listener

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._report)
        self._has_loop.set()
        while self._listener is None:
            try:
                await asyncio.wait_for(self._stopping.wait(), RETRY_SECONDS)
            except TimeoutError:
                self._listener = self._bind()
            else:
                return
        config = uvicorn.Config(
            self._application,
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="critical",
            timeout_keep_alive=round(SILENCE_SECONDS),
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=MAX_REQUEST_BYTES,
        )
        await _Server(config, self._stopping, self._close).serve(sockets=[self._listener])

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what no request was the cause of, such as an accept(2) without free file descriptors."""
        del loop
        reason = printable(f"{context.get('message')}: {context.get('exception')}")
        if self._reported.is_news("loop", reason):
            log.warning("metrics_unanswered", reason=reason)


class _Server(uvicorn.Server):
    """uvicorn's server without signals and without its clock, which ticks ten times a second."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._close = close

    async def main_loop(self) -> None:
        await self._stopping.wait()
        self._close()


class _Connection(H11Protocol):
    """One connection, which ends when it is silent or slow, or when too many newer ones have come."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = next(self.numbers)
        self.is_stream = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.app = self._answer

    @property
    def is_open(self) -> bool:
        """Whether it has not been ended, which an aborted one is told of later."""
        return not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_in("request", REQUEST_SECONDS)
        self._end_in("silence", SILENCE_SECONDS)
        others = [one for one in self.connections if isinstance(one, _Connection) and one.is_open]
        if len(others) > MAX_CONNECTIONS:
            quiet = (one for one in others if not one.is_stream)
            min(quiet, key=lambda one: one.number).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for name in list(self._timers):
            self._never(name)

    def data_received(self, data: bytes) -> None:
        if "silence" in self._timers:
            self._end_in("silence", SILENCE_SECONDS)
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_in("unread", SILENCE_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._never("unread")

    def send_400_response(self, msg: str) -> None:
        exc = sys.exc_info()[1]
        status = exc.error_status_hint if isinstance(exc, h11.RemoteProtocolError) else 400
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        for event in (answer, h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._never("silence")
        self._end_in("request", REQUEST_SECONDS)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_REQUEST_BYTES:
            await PlainTextResponse("The headers are too long.\n", 431)(scope, receive, send)
            return
        if scope["path"] in STREAMS:
            self.is_stream = True
            self._never("request")
        try:
            await self.config.loaded_app(scope, receive, send)
        finally:
            self.is_stream = False
            self._end_in("request", REQUEST_SECONDS)

    def _end_in(self, name: str, seconds: float) -> None:
        self._never(name)
        if self.is_open:
            self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _never(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()
