"""Ending threads: all are told first, then all are waited for within one time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol


class Worker(Protocol):
    """Something with threads of its own."""

    def request_stop(self) -> None:
        """Begin nothing more, and interrupt what can be interrupted."""

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the threads to end; False if one goes on."""


def stop_all(workers: Sequence[Worker], timeout: float) -> bool:
    """Stop the workers within `timeout` seconds in all; False if one goes on."""
    for worker in workers:
        worker.request_stop()
    deadline = time.monotonic() + timeout
    ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in workers]
    return all(ended)


def join_all(threads: Iterable[threading.Thread], timeout: float) -> bool:
    """Wait `timeout` seconds in all; False if a thread goes on. One that was never started has ended."""
    started = [thread for thread in threads if thread.ident is not None]
    deadline = time.monotonic() + timeout
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in started)
