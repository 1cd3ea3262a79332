"""A file that is swapped between two steps of its release: the new content is uploaded in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from db import State
from tests.integration.conftest import OpenWorkshop
from tests.integration.test_release_rules import FREE_BOX, content, published
from tests.workshop import VIDEO_ID, Workshop
from watcher import steps
from watcher.steps import Step

POINTS = ["before", Step.LINKED_ASIDE, Step.RENAMED_ASIDE, "wait", Step.LEASED, Step.UNLINKED, Step.RECORDED]
"""Before which nothing has happened, those of a release that a hook hears of, and the second of the wait."""

Swap = Callable[[Workshop, str, bytes], None]


def replace(shop: Workshop, path: str, fresh: bytes) -> None:
    shop.write(f"{path}.part", fresh)
    os.replace(shop.absolute(f"{path}.part"), shop.absolute(path))


def rewrite(shop: Workshop, path: str, fresh: bytes) -> None:
    shop.write(path, fresh)


def paths() -> Iterator[tuple[str, str]]:
    """Every point with a path of its own."""
    for number, point in enumerate(POINTS):
        yield point, f"{VIDEO_ID}/video {number}_720p.mp4"


def release_with(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, point: str, swap: Callable[[], None]
) -> None:
    """Run the last stage, with the swap at that point of it."""

    def hook(step: Step) -> None:
        if step == point:
            swap()

    with monkeypatch.context() as patch:
        patch.setattr(steps, "hook", hook)
        if point == "before":
            swap()
        shop.while_waiting = swap if point == "wait" else lambda: None
        shop.step(State.PUBLISHED)
    shop.while_waiting = lambda: None


@pytest.mark.parametrize("swap", [replace, rewrite])
def test_new_content_survives_at_its_path_and_is_uploaded_in_turn(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, swap: Swap
) -> None:
    shop = workshop()
    fresh = video + FREE_BOX
    for point, path in paths():
        published(shop, video, path)
        old = shop.row(path)
        release_with(shop, monkeypatch, point, lambda at=path: swap(shop, at, fresh))  # type: ignore[misc]
        assert content(shop, path) == fresh, point
        assert os.listdir(shop.absolute(VIDEO_ID)) == [os.path.basename(path)], point
        shop.settle(path)
        final = shop.finish(path)
        assert final.id != old.id, point
        assert (final.state, shop.object(final)) == (State.RELEASED, fresh), point


def test_content_with_a_second_name_stays_under_that_name(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes
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

        release_with(shop, monkeypatch, point, link)
        names = set(os.listdir(shop.absolute(VIDEO_ID)))
        if point in {Step.UNLINKED, Step.RECORDED}:
            assert names == set(), point
            continue
        with open(second, "rb") as file:
            assert file.read() == video, point
        was_seen = point != Step.LEASED
        assert (os.path.basename(path) in names) == was_seen, point
        assert (shop.row(path).state is State.PUBLISHED) == was_seen, point
        for name in names:
            os.unlink(os.path.join(shop.absolute(VIDEO_ID), name))


def test_a_symbolic_link_that_appears_at_the_path_is_left_and_so_is_what_it_leads_to(
    workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch, video: bytes, place: str
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

        release_with(shop, monkeypatch, point, point_elsewhere)
        assert os.path.islink(shop.absolute(path)), point
        assert content(shop, path) == video, point
        os.unlink(shop.absolute(path))
        assert os.listdir(shop.absolute(VIDEO_ID)) == [], point
