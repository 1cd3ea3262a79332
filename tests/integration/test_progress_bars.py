"""What `run` shows on a terminal while it uploads, seen through a real one."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.daemon_process import environment_of, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.video_files import padded
from watcher.settings import Settings

pytestmark = pytest.mark.long

SECONDS = 40.0
TAIL = 8192
"""Bytes: some frames of the bar, however long it is drawn."""


def test_an_upload_is_a_bar_with_rate_and_time_left_on_a_terminal(
    settings: MakeSettings, proxy: FaultProxy, video: bytes
) -> None:
    """The bar is drawn while parts are held back, and is gone when the run ends; a rate takes two amounts."""
    chosen = settings()
    os.makedirs(os.path.join(chosen.completed_dir, VIDEO_ID))
    path = os.path.join(chosen.completed_dir, VIDEO_ID, "my_video_720p.mp4")
    with open(path, "wb") as file:
        file.write(padded(video, 80 * 1024 * 1024))
    begun, seen = threading.Event(), threading.Event()

    def hold_the_later_parts(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart" and request.part_number > 2:
            begun.wait(SECONDS)
        if request.action == "UploadPart" and request.part_number == 10:
            seen.wait(SECONDS)
        return forward()

    proxy.fault = hold_the_later_parts
    with on_terminal(chosen, "run", "--once", COLUMNS="200") as (process, terminal):
        try:
            shown = read_until(terminal, rb"my_video_720p\.mp4.*[1-9]\d*\.\d/80\.0 MiB")
            begun.set()
            shown += read_until(terminal, rb"my_video_720p\.mp4.*\d+\.\d/80\.0 MiB.*/s")
            seen.set()
            shown += read_until(terminal, rb"upload_released")
            assert process.wait(SECONDS) == 0
        finally:
            begun.set()
            seen.set()
    assert b"\x1b[?25l" in shown


@contextmanager
def on_terminal(
    chosen: Settings, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the program on a terminal; yields the process and the other side of the terminal."""
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "watcher", *arguments],
        env=environment_of(chosen, TERM="xterm", **environment),
        cwd=os.path.dirname(chosen.completed_dir),
        stdin=side,
        stdout=side,
        stderr=side,
    ) as process:
        os.close(side)
        try:
            yield process, terminal
        finally:
            process.kill()
            os.close(terminal)


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What the terminal gets until the pattern is on it."""
    deadline = time.monotonic() + SECONDS
    shown = b""
    while not re.search(pattern, shown[-TAIL:], re.DOTALL):
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 65536)
    return shown


def test_top_is_drawn_on_a_whole_terminal_until_q(settings: MakeSettings) -> None:
    chosen = settings()
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        with on_terminal(chosen, "top", COLUMNS="80", LINES="24") as (process, terminal):
            shown = read_until(terminal, rb"published +0")
            os.write(terminal, b"q")
            assert process.wait(SECONDS) == 0
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert b"the daemon is running" in shown
