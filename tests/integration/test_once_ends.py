"""`run --once` ends, whatever is there, and lists what is left."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

import pytest

from db import State, Upload
from storage.source_file import BUFFER_BYTES
from tests.support.catalog_harness import Compressor, compressor, publish  # noqa: F401  # the fixture
from tests.support.fault_proxy import Answer, FaultProxy
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.uploads_in_progress import published
from tests.support.video_files import padded
from watcher.app import single_pass
from watcher.app.single_pass import SinglePass
from watcher.errors import DeferError
from watcher.stages.publish import PublishStage

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/a_720p.mp4"
OTHER = f"{VIDEO_ID}/b_480p.mp4"


def run_once(harness: Harness, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """The sentences about what is left; fails if the pass does not end."""
    left: list[list[str]] = []

    def run() -> None:
        with harness.app.context.database.session():
            left.append(SinglePass(harness.app, signals=queue.SimpleQueue(), clock=clock).run())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return left[0]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_pass, "STAGES_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(single_pass, "SETTLE_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(single_pass, "STOP_SECONDS", 1.0)
    monkeypatch.setattr(single_pass, "OUTAGE_PATIENCE_SECONDS", 1.0)


def test_a_copy_that_must_be_hashed_again_is_released_in_the_same_pass(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video, PATH)
    os.chmod(harness.absolute(PATH), 0o640)
    assert run_once(harness) == []
    assert harness.row(PATH).state is State.RELEASED


def test_a_file_that_is_read_is_waited_for_however_long_that_takes(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    published(harness, padded(video, 3 * BUFFER_BYTES), PATH)
    os.chmod(harness.absolute(PATH), 0o640)
    now = 0.0
    one_more_block = threading.Semaphore(0)
    preadv = os.preadv

    def read_slowly(fd: int, buffers: list[memoryview], offset: int) -> int:
        assert one_more_block.acquire(timeout=20)
        return preadv(fd, buffers, offset)

    def look(_: SinglePass) -> bool:
        nonlocal now
        now += single_pass.SETTLE_PATIENCE_SECONDS * 0.7
        one_more_block.release()
        return True

    monkeypatch.setattr(os, "preadv", read_slowly)
    monkeypatch.setattr(SinglePass, "_check_gate", look)
    monkeypatch.setattr(single_pass, "GATE_SECONDS", 0.05)
    assert run_once(harness, clock=lambda: now) == []
    assert now > 2 * single_pass.SETTLE_PATIENCE_SECONDS


@pytest.mark.usefixtures("patience")
def test_a_copy_that_a_row_keeps_is_listed_and_does_not_keep_the_pass_from_its_end(
    make_harness: MakeHarness,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    harness = make_harness(**compressor.settings)
    publish(harness, compressor, PATH, video)
    row = compressor.begin(PATH)
    (line,) = run_once(harness)
    assert line.startswith(f"{PATH}: its local copy is not released yet: The compressor is encoding")
    assert row in line


def leave_to_stage(_stage: object, _upload: object, **_how: object) -> None:
    """Publish nothing with the confirmation."""


@pytest.mark.usefixtures("patience")
def test_an_upload_that_is_deferred_for_ever_is_listed(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes
) -> None:
    harness = make_harness()
    harness.write(PATH, video)

    def publish(_stage: object, _upload: object) -> None:
        raise DeferError("key-taken", "It waits for another one.", 0.1)

    monkeypatch.setattr(PublishStage, "publish", publish)
    monkeypatch.setattr(PublishStage, "publish_verified", leave_to_stage)
    assert run_once(harness) == [f"{PATH}: verified"]


@pytest.mark.usefixtures("patience")
def test_a_server_that_is_away_is_waited_for_and_then_listed(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    proxy.fault = lambda _request, _forward: Answer(500)
    harness = make_harness()
    for number in range(8):
        harness.write(f"{VIDEO_ID}/film{number}_720p.mp4", video)
    left = run_once(harness)
    assert "upload is paused: " in left[0]
    assert "InternalError" in left[0]
    assert len(left) == 9


@pytest.mark.usefixtures("patience")
def test_a_check_that_hangs_is_listed_and_the_other_files_are_published(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes
) -> None:
    harness = make_harness()
    for path in (PATH, OTHER):
        harness.write(path, video)
    hangs = threading.Event()
    check: Callable[..., object] = harness.app.settler._check_complete

    def check_or_hang(path: str, *arguments: object) -> object:
        if path == PATH:
            hangs.wait(25)
        return check(path, *arguments)

    monkeypatch.setattr(harness.app.settler, "_check_complete", check_or_hang)
    try:
        left = run_once(harness)
    finally:
        hangs.set()
    assert left[0] == f"{PATH}: it is not settled; the next run continues"
    assert "a thread did not end within 1 s; the next run continues" in left
    assert harness.row(OTHER).state is State.RELEASED


@pytest.mark.usefixtures("patience")
def test_an_attempt_that_lasts_is_waited_for(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes
) -> None:
    """It hashes or sends a large file."""
    monkeypatch.setattr(single_pass, "LASTING_SECONDS", 0.5)
    harness = make_harness()
    harness.write(PATH, video)
    publish_soon = PublishStage.publish

    def publish_late(stage: PublishStage, upload: Upload) -> None:
        time.sleep(4)
        publish_soon(stage, upload)

    monkeypatch.setattr(PublishStage, "publish", publish_late)
    monkeypatch.setattr(PublishStage, "publish_verified", leave_to_stage)
    assert run_once(harness) == []
    assert not os.path.exists(harness.absolute(PATH))
