"""A proxy in front of a real HTTP server that misbehaves on purpose: the faults of S3 servers and networks.

A fault is a function that gets each request and `forward`, which passes it on and returns the server's
answer. It may answer by itself, change an answer, count, or drop the connection by returning None.
"""

import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from storage.proof_by_reading import WRONG_CHECKSUM
from tests.support.s3_requests import action_of


@dataclass(frozen=True)
class Request:
    """One HTTP request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def action(self) -> str:
        """What the request does, in words of S3's API reference."""
        return action_of(self.method, self.path)

    @property
    def part_number(self) -> int:
        """Which part an UploadPart is about."""
        return int(parse_qs(urlsplit(self.path).query)["partNumber"][0])


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; header names in lower case. One that `is_cut` ends a byte before it is complete."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_cut: bool = False

    def having(self, **headers: str | None) -> "Answer":
        """This answer with headers set or, where None, left out; '_' in a name stands for '-'."""
        changes = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {**self.headers, **changes}
        return replace(self, headers={name: value for name, value in merged.items() if value is not None})


Forward = Callable[[], Answer]
Fault = Callable[[Request, Forward], Answer | None]


def no_fault(request: Request, forward: Forward) -> Answer:
    """Passes everything on."""
    return forward()


def s3_error(status: int, code: str, message: str = "Because the test says so.") -> Answer:
    """An error answer as S3 writes it."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, {"content-type": "application/xml"}, text.encode())


_PROBE_OF_PARTS = re.compile(r"\.video-uploader-probe-[0-9a-f-]+-parts")


class FaultProxy:
    """Runs while it is a context. `url` is where to send requests; `requests` is what came in,
    apart from requests that their client broke off: those are only counted.

    `probes` are the requests by which the client finds out, once, whether the server compares checksums: no
    fault befalls them. `requests` are the others.

    `upstream` is the server's URL; without one, the fault must not call `forward`. With `tls` it speaks
    HTTPS.
    """

    def __init__(
        self, upstream: str = "", fault: Fault = no_fault, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.broken_off = 0
        self.fault = fault
        self._upstream = urlsplit(upstream).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        # Joined at the end rather than left to die with the process.
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def actions(self) -> list[str]:
        """What was asked of the server, in order."""
        return [request.action for request in self.requests]

    def answer(self, request: Request) -> Answer | None:
        """What the client gets for `request`."""
        is_probe = WRONG_CHECKSUM in request.headers.values() or _PROBE_OF_PARTS.search(request.path)
        if self._upstream and is_probe:
            self.probes.append(request)
            return self._forward(request)
        self.requests.append(request)
        return self.fault(request, lambda: self._forward(request))

    def _forward(self, request: Request) -> Answer:
        connection = HTTPConnection(self._upstream, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
            connection.request(request.method, request.path, request.body, headers | {"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, body
            )
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                self.close_connection = True
                announced = int(self.headers.get("Content-Length", 0))
                try:
                    body = self.rfile.read(announced)
                except ConnectionError:
                    body = b""
                if len(body) < announced:
                    proxy.broken_off += 1
                    return
                answer = proxy.answer(Request(self.command, self.path, dict(self.headers), body))
                if answer is None:
                    return
                self.send_response_only(answer.status)
                skipped = {"connection", "transfer-encoding"}
                announced = len(answer.body) + answer.is_cut
                length = {"content-length": str(announced)} if self.command != "HEAD" else {}
                for name, value in {**answer.headers, **length}.items():
                    if name not in skipped:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = handle_any  # noqa: N815  # http.server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
                pass

        return Handler


def sent(proxy: FaultProxy) -> list[str]:
    """The actions so far other than HEAD requests."""
    return [action for action in proxy.actions if action != "HeadObject"]
