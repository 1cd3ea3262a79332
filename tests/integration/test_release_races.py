"""A file that is swapped between two steps of its release: the new content is uploaded in turn."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.peer_process import Peer, peer
from tests.support.uploads_in_progress import content, published
from tests.support.video_files import FREE_BOX
from watcher import failpoints
from watcher.failpoints import Point

pytestmark = pytest.mark.long

POINTS = [
    "before",
    Point.QUARANTINE_LINKED,
    Point.QUARANTINED,
    "wait",
    Point.LEASED,
    Point.UNLINKED,
    Point.RECORDED,
]
"""The points of a release at which a swap happens: its start, its failpoints and the quarantine time."""

ENCODE = """
import os, sys
print("starting", flush=True)
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
with open(sys.argv[2], "rb") as fresh, open(descriptor, "wb") as file:
    file.write(fresh.read())
print("written", flush=True)
"""

Swap = Callable[[Harness, str, bytes], None]


def replace(harness: Harness, path: str, fresh: bytes) -> None:
    harness.write(f"{path}.part", fresh)
    os.replace(harness.absolute(f"{path}.part"), harness.absolute(path))


def rewrite(harness: Harness, path: str, fresh: bytes) -> None:
    harness.write(path, fresh)


def in_a_thread(swap: Swap, stack: ExitStack) -> Swap:
    """For a point at which open(2) waits for our lease."""

    def begin(*arguments: Any) -> None:
        thread = threading.Thread(target=swap, args=arguments)
        thread.start()
        stack.callback(thread.join)

    return begin


def paths() -> Iterator[tuple[str, str]]:
    """Every point with a path of its own."""
    for number, point in enumerate(POINTS):
        yield point, f"{VIDEO_ID}/video {number}_720p.mp4"


def release_with(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, point: str, swap: Callable[[], None]
) -> None:
    """Run the release stage, with the swap at one point of it."""

    def hook(at: Point) -> None:
        if at == point:
            swap()

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hook", hook)
        if point == "before":
            swap()
        harness.while_waiting = swap if point == "wait" else lambda: None
        harness.step(State.PUBLISHED)
    harness.while_waiting = lambda: None


@pytest.mark.parametrize(
    "swap",
    [
        pytest.param(replace, marks=pytest.mark.fault("file replaced at every step of its release")),
        pytest.param(rewrite, marks=pytest.mark.fault("file rewritten at every step of its release")),
    ],
)
def test_new_content_survives_at_its_path_and_is_uploaded_in_turn(
    make_harness: MakeHarness,
    monkeypatch: pytest.MonkeyPatch,
    video: bytes,
    files_at_stake: FilesAtStake,
    swap: Swap,
) -> None:
    harness = make_harness()
    fresh = video + FREE_BOX
    for point, path in paths():
        published(harness, video, path)
        files_at_stake.add(path, video)
        old = harness.row(path)
        with ExitStack() as stack:
            act = in_a_thread(swap, stack) if point is Point.QUARANTINE_LINKED else swap
            release_with(harness, monkeypatch, point, partial(act, harness, path, fresh))
        files_at_stake.add(path, fresh)
        files_at_stake.inject()
        assert content(harness, path) == fresh, point
        assert os.listdir(harness.absolute(VIDEO_ID)) == [os.path.basename(path)], point
        harness.settle(path)
        final = harness.finish(path)
        assert final.id != old.id, point
        assert (final.state, harness.object(final)) == (State.RELEASED, fresh), point
    files_at_stake.judge(harness.app.settings)


@pytest.mark.fault("file opened by an encoder at every step of its release")
def test_an_encoder_that_opens_the_file_meanwhile_writes_what_is_uploaded_in_turn(
    make_harness: MakeHarness,
    monkeypatch: pytest.MonkeyPatch,
    video: bytes,
    files_at_stake: FilesAtStake,
    place: str,
) -> None:
    """Another process is in the middle of open(O_TRUNC), which waits where the lease stands in its way."""
    harness = make_harness()
    fresh = os.path.join(place, "fresh.mp4")
    with open(fresh, "wb") as file:
        file.write(video + FREE_BOX)
    for point, path in paths():
        published(harness, video, path)
        files_at_stake.add(path, video)
        with ExitStack() as stack:
            encoders: list[Peer] = []

            def encode(at: str = path, stack: ExitStack = stack, encoders: list[Peer] = encoders) -> None:
                encoder = stack.enter_context(peer(ENCODE, harness.absolute(at), fresh))
                encoder.expect("starting")
                encoders.append(encoder)

            release_with(harness, monkeypatch, point, encode)
            files_at_stake.add(path, video + FREE_BOX)
            files_at_stake.inject()
            encoders[0].expect("written")
        harness.settle(path)
        assert harness.finish(path).state is State.RELEASED, point
    files_at_stake.judge(harness.app.settings)


@pytest.mark.fault("file hard-linked at every step of its release")
def test_content_with_a_second_name_stays_under_that_name(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """Under both names, if the last check could still see it."""
    harness = make_harness()
    for point, path in paths():
        published(harness, video, path)
        second = harness.absolute(f"{path}.second")

        def link(at: str = path, second: str = second) -> None:
            for name in os.listdir(harness.absolute(VIDEO_ID)):
                if not name.endswith(".second"):
                    os.link(os.path.join(harness.absolute(VIDEO_ID), name), second)
                    return

        files_at_stake.add(path, video)
        release_with(harness, monkeypatch, point, link)
        files_at_stake.inject()
        names = set(os.listdir(harness.absolute(VIDEO_ID)))
        if point in {Point.UNLINKED, Point.RECORDED}:
            assert names == set(), point
            continue
        with open(second, "rb") as file:
            assert file.read() == video, point
        was_seen = point != Point.LEASED
        assert (os.path.basename(path) in names) == was_seen, point
        assert (harness.row(path).state is State.PUBLISHED) == was_seen, point
        for name in names:
            os.unlink(os.path.join(harness.absolute(VIDEO_ID), name))
    files_at_stake.judge(harness.app.settings)


@pytest.mark.fault("symbolic link in its place at every step of its release")
def test_a_symbolic_link_that_appears_at_the_path_is_left_and_so_is_what_it_leads_to(
    make_harness: MakeHarness,
    monkeypatch: pytest.MonkeyPatch,
    video: bytes,
    place: str,
    files_at_stake: FilesAtStake,
) -> None:
    harness = make_harness()
    elsewhere = os.path.join(place, "elsewhere.mp4")
    for point, path in paths():
        published(harness, video, path)

        def point_elsewhere(at: str = path) -> None:
            if os.path.exists(harness.absolute(at)):
                os.rename(harness.absolute(at), elsewhere)
            else:
                harness.write(f"../{os.path.basename(elsewhere)}", video)
            os.symlink(elsewhere, harness.absolute(at))

        files_at_stake.add(path, video)
        release_with(harness, monkeypatch, point, point_elsewhere)
        files_at_stake.inject()
        assert os.path.islink(harness.absolute(path)), point
        assert content(harness, path) == video, point
        os.unlink(harness.absolute(path))
        assert os.listdir(harness.absolute(VIDEO_ID)) == [], point
    files_at_stake.judge(harness.app.settings)
