"""HTTP answers with an end: a deadline for the whole of an answer, and a limit of its size.

The timeouts of urllib3, which botocore uses, are for each read: a server that sends a byte before each of
them is over holds a request for ever, and one that never stops sending fills the memory. Here the socket
itself is read within both bounds, status line and headers included.
"""

import io
import socket
import time
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from typing import Any

MAX_ANSWER_BYTES = 16 << 20
"""The limit for an answer of S3: a page of a listing has up to 1,000 keys of 1,024 bytes, escaped for XML."""
HEADER_BYTES = 1 << 17
"""The limit for the headers of an answer whose body is not read."""


class AnswerTooLargeError(OSError):
    """An answer is longer than its limit."""


class BoundedReader(io.RawIOBase):
    """What a socket receives until `deadline`, in monotonic seconds: `limit` bytes at most.

    Raises `TimeoutError` and `AnswerTooLargeError`.
    """

    def __init__(self, sock: socket.socket, deadline: float, limit: int) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._limit = limit
        self._received = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As `io.RawIOBase.readinto`."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer was not complete in time")
        self._sock.settimeout(left)
        count: int = self._raw.readinto(buffer) or 0
        self._received += count
        if self._received > self._limit:
            raise AnswerTooLargeError(f"the answer is longer than {self._limit:,} bytes")
        return count

    def close(self) -> None:
        """As `io.IOBase.close`."""
        self._raw.close()
        super().close()


def bounded_pools(
    pools: Mapping[str, Any], *, deadline: Callable[[], float], limit: int = MAX_ANSWER_BYTES
) -> dict[str, Any]:
    """The classes of urllib3's connection pools by scheme, changed to read bounded answers.

    `deadline` is called when an answer is about to be read, and returns monotonic seconds.
    """

    class Response(HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
            super().__init__(sock, *arguments, **options)
            self.fp.close()
            self.fp = io.BufferedReader(BoundedReader(sock, deadline(), limit))

    def bounded(pool: Any) -> Any:
        connection = type("BoundedConnection", (pool.ConnectionCls,), {"response_class": Response})
        return type("BoundedPool", (pool,), {"ConnectionCls": connection})

    return {scheme: bounded(pool) for scheme, pool in pools.items()}
