"""The daemon is killed at every failpoint and started again: nothing is lost, nothing is left over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from db import OwnCatalog, open_database
from tests.faults.catalogue import killed_at
from tests.faults.files_at_stake import FilesAtStake
from tests.support.catalog_rows import catalog_rows
from tests.support.daemon_process import running_daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from tests.support.video_files import padded
from watcher.failpoints import CRASH_AT_VARIABLE, Point
from watcher.settings.model import Settings

LARGE = 17 * 1024 * 1024
NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
KEY = f"videos/{VIDEO_ID}/{NAME}"


@dataclass
class Deployment:
    """What a daemon is started with, and what must be true in the end."""

    settings: Settings
    server: S3Server
    url_of_row: Callable[[], str]

    def public_url(self) -> str:
        return f"{self.settings.aws_endpoint_url}/{BUCKET}/{KEY.replace(' ', '%20')}"

    def left(self) -> list[str]:
        """The names of all files below the watched directory."""
        return [name for _, _, names in os.walk(self.settings.completed_dir) for name in names]

    def ensure_all_is_well(self, content: bytes) -> None:
        """The object is the file, the row shows it, the copy is gone, and nothing else is anywhere."""
        client = self.server.client()
        objects: Any = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        assert [found["Key"] for found in objects] == [KEY]
        assert client.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == content
        assert self.url_of_row() == self.public_url()
        assert self.left() == []
        assert client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


@pytest.fixture(params=["sqlite", "postgresql"])
def deployment(
    request: pytest.FixtureRequest,
    place: str,
    proxy: FaultProxy,
    server: S3Server,
) -> Iterator[Deployment]:
    """A directory, an empty bucket, and a catalog: our own on SQLite, the compressor's on PostgreSQL."""
    if request.param == "sqlite":
        settings = settings_for(place, proxy.url)

        def url_of_own_row() -> str:
            return own_urls(settings)[0]

        yield Deployment(settings, server, url_of_own_row)
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.fresh_database() as url, catalog_rows(url) as rows:
        row = rows.insert(NAME, "720p")
        settings = settings_for(place, proxy.url, DATABASE_URL=url, CATALOG="compressor")
        yield Deployment(settings, server, lambda: rows.url_of(row))


def own_urls(settings: Settings) -> list[str]:
    database = open_database(settings.ledger_url, read_only=True)
    try:
        return [row.url for row in OwnCatalog(database).rows(VIDEO_ID)]
    finally:
        database.close()


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=pytest.mark.fault(killed_at(point))) for point in Point]
)
def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing(
    deployment: Deployment,
    media: Media,
    files_at_stake: FilesAtStake,
    point: Point,
) -> None:
    with open(media.faststart, "rb") as file:
        content = padded(file.read(), LARGE)
    files_at_stake.put(deployment.settings, PATH, content)
    with running_daemon(deployment.settings, environment={CRASH_AT_VARIABLE: point.value}) as daemon:
        assert daemon.wait(30) == -signal.SIGKILL
    files_at_stake.inject()
    with running_daemon(deployment.settings) as daemon:
        if point is Point.RECORDED:
            daemon.expect("daemon_ready")
        else:
            daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    deployment.ensure_all_is_well(content)
    files_at_stake.judge(deployment.settings)
