"""What `run` and `top` show on a terminal, seen through a real one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.support.daemon_process import environment_of, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.terminal import SECONDS, on_terminal
from tests.support.video_files import padded

pytestmark = pytest.mark.long


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
    environment = environment_of(chosen, COLUMNS="200")
    cwd = os.path.dirname(chosen.completed_dir)
    with on_terminal(["run", "--once"], environment, cwd, reads_keys=False) as terminal:
        try:
            terminal.read_until(rb"my_video_720p\.mp4.*[1-9]\d*\.\d/80\.0 MiB")
            begun.set()
            terminal.read_until(rb"my_video_720p\.mp4.*\d+\.\d/80\.0 MiB.*/s")
            seen.set()
            terminal.read_until(rb"upload_released")
            assert terminal.end() == 0
        finally:
            begun.set()
            seen.set()
    assert b"\x1b[?25l" in terminal.shown


def test_top_is_drawn_on_a_whole_terminal_until_q(settings: MakeSettings) -> None:
    chosen = settings()
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        cwd = os.path.dirname(chosen.completed_dir)
        with on_terminal(["top"], environment_of(chosen), cwd) as terminal:
            terminal.read_until(rb"published +0")
            terminal.type(b"q")
            assert terminal.end() == 0
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert b"the daemon is running" in terminal.shown
