"""The daemon beside the stand-in compressor, small: three videos; `make beside` plays it with twenty."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.beside.platform import QUALITIES, Platform, running_platform, wait_until
from tests.beside.verdict import problems, rows_of, unfinished
from tests.support.catalog_rows import CatalogRows
from tests.support.daemon_process import rows as ledger_of
from tests.support.daemon_process import running_daemon
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.long

PATIENCE_SECONDS = 40.0


@pytest.fixture
def platform(place: str, postgres: PostgresServer, server: S3Server) -> Iterator[Platform]:
    """The compressor's database and directory, and an empty bucket."""
    with postgres.fresh_database() as url, running_platform(place, url, server) as running:
        yield running


def test_every_good_row_ends_with_a_public_url_and_every_failed_one_without(platform: Platform) -> None:
    """One source is called like a rendition; one encode is killed, one stopped: its file looks good."""
    videos = platform.videos(["clip_720p.mp4", "Été #1 100% (final).v2.mp4", "plain.mov"])
    failing = {(videos[0].video_id, "240p"): "SIGKILL", (videos[1].video_id, "360p"): "SIGTERM"}
    options = [f"--fail={video}:{quality}={how}" for (video, quality), how in failing.items()]
    with running_daemon(platform.settings(), log=str(platform.directory / "daemon.log")) as daemon:
        with platform.compressing(videos, *options) as compression:
            assert len(compression.outcomes()) == len(videos) * (len(QUALITIES) + 1)
        wait_until(lambda: not unfinished(platform), PATIENCE_SECONDS, lambda: unfinished(platform))
        assert problems(platform, broken={platform.output(*output) for output in failing}) == []
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    failed = [(row.video_id, row.quality) for row in rows_of(platform) if row.status == "failed"]
    assert sorted(failed) == sorted(failing)
    assert set(platform.completions.values()) == {1}


def test_a_row_that_appears_for_a_file_that_did_not_change_is_found_by_the_next_scan(
    settings: MakeSettings, rows: CatalogRows, media: Media
) -> None:
    """No event tells of it, and no file does: a scan covers the catalog's rows, too."""
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", KEEP_LOCAL=True)
    path = f"{VIDEO_ID}/good_720p.mp4"
    os.makedirs(os.path.join(chosen.completed_dir, VIDEO_ID))
    shutil.copyfile(media.faststart, os.path.join(chosen.completed_dir, path))
    rows.insert(os.path.basename(path), "720p")
    with running_daemon(chosen) as daemon:
        url = daemon.expect("upload_published", path=path)["url"]
        appeared = rows.insert(os.path.basename(path), "720p")
        daemon.signal(signal.SIGHUP)
        daemon.expect("upload_republished", path=path)
    assert rows.url_of(appeared) == url


@pytest.mark.parametrize("is_written_again", [True, False])
def test_a_new_row_of_a_file_that_did_not_change_is_published_without_a_scan(
    settings: MakeSettings, rows: CatalogRows, media: Media, is_written_again: bool
) -> None:
    """The video was compressed again: to equal bytes, or this is its original, which is not copied again."""
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", KEEP_LOCAL=True, RESCAN_SECONDS=86400)
    path = f"{VIDEO_ID}/good_720p.mp4"
    written = os.path.join(chosen.completed_dir, path)
    os.makedirs(os.path.dirname(written))
    shutil.copyfile(media.faststart, written)
    rows.insert(os.path.basename(path), "720p")
    with running_daemon(chosen) as daemon:
        url = daemon.expect("upload_published", path=path)["url"]
        appeared = rows.insert(os.path.basename(path), "720p", "processing")
        if is_written_again:
            shutil.copyfile(media.faststart, written)
        rows.update(appeared, status="ready")
        daemon.expect("upload_republished", path=path)
    assert rows.url_of(appeared) == url


def test_a_copy_that_gets_its_sources_time_before_its_row_appears_is_one_upload(
    settings: MakeSettings, rows: CatalogRows, media: Media
) -> None:
    """An original is copied, closed, and only then dated back, and there is no row for it yet."""
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", RESCAN_SECONDS=86400)
    path = f"{VIDEO_ID}/good.mp4"
    copy = os.path.join(chosen.completed_dir, path)
    os.makedirs(os.path.dirname(copy))
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        shutil.copyfile(media.faststart, copy)
        upload = daemon.expect("file_finished", path=path)["upload"]
        os.utime(copy, (1, 1))
        wait_until(
            lambda: [row.identity.mtime_ns for row in ledger_of(chosen)] == [10**9],
            PATIENCE_SECONDS,
            lambda: ledger_of(chosen),
        )
        rows.insert(os.path.basename(path), "original")
        assert daemon.expect("upload_published", path=path)["upload"] == upload
    assert [row.id for row in ledger_of(chosen)] == [upload]
