"""The proxy for HTTP: it parses requests and knows their S3 actions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import h11

from tests.faults.wire import BLOCK, Wire
from tests.faults.wire_faults import CutError, Fault, Injection, Requests
from tests.support.fault_proxy import Answer
from tests.support.s3_requests import action_of

_HOP_BY_HOP = frozenset({b"connection", b"keep-alive"})


class HttpWire(Wire):
    """Relays HTTP/1.1; `url` is where to send requests, `actions` what was asked so far, in order.

    Connections to it are kept alive as servers on the internet keep them; it makes a new one to the server
    for every request.
    """

    def __init__(self, upstream_url: str) -> None:
        super().__init__(urlsplit(upstream_url).netloc)
        self.url = f"http://127.0.0.1:{self.port}"
        self.actions: list[str] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Peer(h11.SERVER, reader, writer)
        while isinstance(request := await client.receive(), h11.Request):
            await self._exchange(client, request)
            if client.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                return
            client.http.start_next_cycle()

    async def _exchange(self, client: _Peer, request: h11.Request) -> None:
        action = action_of(request.method.decode(), request.target.decode())
        self.actions.append(action)
        injection = self._injection if self._injection.takes(action) else _nothing()
        answer = await injection.fault.on_request(injection.strike)
        if answer is not None:
            await client.swallow_body()
            await client.write(client.bytes_of(_as_events(answer, request)))
            return
        streams = await self._dial()
        server = _Peer(h11.CLIENT, *streams)
        try:
            async with asyncio.TaskGroup() as group:
                body = group.create_task(_pass_body(client, server, request, injection))
                events = await _answer_of(server, client)
                if client.http.they_are_waiting_for_100_continue:
                    # They have their answer without sending a body.
                    body.cancel()
                raw = client.bytes_of(events)
                await client.write(await injection.fault.on_answer(raw, injection.strike))
        finally:
            streams[1].close()


class _Peer:
    """One side of the proxy: an HTTP connection on a TCP connection. `role` is what the proxy is in it."""

    def __init__(
        self, role: type[h11.CLIENT | h11.SERVER], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.http = h11.Connection(role)
        self._reader = reader
        self._writer = writer

    async def receive(self) -> h11.Event:
        """The other side's next event; `CutError` if it is invalid or broken off."""
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self._reader.read(BLOCK))
        except (h11.RemoteProtocolError, ConnectionError) as exc:
            raise CutError from exc
        assert not isinstance(event, type), f"{event} is no event of a message"
        return event

    async def swallow_body(self) -> None:
        """Receive what remains of a request."""
        if self.http.they_are_waiting_for_100_continue:
            await self.write(self.bytes_of([h11.InformationalResponse(status_code=100, headers=[])]))
        while not isinstance(await self.receive(), h11.EndOfMessage):
            continue

    def bytes_of(self, events: list[h11.Event]) -> bytes:
        """The bytes of an event, which must be sent: the connection counts them as sent."""
        return b"".join(self.http.send(event) or b"" for event in events)

    async def write(self, raw: bytes) -> None:
        """Send bytes."""
        self._writer.write(raw)
        await self._writer.drain()


async def _pass_body(client: _Peer, server: _Peer, request: h11.Request, injection: Injection) -> None:
    """Pass on a request with its body; a server that has answered early need not take all of it."""
    length = dict(request.headers).get(b"content-length")
    middle = 1 if length is None else int(length) // 2
    at = 0
    is_taken = await _is_written(server, server.bytes_of([request]))
    while isinstance(event := await client.receive(), h11.Data):
        for data, is_middle in _halves(bytes(event.data), middle - at):
            passed = await injection.fault.on_body(data, is_middle=is_middle, strike=injection.strike)
            is_taken = is_taken and await _is_written(server, server.bytes_of([h11.Data(data=passed)]))
        at += len(event.data)
    if is_taken:
        await _is_written(server, server.bytes_of([h11.EndOfMessage()]))


def _halves(data: bytes, middle: int) -> Iterator[tuple[bytes, bool]]:
    """A piece of a body in one or two, and whether each begins where the middle is."""
    if 0 < middle < len(data):
        yield data[:middle], False
        yield data[middle:], True
    else:
        yield data, middle == 0


async def _is_written(server: _Peer, raw: bytes) -> bool:
    try:
        await server.write(raw)
    except ConnectionError:
        return False
    return True


async def _answer_of(server: _Peer, client: _Peer) -> list[h11.Event]:
    """The server's whole answer; what it says before that it answers is passed on at once."""
    answer: list[h11.Event] = []
    while True:
        event = await server.receive()
        match event:
            case h11.InformationalResponse():
                await client.write(client.bytes_of([event]))
            case h11.Response(status_code=status, reason=reason):
                kept = [(name, value) for name, value in event.headers.raw_items() if _is_kept(name)]
                answer.append(h11.Response(status_code=status, headers=kept, reason=reason))
            case h11.ConnectionClosed():
                raise CutError
            case h11.EndOfMessage():
                return [*answer, event]
            case _:
                answer.append(event)


def _is_kept(name: bytes) -> bool:
    return name.lower() not in _HOP_BY_HOP


def _as_events(answer: Answer, request: h11.Request) -> list[h11.Event]:
    body = b"" if request.method == b"HEAD" else answer.body
    headers = {**answer.headers, "content-length": str(len(body))}
    return [
        h11.Response(status_code=answer.status, headers=list(headers.items()), reason=b"As the test says"),
        *([h11.Data(data=body)] if body else []),
        h11.EndOfMessage(),
    ]


def _nothing() -> Injection:
    return Injection(Fault(), Requests())
