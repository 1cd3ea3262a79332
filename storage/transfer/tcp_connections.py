"""The TCP connections of this process to the server, as the kernel sees them: their progress and their pace.

The CRT neither reports how much of a request the server has accepted nor limits its rate. Its sockets are
descriptors of this process, though: TCP_INFO counts the bytes that the peer has acknowledged, and
SO_MAX_PACING_RATE spreads what is written over time. See tcp(7), socket(7) and linux/tcp.h.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

_MAX_PACING_RATE = 47
"""SO_MAX_PACING_RATE of asm-generic/socket.h, which Python's `socket` lacks."""
_UNPACED = -1
_FASTEST_PACED = 2**31 - 1
_BYTES_AT = 120
"""Offset of tcpi_bytes_acked and tcpi_bytes_received, two unsigned 64-bit numbers, in struct tcp_info."""
_BYTES = struct.Struct("=QQ")


FLOOD_SECONDS = 0.2
"""Between two looks for answers that do not end."""


class TcpConnections:
    """This process's TCP connections to a port. Safe for threads; `clock` gives monotonic seconds."""

    def __init__(self, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()
        self._byte_counts: dict[int, tuple[int, int]] = {}
        self._active_at = clock()
        self._sampled_at = float("-inf")
        self._paced = False
        self._flood_sampled_at = float("-inf")
        self._answer_began: dict[int, tuple[int, int]] = {}
        """By connection, the bytes that were sent, and those received when it last sent any."""

    def last_activity(self, interval: float) -> float:
        """When, by `clock`, bytes were last seen to move in either direction.

        Samples the connections at most once in `interval` seconds.
        """
        with self._lock:
            now = self._clock()
            if now - self._sampled_at >= interval:
                self._sampled_at = now
                counts = {os.fstat(sock.fileno()).st_ino: _byte_counts(sock) for sock in self._open()}
                if any(count != self._byte_counts.get(inode) for inode, count in counts.items()):
                    self._active_at = now
                self._byte_counts = counts
            return self._active_at

    def cut_endless_answers(self, limit: int) -> int:
        """Shut down connections that have received more than `limit` bytes since they last sent any.

        An answer is never that long; the CRT would keep all of it in memory. Samples the connections at most
        once in `FLOOD_SECONDS`. Returns how many were shut down.
        """
        with self._lock:
            now = self._clock()
            if now - self._flood_sampled_at < FLOOD_SECONDS:
                return 0
            self._flood_sampled_at = now
            before, self._answer_began = self._answer_began, {}
            cut = 0
            for connection in self._open():
                inode = os.fstat(connection.fileno()).st_ino
                sent, received = _byte_counts(connection)
                began = before.get(inode)
                if began is None or began[0] != sent:
                    began = (sent, received)
                self._answer_began[inode] = began
                if received - began[1] > limit:
                    cut += 1
                    with suppress(OSError):  # closed meanwhile
                        connection.shutdown(socket.SHUT_RDWR)
            return cut

    def pace(self, bytes_per_second: float | None) -> None:
        """Limit the rate of every connection that is open now; None removes the limit."""
        with self._lock:
            if bytes_per_second is None and not self._paced:
                return
            self._paced = bytes_per_second is not None
            rate = _UNPACED
            if bytes_per_second is not None and bytes_per_second <= _FASTEST_PACED:
                rate = max(1, int(bytes_per_second))
            for connection in self._open():
                connection.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, rate)

    def _open(self) -> Iterator[socket.socket]:
        """The connections, by duplicate descriptors, because the CRT may close its own at any time."""
        for name in os.listdir("/proc/self/fd"):
            connection = _connection(int(name), self._port)
            if connection is not None:
                with connection:
                    yield connection


def _byte_counts(connection: socket.socket) -> tuple[int, int]:
    """The bytes that were acknowledged and received on a connection."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_AT + _BYTES.size)
    acknowledged, received = _BYTES.unpack_from(info.ljust(_BYTES_AT + _BYTES.size, b"\0"), _BYTES_AT)
    return acknowledged, received


def _connection(fd: int, port: int) -> socket.socket | None:
    """The TCP connection of a descriptor, if it is one to `port`."""
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            return None
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:  # closed meanwhile
        return None
    try:
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if is_tcp and sock.getpeername()[1] == port:
            return sock
    except OSError:  # not connected, or no longer
        pass
    sock.close()
    return None
