"""A line to a server that can be slow or stuck, and an HTTP proxy that is one: threads with real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_BUFFER = 4096
_TICK_SECONDS = 0.05


class Line:
    """Passes every connection on to `target`, HOST:PORT. Runs while it is a context; `address` is where.

    `rate` is in bytes per second for each connection towards the server, None for no limit. The first
    connection on which `freeze_after` bytes were sent takes no more until `thaw` is set.
    """

    def __init__(
        self, target: str = "", *, rate: float | None = None, freeze_after: int | None = None
    ) -> None:
        self.rate = rate
        self.freeze_after = freeze_after
        self.frozen = threading.Event()
        self.thaw = threading.Event()
        self.connections = 0
        self._target = target
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listening = socket.socket()
        # Inherited by the connections: a small buffer passes a slow or stuck line on to the sender at once.
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port: int = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.thaw.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def open(self, client: socket.socket) -> socket.socket | None:
        """A connection to the server for a client; None where there is none."""
        return self.connect(self._target)

    def connect(self, target: str) -> socket.socket:
        """A connection to HOST:PORT."""
        host, _, port = target.rpartition(":")
        return socket.create_connection((host, int(port)))

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]  # any function
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(_TICK_SECONDS)
            server = self.open(client)
            if server is None:
                return
            with server:
                server.settimeout(_TICK_SECONDS)
                back = threading.Thread(target=self._pump, args=(server, client, False))
                back.start()
                self._pump(client, server, True)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, is_upward: bool) -> None:
        passed = 0
        with suppress(OSError):
            while not self._stopped.is_set():
                if is_upward and self.freeze_after is not None and passed >= self.freeze_after:
                    self.freeze_after = None
                    self.frozen.set()
                    self.thaw.wait()
                try:
                    rate = self.rate if is_upward else None
                    chunk = source.recv(65536 if rate is None else max(1, int(rate * _TICK_SECONDS)))
                except TimeoutError:
                    continue
                if not chunk:
                    break
                if rate is not None:
                    self._stopped.wait(len(chunk) / rate)
                sink.settimeout(None)
                sink.sendall(chunk)
                passed += len(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class ForwardProxy(Line):
    """An HTTP proxy: CONNECT for TLS, requests with an absolute URL otherwise (RFC 9112, section 3.2).

    With `login`, USER:PASSWORD, it answers 407 to all others; with `refusal` it answers that status always.
    With `tls` it is itself reached by TLS. `targets` is what it was asked to reach. It alone knows that the
    name `hidden` stands for this machine.
    """

    def __init__(
        self,
        *,
        login: str | None = None,
        refusal: int | None = None,
        rate: float | None = None,
        freeze_after: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(rate=rate, freeze_after=freeze_after)
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        if tls is not None:
            self._listening = tls.wrap_socket(self._listening, server_side=True)
        self.targets: list[str] = []
        self._authorization = None if login is None else f"Basic {b64encode(login.encode()).decode()}"
        self.refusal = refusal

    def open(self, client: socket.socket) -> socket.socket | None:
        """Read the head of a request and connect to its server, or refuse that."""
        head = b""
        while b"\r\n\r\n" not in head:
            with suppress(TimeoutError):
                if self._stopped.is_set() or not (chunk := client.recv(_BUFFER)):
                    return None
                head += chunk
        head, _, rest = head.partition(b"\r\n\r\n")
        request, *fields = head.decode("latin-1").split("\r\n")
        method, url, _ = request.split(" ")
        self.targets.append(url)
        named = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        is_welcome = self._authorization in (None, named.get("proxy-authorization"))
        status = self.refusal or (None if is_welcome else 407)
        if status is not None:
            answer = f"HTTP/1.1 {status} No\r\nProxy-Authenticate: Basic realm=x\r\n"
            client.sendall(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return None
        if method == "CONNECT":
            server = self._reach(url)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return server
        parts = urlsplit(url)
        server = self._reach(parts.netloc)
        target = parts._replace(scheme="", netloc="").geturl() or "/"
        kept = [field for field in fields if not field.lower().startswith(("proxy-", "connection:"))]
        lines = [f"{method} {target} HTTP/1.1", *kept, "Connection: close", "", ""]
        server.sendall("\r\n".join(lines).encode("latin-1") + rest)
        return server

    def _reach(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        return self.connect(f"127.0.0.1:{port}" if host == "hidden" else address)
