"""A socket like systemd's for sd_notify(3), and what a daemon has sent to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notify_socket(directory: str) -> Iterator[tuple[str, socket.socket]]:
    """A socket like systemd's for sd_notify(3), and its path."""
    path = os.path.join(directory, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(20)
        yield path, receiver


def expect_message(messages: socket.socket, text: str) -> str:
    """The next datagram that has the text in it; others before it are passed over."""
    while text not in (message := messages.recv(8192).decode()):
        continue
    return message
