"""The daemon as a process on PostgreSQL where no compressor keeps a catalog: from a file to free space."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing

import psycopg
import pytest

from db import Ledger, State
from tests.support.daemon_process import running_daemon
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from watcher.app.factories import open_ledger_database

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/good_720p.mp4"
KEY = f"videos/{VIDEO_ID}/good_720p.mp4"


@pytest.mark.parametrize("catalog", ["own", "none"])
def test_a_file_is_uploaded_published_and_released(
    postgres: PostgresServer,
    settings: MakeSettings,
    server: S3Server,
    media: Media,
    video: bytes,
    catalog: str,
) -> None:
    """A catalog of our own is in DATABASE_SCHEMA and shows the object; without one nothing does."""
    with postgres.fresh_database() as url:
        made = settings(DATABASE_URL=url, CATALOG=catalog, DATABASE_SCHEMA="sidecar")
        with running_daemon(made) as daemon:
            daemon.expect("daemon_ready")
            full = os.path.join(made.completed_dir, PATH)
            os.makedirs(os.path.dirname(full))
            shutil.copyfile(media.faststart, full)
            published = daemon.expect("upload_published", path=PATH)
            daemon.expect("upload_released", path=PATH)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert not os.path.exists(full)
        assert server.client().get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == video
        with closing(open_ledger_database(made)) as database:
            (upload,) = Ledger(database, made.instance).uploads()
        assert (upload.state, upload.url) == (State.RELEASED, published["url"])
        with psycopg.connect(url) as connection:
            shown = connection.execute(
                "SELECT url, status, file_size FROM sidecar.video_qualities"
            ).fetchall()
        assert shown == ([(upload.url, "ready", len(video))] if catalog == "own" else [])


def test_its_connections_fit_into_the_pool_that_a_pooler_has_by_default(
    postgres: PostgresServer, settings: MakeSettings, server: S3Server, media: Media
) -> None:
    """PgBouncer's `default_pool_size` is 20; in session mode each of ours takes one while it lives."""
    files = 60
    with postgres.fresh_database() as url, psycopg.connect(url, autocommit=True) as connection:
        made = settings(DATABASE_URL=url, CATALOG="own")
        with running_daemon(made) as daemon:
            daemon.expect("daemon_ready")
            directory = os.path.join(made.completed_dir, VIDEO_ID)
            os.makedirs(directory)
            for number in range(files):
                shutil.copyfile(media.faststart, os.path.join(directory, f"clip{number}_720p.mp4"))
            daemon.expect("upload_released", count=files)
            [(ours,)] = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'video-uploader'"
            ).fetchall()
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
    assert 0 < ours <= 20
