"""The kernel's own word on this process's connections: whether bytes move, and how fast they may.

The library beneath neither says how much of a request the server has accepted nor lets anybody slow it
down. Its sockets are descriptors of this process, though: TCP_INFO counts the bytes that the other side has
acknowledged, and SO_MAX_PACING_RATE spreads what is written over time. Governing source: tcp(7), socket(7),
linux/tcp.h.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

_MAX_PACING_RATE = 47
"""SO_MAX_PACING_RATE of asm-generic/socket.h, which Python does not name."""
_UNPACED = -1
_FASTEST_PACED = 2**31 - 1
_BYTES_AT = 120
"""Where struct tcp_info has tcpi_bytes_acked and tcpi_bytes_received, two unsigned 64-bit numbers."""
_BYTES = struct.Struct("=QQ")


class Connections:
    """This process's TCP connections to a port. Safe for threads; `clock` gives monotonic seconds."""

    def __init__(self, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()
        self._moved: dict[int, tuple[int, int]] = {}
        self._moved_at = clock()
        self._looked_at = float("-inf")
        self._paced = False

    def last_moved(self, at_most_every: float) -> float:
        """When, by `clock`, bytes were last seen to move in either direction; looks seldom, to be cheap."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= at_most_every:
                self._looked_at = now
                moved = {connection.inode: connection.moved() for connection in self._open()}
                if any(count != self._moved.get(inode) for inode, count in moved.items()):
                    self._moved_at = now
                self._moved = moved
            return self._moved_at

    def pace(self, bytes_per_second: float | None) -> None:
        """Let no connection that is open now send faster than this; None lets them go again."""
        with self._lock:
            if bytes_per_second is None and not self._paced:
                return
            self._paced = bytes_per_second is not None
            rate = _UNPACED
            if bytes_per_second is not None and bytes_per_second <= _FASTEST_PACED:
                rate = max(1, int(bytes_per_second))
            for connection in self._open():
                connection.pace(rate)

    def _open(self) -> Iterator["_Connection"]:
        for name in os.listdir("/proc/self/fd"):
            connection = _connection(int(name), self._port)
            if connection is not None:
                with connection.socket:
                    yield connection


class _Connection:
    """One connection, seen through a second descriptor, so that the library may close its own at any time."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.inode = os.fstat(sock.fileno()).st_ino

    def moved(self) -> tuple[int, int]:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_AT + _BYTES.size)
        acknowledged, received = _BYTES.unpack_from(info.ljust(_BYTES_AT + _BYTES.size, b"\0"), _BYTES_AT)
        return acknowledged, received

    def pace(self, rate: int) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, rate)


def _connection(fd: int, port: int) -> _Connection | None:
    """The connection behind a descriptor, if it is one to `port`."""
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            return None
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:  # closed meanwhile
        return None
    try:
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if is_tcp and sock.getpeername()[1] == port:
            return _Connection(sock)
    except OSError:  # not connected, or no longer
        pass
    sock.close()
    return None
