"""A TCP proxy on the loopback interface that injects faults, in one thread."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.faults.wire_faults import CutError, Fault, Injection, Requests

BLOCK = 65536
PATIENCE_SECONDS = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Relays whatever bytes there are while it is a context; `port` is where to connect.

    `upstream` is ``host:port``, or the path of a Unix socket. One fault at most is at work at a time.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        # Holds the port while nothing listens on it.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._injection = Injection(Fault(), Requests())
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="wire")

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._holder.close()

    def inject(self, fault: Fault, requests: Requests | None = None) -> Injection:
        """Inject a fault from now on, in place of any other; by default into every request."""
        injection = Injection(fault, requests or Requests())
        self._call(self._change(injection))
        return injection

    def relieve(self) -> None:
        """End the fault; what it has swallowed or cut stays lost."""
        self._call(self._change(Injection(Fault(), Requests())))

    async def _change(self, injection: Injection) -> None:
        self._injection = injection
        if injection.fault.refuses_connections:
            injection.strike()
            self._close_server()
        elif self._server is None:
            await self._listen()
        if injection.fault.cuts_open_connections:
            for task, writer in self._open.items():
                injection.strike()
                reset(writer)
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, until it ends or `CutError` is raised."""
        streams = await self._dial()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, streams[1]))
                group.create_task(self._pump(streams[0], writer))
        finally:
            streams[1].close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BLOCK):
            injection = self._injection
            writer.write(await injection.fault.on_bytes(data, injection.strike))
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _dial(self) -> Streams:
        """A connection to the server; `CutError` if it takes none."""
        try:
            if self._upstream.startswith("/"):
                return await asyncio.open_unix_connection(self._upstream)
            host, _, port = self._upstream.rpartition(":")
            return await asyncio.open_connection(host, int(port))
        except OSError as exc:
            raise CutError from exc

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        # Cancelled is how most of them end; asyncio would take it for a failure.
        with suppress(asyncio.CancelledError):
            await self._carry(reader, writer)
        del self._open[task]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except* CutError as cut:
            parting = _first(cut).parting
            if parting:
                writer.write(parting)
            else:
                reset(writer)
        except* ConnectionError:
            reset(writer)
        finally:
            writer.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=_bound(self.port))

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a function in the loop's thread, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        self._close_server()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Closed connections are forgotten one turn of the loop later.
        await asyncio.sleep(0)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset, without what was still to be sent."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # What is not passed on has not arrived either: the kernel would take megabytes in its place.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
    sock.bind(("127.0.0.1", port))
    return sock


def _first(group: BaseExceptionGroup[CutError]) -> CutError:
    """The first of the exceptions in a group, at any depth."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
