"""A proxy that terminates TLS in front of the tests' PostgreSQL server, which is built without TLS.

It implements the server's side of the negotiation (postgresql.org/docs/current/protocol-flow.html, "SSL
Session Encryption"); the client's library verifies the certificate.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import Certificate

_PACKET = 8
_SSL_REQUEST = (80877103).to_bytes(4, "big")
_BLOCK = 65536


@contextmanager
def tls_proxy(url: str, certificate: Certificate) -> Iterator[str]:
    """The address (host:port) of a proxy with the certificate, for the server on the socket of `url`."""
    (directory,) = parse_qs(urlsplit(url).query)["host"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = _TlsProxy(f"{directory}/.s.PGSQL.5432", certificate.server_side)
        accepting = threading.Thread(target=proxy.accept_from, args=[listening])
        accepting.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            proxy.close()


class _TlsProxy:
    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def accept_from(self, listening: socket.socket) -> None:
        """Serve each connection in a thread, until the listening socket is shut down."""
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                self._open.append(client)
                thread = threading.Thread(target=self._serve, args=[client])
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """End every connection."""
        for client in self._open:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while client.recv(_PACKET, socket.MSG_WAITALL)[4:] != _SSL_REQUEST:
                client.sendall(b"N")  # the client asked for GSSAPI and asks for TLS next
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as encrypted,
                socket.socket(socket.AF_UNIX) as server,
            ):
                self._open.append(encrypted)
                server.connect(self._server)
                _relay(encrypted, server)


def _relay(encrypted: ssl.SSLSocket, server: socket.socket) -> None:
    """Copy in both directions until either side closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(encrypted, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, encrypted)
        while True:
            for key, _ in selector.select():
                source, target = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                block = source.recv(_BLOCK)
                if not block:
                    return
                target.sendall(block)
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    target.sendall(source.recv(_BLOCK))
