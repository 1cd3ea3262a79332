"""A file with an attribute that no database can hold concerns itself alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from db import Identity, State
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from watcher.detection.completeness import describe_file
from watcher.filesystem import tree as tree_module
from watcher.filesystem.openat import identity_of
from watcher.supervision.background_thread import stop_all

pytestmark = pytest.mark.long

ODD = f"{VIDEO_ID}/odd_720p.mp4"
GOOD = [f"{VIDEO_ID}/good{number}_720p.mp4" for number in range(3)]
FAR = 2**63
"""One more than a signed 64-bit column can hold."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pretend(harness: Harness, monkeypatch: pytest.MonkeyPatch, **attributes: int) -> None:
    """Have the kernel report other attributes of the odd file."""
    inode = os.stat(harness.absolute(ODD)).st_ino

    def identity(status: os.stat_result) -> Identity:
        real = identity_of(status)
        return replace(real, **attributes) if real.inode == inode else real

    monkeypatch.setattr(tree_module, "identity_of", identity)


def process_all(harness: Harness) -> None:
    """Scan, settle in the settler's own threads, and run every stage once."""
    app = harness.app
    app.settler.start()
    try:
        app.scanner.scan()
        until(lambda: len(app.settler) == 0)
    finally:
        assert stop_all([app.settler], 10)
    for state in (State.PENDING, State.VERIFIED):
        harness.step(state)


@pytest.mark.parametrize("times", [FAR, FAR - 1, -FAR, -FAR - 1, -1, 0, 10**30])
def test_a_time_that_no_database_can_hold_fails_the_file_alone(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes, times: int
) -> None:
    harness = make_harness()
    for path in (ODD, *GOOD):
        harness.write(path, video)
    pretend(harness, monkeypatch, mtime_ns=times)
    process_all(harness)
    assert {harness.row(path).state for path in GOOD} == {State.PUBLISHED}
    assert harness.app.supervisor.internal_errors() == []
    upload = harness.row(ODD)
    if -FAR <= times < FAR:
        assert (upload.state, upload.mtime_ns) == (State.PUBLISHED, times)
        return
    assert (upload.state, upload.error_code) == (State.FAILED, "unrecordable")
    assert upload.last_error is not None
    assert "set it with touch(1)" in upload.last_error
    assert upload.last_error in describe_file(harness.app.tree, ODD)
    assert harness.app.scanner.scan().noticed == 0
    monkeypatch.undo()
    harness.settle(ODD)
    harness.step(State.PENDING)
    assert harness.row(ODD).state is State.VERIFIED


@pytest.mark.parametrize(
    "attributes",
    [
        {"inode": FAR},
        {"inode": 2**64 - 1},
        {"device": FAR},
        {"device": 2**64 - 1},
        {"size": FAR - 1},
        {"size": 0},
        {"inode": 2**64},
        {"device": -1},
        {"size": FAR},
        {"size": -1},
    ],
    ids=str,
)
def test_no_attribute_of_a_file_keeps_the_others_from_being_published(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes, attributes: dict[str, Any]
) -> None:
    harness = make_harness()
    for path in (ODD, *GOOD):
        harness.write(path, video)
    pretend(harness, monkeypatch, **attributes)
    process_all(harness)
    assert {harness.row(path).state for path in GOOD} == {State.PUBLISHED}
    assert harness.app.supervisor.reason_to_stop is None
    assert harness.app.settler.failure is None


def test_a_sparse_file_of_the_largest_size_is_a_finding_about_it(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    for path in (ODD, *GOOD):
        harness.write(path, video)
    for size in (FAR - 1, 2**43):
        try:
            os.truncate(harness.absolute(ODD), size)
        except OSError:
            continue
        break
    process_all(harness)
    assert {harness.row(path).state for path in GOOD} == {State.PUBLISHED}
    assert harness.row(ODD).state in {State.REJECTED, State.FAILED}
