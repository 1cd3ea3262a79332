"""What was seen of the real compressor: it is killed, told twice, restarted, and given any format."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from tests.beside.platform import (
    AWKWARD_NAMES,
    QUALITIES,
    Platform,
    Video,
    running_platform,
    wait_until,
)
from tests.beside.plays import (
    HELD,
    PATIENCE_SECONDS,
    SOME_OUTCOMES,
    compress,
    incomplete,
    processing,
    watched,
)
from tests.beside.publication_watch import ensure_prompt
from tests.beside.verdict import problems, rows_of, unfinished
from tests.compressor.sources import FORMATS
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.timeout(300)


def test_a_service_killed_in_mid_video_compresses_again_beside_its_stale_rows(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """The rows of the encodes under way say `processing` for ever; newer ones of the same files are ready."""
    videos = platform.videos(AWKWARD_NAMES[:6])
    with watched(platform) as watch:
        with platform.compressing(videos, HELD, parallel=3) as compression:
            compression.outcomes(SOME_OUTCOMES)
            compression.kill()
        stale = processing(platform)
        assert stale
        compress(platform, videos)
    assert problems(platform, stale=stale) == []
    assert processing(platform) == stale
    ensure_prompt(request, "service killed in mid-video", watch)


def test_a_video_submitted_twice_at_once_is_right_after_it_was_compressed_alone(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """Two ffmpegs write one file, which may be damaged; its rows may be ready, failed or stale."""
    videos = platform.videos(AWKWARD_NAMES[:3])
    with watched(platform) as watch:
        with platform.compressing(
            [*videos, *videos], "--delay=encode-started=0.3", parallel=len(videos) * 2
        ) as compression:
            compression.outcomes()
        compress(platform, videos)
    broken = {
        platform.output(row.video_id, row.quality) for row in rows_of(platform) if row.status == "failed"
    }
    assert problems(platform, broken=broken, stale=processing(platform)) == []
    ensure_prompt(request, "one video submitted twice at once", watch)


def test_the_same_bytes_compressed_again_are_public_again(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """Everything is released when the compressor writes it anew: nothing has changed but times and rows."""
    videos = platform.videos(AWKWARD_NAMES[:4])
    with watched(platform, RESCAN_SECONDS=3600) as watch:
        compress(platform, videos)
        wait_until(lambda: not unfinished(platform), PATIENCE_SECONDS, lambda: unfinished(platform))
        assert problems(platform) == []
        compress(platform, videos)
    assert problems(platform) == []
    assert len(watch.public_at) == 2 * len(videos) * (len(QUALITIES) + 1)
    ensure_prompt(request, "the same bytes compressed again", watch)


@pytest.fixture
def restartable(place: str, own_postgres: PostgresServer, server: S3Server) -> Iterator[Platform]:
    """A platform whose database the test may restart."""
    with own_postgres.fresh_database() as url, running_platform(place, url, server) as running:
        yield running


def test_what_a_restart_of_the_database_interrupted_is_compressed_again(
    restartable: Platform, own_postgres: PostgresServer, request: pytest.FixtureRequest
) -> None:
    """The compressor drops the videos at work, and leaves their rows as they are."""
    platform = restartable
    videos = platform.videos(AWKWARD_NAMES[:6])
    with watched(platform) as watch:
        with platform.compressing(videos, HELD, parallel=3) as compression:
            compression.outcomes(SOME_OUTCOMES)
            own_postgres.stop()
            compression.outcomes(3)
            own_postgres.start()
            started = watch.now()
            compression.outcomes()
        stale = processing(platform)
        assert stale
        compress(platform, incomplete(platform, videos))
    assert problems(platform, stale=stale) == []
    ensure_prompt(request, "PostgreSQL restarted", watch, started)


def test_originals_of_every_format_arrive_as_they_are(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """What has no video's name by the daemon's settings is left alone; its renditions arrive."""
    videos = [platform.video_in_format(f"clip{extension}") for extension in FORMATS]
    taken = platform.settings().video_extensions
    platform.ignored |= originals(platform, [video for video in videos if video.source.suffix not in taken])
    with watched(platform) as watch:
        compress(platform, videos, "--qualities=144p")
    assert problems(platform) == []
    assert {path.rpartition(".")[2] for path in platform.ignored} >= {"tmp", "part"}
    ensure_prompt(request, "originals of every format", watch)


def originals(platform: Platform, videos: Collection[Video]) -> set[str]:
    """The paths of the copies of the videos' sources."""
    return {platform.output(video.video_id, "original") for video in videos}


def test_what_the_compressor_uploaded_itself_for_a_while_is_found_and_put_right(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """Its keys end as the source does, and its URLs are not encoded; the daemon is started only later."""
    names = (*AWKWARD_NAMES[:5], "question?mark=1&x=2.mov", "plus+and space.mkv", "100%.mov", "a#b.mp4")
    by_itself, by_us = platform.videos(names), platform.videos(["later.mp4", "later.mov"])
    compress(platform, by_itself, *platform.own_uploads)
    kept = {
        f"videos/{video.video_id}/{video.source.stem}_{quality}{video.source.suffix}"
        for video in by_itself
        for quality in (*QUALITIES, "original")
    }
    with watched(platform) as watch:
        compress(platform, by_us)
    assert problems(platform, kept=kept) == []
    ensure_prompt(request, "uploads by the compressor itself, before", watch)
