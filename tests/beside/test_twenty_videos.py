"""Every row of twenty videos ends as it must, whenever the daemon starts, wherever the compressor is slow."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.beside.platform import AWKWARD_NAMES, QUALITIES, Platform, daemon_of, wait_until
from tests.beside.verdict import problems, rows_of, unfinished
from tests.compressor.steps import Step

pytestmark = pytest.mark.timeout(300)

PATIENCE_SECONDS = 120.0
SLOW_SECONDS = 0.4
AGAIN = 4
"""So many of the videos are compressed a second time."""


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


@pytest.mark.parametrize("start", ["before", "in the middle", "after"])
def test_every_row_ends_as_it_must_whenever_the_daemon_starts(platform: Platform, start: str) -> None:
    play(platform, start=start)


@pytest.mark.parametrize("step", list(Step))
def test_every_row_ends_as_it_must_wherever_the_compressor_is_slow(platform: Platform, step: Step) -> None:
    play(platform, "--delay", f"{step.value}={SLOW_SECONDS}", start="before")
