"""An upload thread is alive while bytes move, and has patience for what may legitimately take long."""

from __future__ import annotations

import pytest

from db import State
from tests.support.harness import MakeHarness
from tests.support.video_files import PATH
from watcher.stages.runner import Work
from watcher.stages.upload_progress import UploadProgress


@pytest.mark.parametrize(("stall", "patience"), [(1, 180), (60, 180), (600, 720)])
def test_a_thread_is_not_stuck_before_its_request_has_stalled(
    make_harness: MakeHarness, stall: int, patience: int
) -> None:
    harness = make_harness(STALL_SECONDS=stall)
    assert harness.app.runners[State.PENDING].stage.patience_seconds == patience


def test_bytes_that_move_are_a_beat(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    beats: list[None] = []
    work = Work(
        error_policy=harness.app.runners[State.PENDING].error_policy,
        stopped=lambda: False,
        beat=lambda: beats.append(None),
        wait=lambda _: False,
    )
    UploadProgress(harness.app.context, harness.put(PATH, video), work, lambda: 0.0).moved()
    assert len(beats) == 1
