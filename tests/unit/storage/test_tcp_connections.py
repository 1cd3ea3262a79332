"""Progress and pacing of this process's TCP connections."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from storage.transfer.tcp_connections import FLOOD_SECONDS, TcpConnections, _byte_counts


class Pair:
    """A connection, and what its other end does with it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.ours = socket.create_connection(("127.0.0.1", self.port))
        self.theirs, _ = self._listening.accept()

    def send(self) -> None:
        self.ours.sendall(b"x")
        self.theirs.recv(1)

    def be_sent(self) -> None:
        self.theirs.sendall(b"x")
        self.ours.recv(1)

    def close(self) -> None:
        for each in (self.ours, self.theirs, self._listening):
            each.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bytes_that_go_either_way_are_seen_to_move_and_silence_is_not(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    moved = []
    for act in (None, None, pair.send, None, pair.be_sent, None):
        if act is not None:
            act()
        clock.now += 1
        moved.append(connections.last_activity(0))
    assert moved == [101, 101, 103, 103, 105, 105]


def test_connections_are_sampled_at_most_once_per_interval(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    connections.last_activity(10)
    pair.send()
    clock.now += 5
    assert connections.last_activity(10) == 100
    clock.now += 5
    assert connections.last_activity(10) == 110


def test_connections_to_other_ports_do_not_count(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(1, clock=clock)
    connections.last_activity(0)
    pair.send()
    clock.now += 1
    assert connections.last_activity(0) == 100


def test_the_rate_is_that_at_which_what_waits_is_acknowledged(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    pair.ours.setblocking(False)
    received = 0
    for _ in range(6):
        with suppress(BlockingIOError):
            while True:
                pair.ours.send(bytes(65536))
        connections.last_activity(0)
        clock.now += 1
        received += len(pair.theirs.recv(300_000, socket.MSG_WAITALL))
    connections.last_activity(0)
    assert connections.rate is not None
    assert connections.moved >= received
    assert connections.rate <= connections.moved / 4


def test_little_waits_in_the_kernel_so_that_its_sender_sees_a_slow_line_take_bytes(pair: Pair) -> None:
    connections = TcpConnections(pair.port)
    connections.last_activity(0)
    block = bytes(65536)
    pair.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024 * 1024)
    pair.ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            pair.ours.send(block)
    assert 0 < _byte_counts(pair.ours).unsent <= 256 * 1024 + len(block)


def test_what_waits_to_be_sent_can_be_discarded_when_its_connection_is_closed(pair: Pair) -> None:
    pair.ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            pair.ours.send(bytes(65536))
    TcpConnections(pair.port).discard_unsent()
    pair.ours.close()
    pair.theirs.settimeout(10)

    def receive_all() -> None:
        while pair.theirs.recv(65536):
            continue

    with pytest.raises(ConnectionResetError):
        receive_all()


def test_a_paced_connection_keeps_to_its_rate_and_an_unpaced_one_flies(pair: Pair) -> None:
    content = bytes(1_000_000)

    def seconds_to_send() -> float:
        def receive() -> None:
            left = len(content)
            while left:
                left -= len(pair.theirs.recv(65536))

        receiver = threading.Thread(target=receive)
        started = time.monotonic()
        receiver.start()
        pair.ours.sendall(content)
        receiver.join()
        return time.monotonic() - started

    connections = TcpConnections(pair.port)
    connections.pace(2_000_000)
    assert 0.25 < seconds_to_send() < 0.7
    connections.pace(None)
    assert seconds_to_send() < 0.2


def test_a_connection_whose_answer_does_not_end_is_shut_down_and_no_other_one(pair: Pair) -> None:
    """What is received after each request counts by itself."""
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    cut = []
    for act in (pair.be_sent, pair.be_sent, pair.send, pair.be_sent, pair.be_sent, pair.be_sent):
        act()
        clock.now += FLOOD_SECONDS
        cut.append(connections.cut_endless_answers(2))
    assert cut == [0, 0, 0, 0, 0, 1]
    assert pair.theirs.recv(1) == b""


def fill(connection: socket.socket) -> None:
    connection.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            connection.send(bytes(65536))


def test_a_connection_that_is_stuck_is_shut_down_once_and_a_moving_one_is_not(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    other = socket.create_connection(("127.0.0.1", pair.port))
    accepted, _ = pair._listening.accept()
    with other, accepted:
        fill(pair.ours)
        cut = []
        for _ in range(4):
            connections.last_activity(0)
            clock.now += 5
            other.sendall(b"x")
            accepted.recv(1)
            connections.last_activity(0)
            cut.append(connections.cut_stalled(12))
        assert cut == [0, 0, 1, 0]
        other.sendall(b"x")
        assert accepted.recv(1) == b"x"


def test_a_request_that_waits_for_its_answer_stalls_unless_it_is_spared(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    while not _byte_counts(pair.ours).awaits_answer:  # which the kernel knows to the millisecond
        pair.send()
    connections.last_activity(0)
    clock.now += 5
    connections.last_activity(0)
    assert connections.cut_stalled(2, spare_waiting=True) == 0
    assert connections.cut_stalled(2) == 1


def test_an_idle_connection_is_no_stall_and_one_that_is_used_again_is_not_shut_down(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    pair.send()
    pair.be_sent()
    while _byte_counts(pair.ours).awaits_answer:
        pair.be_sent()
    connections.last_activity(0)
    clock.now += 5
    assert connections.last_activity(0) < clock.now
    fill(pair.ours)
    connections.last_activity(0)
    assert connections.cut_stalled(2) == 0
    assert pair.theirs.recv(1) == b"\0"


def test_an_idle_connection_is_shut_down_without_being_called_a_stall(pair: Pair) -> None:
    clock = Clock()
    connections = TcpConnections(pair.port, clock=clock)
    while not (counts := _byte_counts(pair.ours)).received or counts.awaits_answer:
        pair.be_sent()
    connections.last_activity(0)
    clock.now += 5
    assert connections.cut_stalled(2) == 0
    assert pair.theirs.recv(1) == b""
