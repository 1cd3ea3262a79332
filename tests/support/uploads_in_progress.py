"""Uploads that were taken part of the way: interrupted between two parts, or published and not released."""

from __future__ import annotations

from db import State, Upload
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import Harness
from tests.support.video_files import PATH, padded

KEY = f"videos/{PATH}"
PART = 8 * 1024 * 1024
FIVE_PARTS = 5 * PART - 100
"""A size that is sent in five parts, the last a little shorter."""


def interrupted(harness: Harness, proxy: FaultProxy, video: bytes) -> Upload:
    """A row whose upload was stopped after the server had some of its parts."""
    harness.put(PATH, padded(video, FIVE_PARTS))

    def stop_after_the_second(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if proxy.actions.count("UploadPart") >= 2:
            harness.stop_requested = True
        return answer

    proxy.fault = stop_after_the_second
    (row,) = harness.step(State.PENDING)
    proxy.fault = lambda _request, forward: forward()
    harness.stop_requested = False
    assert row.state is State.PENDING
    assert row.multipart_id is not None
    del proxy.requests[:]
    return row


def published(harness: Harness, video: bytes, path: str = PATH) -> None:
    """Bring a new file to `published`."""
    harness.put(path, video)
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert harness.row(path).state is State.PUBLISHED


def content(harness: Harness, path: str = PATH) -> bytes:
    """The content of a file below the watched directory."""
    with open(harness.absolute(path), "rb") as file:
        return file.read()
