"""What several tests play: compressing beside a daemon that is watched, to an end that is judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.beside.platform import (
    AWKWARD_NAMES,
    QUALITIES,
    Platform,
    Video,
    daemon_of,
    wait_until,
)
from tests.beside.publication_watch import PublicationWatch, publication_watch
from tests.beside.verdict import problems, rows_of, unfinished

PATIENCE_SECONDS = 120.0
SOME_OUTCOMES = 7
"""Of three videos at work, some are in the middle then."""
HELD = "--delay=encoded=0.2"
"""So long is an encode done and its row says `processing`: whoever strikes now strikes some of them."""
AGAIN = 4
"""So many of the videos are compressed a second time."""


@contextmanager
def watched(platform: Platform, **changes: object) -> Iterator[PublicationWatch]:
    """The daemon at work, and the rows watched; at the end nothing may be under way."""
    with daemon_of(platform, **changes), publication_watch(platform) as watch:
        # Where the database is away at its start, the daemon ends.
        wait_until(
            lambda: "daemon_ready" in platform.log.read_text(), PATIENCE_SECONDS, platform.log.read_text
        )
        yield watch
        wait_until(lambda: not unfinished(platform), PATIENCE_SECONDS, lambda: unfinished(platform))
        # It has seen the last of them, too.
        wait_until(
            lambda: watch.ready_at.keys() == watch.public_at.keys(), PATIENCE_SECONDS, lambda: "rows unseen"
        )


def processing(platform: Platform) -> set[str]:
    """The ids of the rows that say ``processing``."""
    return {row.id for row in rows_of(platform) if row.status == "processing"}


def compress(platform: Platform, videos: Sequence[Video], *options: str) -> None:
    """Compress the videos; every output must be good."""
    with platform.compressing(videos, *options, parallel=3) as compression:
        said = compression.outcomes()
    assert [line for line in said if not line.startswith("ready: ")] == []


def incomplete(platform: Platform, videos: Sequence[Video]) -> list[Video]:
    """The videos that lack a ready row of some quality."""
    ready = {(row.video_id, row.quality) for row in rows_of(platform) if row.status == "ready"}
    outputs = (*QUALITIES, "original")
    return [video for video in videos if any((video.video_id, quality) not in ready for quality in outputs)]


def play(platform: Platform, *options: str, start: str) -> None:
    """Compress everything, with two encodes that fail and four videos that come twice; judge the end.

    An original that is still there when its video comes again is not copied anew; if it is released before
    the compressor has probed it, the compressor says so and adds no row.
    """
    videos = platform.videos(AWKWARD_NAMES)
    once, twice = videos[AGAIN:], videos[:AGAIN]
    failing = {(once[0].video_id, "240p"): "SIGKILL", (once[1].video_id, "360p"): "SIGTERM"}
    options += tuple(f"--fail={video}:{quality}={how}" for (video, quality), how in failing.items())
    said: list[str] = []
    with ExitStack() as stack:
        if start == "before":
            stack.enter_context(daemon_of(platform))
        first = stack.enter_context(platform.compressing(once, *options, parallel=3))
        second = stack.enter_context(platform.compressing(twice, *options, "--again", "1", parallel=1))
        if start == "in the middle":
            said += first.outcomes(len(once) * (len(QUALITIES) + 1) // 2)
            stack.enter_context(daemon_of(platform))
        said += first.outcomes() + second.outcomes()
        if start == "after":
            stack.enter_context(daemon_of(platform))
        wait_until(lambda: not unfinished(platform), PATIENCE_SECONDS, lambda: unfinished(platform))
        broken = {platform.output(*output) for output in failing}
        assert problems(platform, broken=broken) == []
    rows = rows_of(platform)
    assert sorted((row.video_id, row.quality) for row in rows if row.status == "failed") == sorted(failing)
    assert sum(row.status == "ready" for row in rows) == sum(line.startswith("ready: ") for line in said)
    of_originals = [row.video_id for row in rows if row.quality == "original"]
    assert set(of_originals) == {video.video_id for video in videos}
    renditions = sum(row.status == "ready" for row in rows) - len(of_originals)
    assert renditions == (len(videos) + AGAIN) * len(QUALITIES) - len(failing)
