"""What every test is held to: it ends the threads that it started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

JOIN_SECONDS = 5.0
"""Threads that were told to stop may take this long, all together; it is waited only while there are any."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """A thread that outlives its test is a leak; those of servers for the whole session were there before."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + JOIN_SECONDS
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in started if thread.is_alive()]
    assert not left, f"threads were left running: {', '.join(left)}"
