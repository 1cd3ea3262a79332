"""A server whose answers do not end: it drips or floods, in the headers or in the body."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

BODY = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n\r\n"
"""The head of an answer whose body ends with the connection."""
HEADERS = b"HTTP/1.1 200 OK\r\nX-Long: "
"""The beginning of an answer whose headers do not end."""


class EndlessServer:
    """Answers every request with `head` and then `chunk` again and again, `seconds` apart.

    Runs while it is a context; `url` is its address, `sent` the number of bytes sent after the heads.
    """

    def __init__(self, head: bytes, chunk: bytes, *, seconds: float) -> None:
        self.sent = 0
        self._head, self._chunk, self._seconds = head, chunk, seconds
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]  # any function
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(1)
            try:
                connection.recv(1 << 16)
                connection.sendall(self._head)
                while not self._stopped.wait(self._seconds):
                    connection.sendall(self._chunk)
                    self.sent += len(self._chunk)
            except OSError:
                return
