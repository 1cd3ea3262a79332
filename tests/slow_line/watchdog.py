"""A stand-in for what systemd does with WatchdogSec=, see systemd.service(5) and sd_notify(3)."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.2


class Watchdog:
    """Receives a service's messages, and aborts one that was ready and is silent for too long."""

    def __init__(self, address: str, seconds: float) -> None:
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(round(seconds * 1_000_000))}
        self.longest_silence = 0.0
        """The most seconds between two messages WATCHDOG=1 so far."""
        self.has_fired = False
        self._seconds = seconds
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(POLL_SECONDS)
        self._over = threading.Event()

    def guard(self, pid: int) -> None:
        """Guard a process until `stop`."""
        fed_at: float | None = None
        while not self._over.is_set():
            try:
                lines = self._socket.recv(4096).split(b"\n")
            except TimeoutError:
                lines = []
            now = time.monotonic()
            if fed_at is not None:
                self.longest_silence = max(self.longest_silence, now - fed_at)
                if now - fed_at > self._seconds:
                    self.has_fired = True
                    os.kill(pid, signal.SIGABRT)
                    return
            if b"WATCHDOG=1" in lines or (b"READY=1" in lines and fed_at is None):
                fed_at = now

    def stop(self) -> None:
        """Guard nothing more."""
        self._over.set()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@contextmanager
def watchdog(directory: str, seconds: float) -> Iterator[Watchdog]:
    """A watchdog of so many seconds whose socket is in `directory`."""
    made = Watchdog(os.path.join(directory, "notify"), seconds)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def guarded(dog: Watchdog, pid: int) -> Iterator[None]:
    """Have a process guarded in the block; it must exist until the end of it."""
    thread = threading.Thread(target=dog.guard, args=(pid,))
    thread.start()
    try:
        yield
    finally:
        dog.stop()
        thread.join()
