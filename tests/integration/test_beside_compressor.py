"""The daemon beside the stand-in compressor, small: three videos; `make beside` plays it with twenty."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.beside.scene import QUALITIES, Scene, platform, wait_until
from tests.beside.verdict import problems, rows_of, unfinished
from tests.daemon import running_daemon
from tests.postgres import PostgresServer
from tests.s3_server import S3Server

pytestmark = pytest.mark.long

PATIENCE_SECONDS = 40.0


@pytest.fixture
def scene(place: str, postgres: PostgresServer, server: S3Server) -> Iterator[Scene]:
    """The compressor's database and directory, and an empty bucket."""
    with platform(place, postgres, server) as running:
        yield running


def test_every_good_row_ends_with_a_public_url_and_every_failed_one_without(scene: Scene) -> None:
    """One source is called like a rendition; one encode is killed, one stopped: its file looks good."""
    videos = scene.videos(["clip_720p.mp4", "Été #1 100% (final).v2.mp4", "plain.mov"])
    failing = {(videos[0].video_id, "240p"): "SIGKILL", (videos[1].video_id, "360p"): "SIGTERM"}
    options = [f"--fail={video}:{quality}={how}" for (video, quality), how in failing.items()]
    with running_daemon(scene.settings(), log=str(scene.directory / "daemon.log")) as daemon:
        with scene.compressing(videos, *options) as compression:
            assert len(compression.outcomes()) == len(videos) * (len(QUALITIES) + 1)
        wait_until(lambda: not unfinished(scene), PATIENCE_SECONDS, lambda: unfinished(scene))
        assert problems(scene, broken={scene.output(*output) for output in failing}) == []
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    failed = [(row.video_id, row.quality) for row in rows_of(scene) if row.status == "failed"]
    assert sorted(failed) == sorted(failing)
    assert set(scene.completions.values()) == {1}
