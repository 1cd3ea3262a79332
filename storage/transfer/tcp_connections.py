"""The TCP connections of this process to the server, as the kernel sees them: their progress and their pace.

The CRT neither reports how much of a request the server has accepted nor limits its rate. Its sockets are
descriptors of this process, though: TCP_INFO counts the bytes that the peer has acknowledged and those that
wait to be sent, and SO_MAX_PACING_RATE spreads what is written over time. See tcp(7), socket(7) and
linux/tcp.h.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from storage.transfer.throughput import Throughput

_MAX_PACING_RATE = 47
"""SO_MAX_PACING_RATE of asm-generic/socket.h, which Python's `socket` lacks."""
_UNPACED = -1
_FASTEST_PACED = 2**31 - 1
_MOST_UNSENT = 256 * 1024
"""Bytes that wait in the kernel to be sent, for TCP_NOTSENT_LOWAT: what a slow line, too, takes in seconds.

The CRT gives up a connection that takes nothing from it for 30 seconds, although the kernel may still be
sending what it took before.
"""
_DISCARD = struct.pack("ii", 1, 0)
"""For SO_LINGER: a struct linger with no time to send the rest, see socket(7)."""
_INFO = struct.Struct("=24xI16xI4xI64xQQ8xI")
"""In struct tcp_info: tcpi_unacked, tcpi_last_data_sent and tcpi_last_data_recv, of 32 bits, the times in
milliseconds before now; tcpi_bytes_acked and tcpi_bytes_received, of 64; and tcpi_notsent_bytes, of 32."""


FLOOD_SECONDS = 0.2
"""Between two looks for answers that do not end."""


class TcpConnections:
    """This process's TCP connections to a port. Safe for threads; `clock` gives monotonic seconds."""

    def __init__(self, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[int, _ByteCounts] = {}
        self._active_at = clock()
        self._sampled_at = float("-inf")
        self._paced = False
        self._throughput = Throughput()
        self._moved = 0
        self._flood_sampled_at = float("-inf")
        self._answer_began: dict[int, _ByteCounts] = {}
        """By connection, the counts when it last sent any byte."""
        self._moved_at: dict[int, float] = {}
        """By connection, when its bytes last moved, or it began to be used."""
        self._cut: set[int] = set()
        """The connections that were shut down and are not closed yet."""

    @property
    def moved(self) -> int:
        """How many bytes the server had acknowledged at the last sample, since this object was made."""
        return self._moved

    @property
    def rate(self) -> float | None:
        """Bytes per second that all connections together take, by the last samples; None while unknown."""
        return self._throughput.rate

    def last_activity(self, interval: float) -> float:
        """When, by `clock`, bytes were last seen to move in either direction.

        Samples the connections at most once in `interval` seconds.
        """
        with self._lock:
            now = self._clock()
            if now - self._sampled_at >= interval:
                self._sample(now)
            return self._active_at

    def _sample(self, now: float) -> None:
        before, self._counts = self._counts, {}
        for connection in self._open():
            inode = os.fstat(connection.fileno()).st_ino
            self._counts[inode] = _byte_counts(connection)
            if inode not in before:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MOST_UNSENT)
        acknowledged = 0
        for inode, counts in self._counts.items():
            last = before.get(inode, _ByteCounts())
            acknowledged += max(0, counts.acknowledged - last.acknowledged)
            has_moved = (counts.acknowledged, counts.received) != (last.acknowledged, last.received)
            if has_moved:
                self._active_at = now
            if has_moved or inode not in before or (counts.is_sending and not last.is_sending):
                self._moved_at[inode] = now
        self._moved_at = {inode: self._moved_at[inode] for inode in self._counts}
        self._cut &= self._counts.keys()
        self._moved += acknowledged
        is_backlogged = all(
            any(counts.unsent for counts in sample.values()) for sample in (before, self._counts)
        )
        self._throughput.add(now - self._sampled_at, acknowledged, is_backlogged=is_backlogged)
        self._sampled_at = now

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
                counts = _byte_counts(connection)
                began = before.get(inode)
                if began is None or began.acknowledged != counts.acknowledged:
                    began = counts
                self._answer_began[inode] = began
                if counts.received - began.received > limit:
                    cut += 1
                    with suppress(OSError):  # closed meanwhile
                        connection.shutdown(socket.SHUT_RDWR)
            return cut

    def cut_stalled(self, seconds: float, *, spare_waiting: bool = False) -> int:
        """Shut down the connections on which nothing has moved for so many seconds, by the last sample.

        `spare_waiting` leaves those alone that have nothing to send. Returns how many had a request in
        progress. The others were idle, and their owner replaces them when it needs one, or in the middle of
        an answer, which cannot be told from its end.
        """
        stalled = 0
        with self._lock:
            limit = self._clock() - seconds
            silent = {inode for inode, moved_at in self._moved_at.items() if moved_at < limit} - self._cut
            if not silent:
                return 0
            for connection in self._open():
                inode = os.fstat(connection.fileno()).st_ino
                if inode not in silent:
                    continue
                counts = _byte_counts(connection)
                has_moved = (counts.acknowledged, counts.received) != self._counts[inode][:2]
                if has_moved or (spare_waiting and not counts.is_sending):
                    continue
                self._cut.add(inode)
                stalled += counts.is_sending or counts.awaits_answer
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
                with suppress(OSError):  # closed meanwhile
                    connection.shutdown(socket.SHUT_RDWR)
        return stalled

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

    def discard_unsent(self) -> None:
        """Have what waits to be sent at present discarded if its connection is closed, as by a cancellation.

        Otherwise the kernel still sends it, as much as megabytes, and others wait for the line.
        """
        with self._lock:
            for connection in self._open():
                if _byte_counts(connection).unsent:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)

    def _open(self) -> Iterator[socket.socket]:
        """The connections, by duplicate descriptors, because the CRT may close its own at any time."""
        for name in os.listdir("/proc/self/fd"):
            connection = _connection(int(name), self._port)
            if connection is not None:
                with connection:
                    yield connection


class _ByteCounts(NamedTuple):
    """The bytes that were acknowledged and received on a connection, and those that wait to be sent."""

    acknowledged: int = 0
    received: int = 0
    unsent: int = 0
    is_sending: bool = False
    """Whether bytes wait to be sent or acknowledged."""
    awaits_answer: bool = False
    """Whether the last bytes were sent, not received; or both within one tick of the kernel's clock."""


def _byte_counts(connection: socket.socket) -> _ByteCounts:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    unacked, sent_ago, received_ago, acknowledged, received, unsent = _INFO.unpack(
        info.ljust(_INFO.size, b"\0")
    )
    return _ByteCounts(acknowledged, received, unsent, bool(unacked or unsent), sent_ago <= received_ago)


def _connection(fd: int, port: int) -> socket.socket | None:
    """The TCP connection of a descriptor, if it is one to `port`."""
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            return None
        copy = os.dup(fd)
    except OSError:  # closed meanwhile
        return None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:  # a file's meanwhile
        os.close(copy)
        return None
    try:
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if is_tcp and sock.getpeername()[1] == port:
            return sock
    except OSError:  # not connected, or no longer
        pass
    sock.close()
    return None
