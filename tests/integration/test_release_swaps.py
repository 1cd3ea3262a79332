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
from tests.faults.stakes import Stakes
from tests.integration.conftest import OpenWorkshop
from tests.integration.test_release_rules import FREE_BOX, content, published
from tests.peer import Peer, peer
from tests.workshop import VIDEO_ID, Workshop
from watcher import failpoints
from watcher.failpoints import Point

POINTS = [
    "before",
    Point.LINKED_ASIDE,
    Point.RENAMED_ASIDE,
    "wait",
    Point.LEASED,
    Point.UNLINKED,
    Point.RECORDED,
]
"""Before which nothing has happened, those of a release that a hook hears of, and the second of the wait."""

ENCODE = """
import os, sys
print("starting", flush=True)
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
with open(sys.argv[2], "rb") as fresh, open(descriptor, "wb") as file:
    file.write(fresh.read())
print("written", flush=True)
"""

Swap = Callable[[Workshop, str, bytes], None]


def replace(shop: Workshop, path: str, fresh: bytes) -> None:
    shop.write(f"{path}.part", fresh)
    os.replace(shop.absolute(f"{path}.part"), shop.absolute(path))


def rewrite(shop: Workshop, path: str, fresh: bytes) -> None:
    shop.write(path, fresh)


def in_a_thread(swap: Swap, stack: ExitStack) -> Swap:
    """For a moment at which open(2) waits for our lease."""

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
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, point: str, swap: Callable[[], None]
) -> None:
    """Run the last stage, with the swap at that point of it."""

    def hook(at: Point) -> None:
        if at == point:
            swap()

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hook", hook)
        if point == "before":
            swap()
        shop.while_waiting = swap if point == "wait" else lambda: None
        shop.step(State.PUBLISHED)
    shop.while_waiting = lambda: None


@pytest.mark.parametrize(
    "swap",
    [
        pytest.param(replace, marks=pytest.mark.fault("file replaced at every step of its release")),
        pytest.param(rewrite, marks=pytest.mark.fault("file rewritten at every step of its release")),
    ],
)
def test_new_content_survives_at_its_path_and_is_uploaded_in_turn(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, stakes: Stakes, swap: Swap
) -> None:
    shop = workshop()
    fresh = video + FREE_BOX
    for point, path in paths():
        published(shop, video, path)
        stakes.add(path, video)
        old = shop.row(path)
        with ExitStack() as stack:
            act = in_a_thread(swap, stack) if point is Point.LINKED_ASIDE else swap
            release_with(shop, monkeypatch, point, partial(act, shop, path, fresh))
        stakes.add(path, fresh)
        stakes.inject()
        assert content(shop, path) == fresh, point
        assert os.listdir(shop.absolute(VIDEO_ID)) == [os.path.basename(path)], point
        shop.settle(path)
        final = shop.finish(path)
        assert final.id != old.id, point
        assert (final.state, shop.object(final)) == (State.RELEASED, fresh), point
    stakes.judge(shop.app.settings)


@pytest.mark.fault("file opened by an encoder at every step of its release")
def test_an_encoder_that_opens_the_file_meanwhile_writes_what_is_uploaded_in_turn(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, stakes: Stakes, place: str
) -> None:
    """Another process is in the middle of open(O_TRUNC), which waits where the lease stands in its way."""
    shop = workshop()
    fresh = os.path.join(place, "fresh.mp4")
    with open(fresh, "wb") as file:
        file.write(video + FREE_BOX)
    for point, path in paths():
        published(shop, video, path)
        stakes.add(path, video)
        with ExitStack() as stack:
            encoders: list[Peer] = []

            def encode(at: str = path, stack: ExitStack = stack, encoders: list[Peer] = encoders) -> None:
                encoder = stack.enter_context(peer(ENCODE, shop.absolute(at), fresh))
                encoder.expect("starting")
                encoders.append(encoder)

            release_with(shop, monkeypatch, point, encode)
            stakes.add(path, video + FREE_BOX)
            stakes.inject()
            encoders[0].expect("written")
        shop.settle(path)
        assert shop.finish(path).state is State.RELEASED, point
    stakes.judge(shop.app.settings)


@pytest.mark.fault("file hard-linked at every step of its release")
def test_content_with_a_second_name_stays_under_that_name(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, stakes: Stakes
) -> None:
    """Where the last look could still see it, under both."""
    shop = workshop()
    for point, path in paths():
        published(shop, video, path)
        second = shop.absolute(f"{path}.second")

        def link(at: str = path, second: str = second) -> None:
            for name in os.listdir(shop.absolute(VIDEO_ID)):
                if not name.endswith(".second"):
                    os.link(os.path.join(shop.absolute(VIDEO_ID), name), second)
                    return

        stakes.add(path, video)
        release_with(shop, monkeypatch, point, link)
        stakes.inject()
        names = set(os.listdir(shop.absolute(VIDEO_ID)))
        if point in {Point.UNLINKED, Point.RECORDED}:
            assert names == set(), point
            continue
        with open(second, "rb") as file:
            assert file.read() == video, point
        was_seen = point != Point.LEASED
        assert (os.path.basename(path) in names) == was_seen, point
        assert (shop.row(path).state is State.PUBLISHED) == was_seen, point
        for name in names:
            os.unlink(os.path.join(shop.absolute(VIDEO_ID), name))
    stakes.judge(shop.app.settings)


@pytest.mark.fault("symbolic link in its place at every step of its release")
def test_a_symbolic_link_that_appears_at_the_path_is_left_and_so_is_what_it_leads_to(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, place: str, stakes: Stakes
) -> None:
    shop = workshop()
    elsewhere = os.path.join(place, "elsewhere.mp4")
    for point, path in paths():
        published(shop, video, path)

        def point_elsewhere(at: str = path) -> None:
            if os.path.exists(shop.absolute(at)):
                os.rename(shop.absolute(at), elsewhere)
            else:
                shop.write(f"../{os.path.basename(elsewhere)}", video)
            os.symlink(elsewhere, shop.absolute(at))

        stakes.add(path, video)
        release_with(shop, monkeypatch, point, point_elsewhere)
        stakes.inject()
        assert os.path.islink(shop.absolute(path)), point
        assert content(shop, path) == video, point
        os.unlink(shop.absolute(path))
        assert os.listdir(shop.absolute(VIDEO_ID)) == [], point
    stakes.judge(shop.app.settings)
