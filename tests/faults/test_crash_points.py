"""The daemon is killed at every step of a file's way and started again: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from db import OwnCatalog, open_database
from tests.faults.catalogue import killed_at
from tests.faults.files_at_stake import Stakes
from tests.integration.test_upload_rules import padded
from tests.support.catalog_rows import catalog_rows
from tests.support.daemon_process import running_daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from watcher.failpoints import CRASH_AT_VARIABLE, Point
from watcher.settings.model import Settings

LARGE = 17 * 1024 * 1024
NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
KEY = f"videos/{VIDEO_ID}/{NAME}"


@dataclass
class Scene:
    """What a daemon is started on, and what must be true in the end."""

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
def app(
    request: pytest.FixtureRequest,
    place: str,
    proxy: FaultProxy,
    server: S3Server,
) -> Iterator[Scene]:
    """A directory, an empty bucket, and a catalog: our own on SQLite, the compressor's on PostgreSQL."""
    if request.param == "sqlite":
        settings = settings_for(place, proxy.url)

        def url_of_own_row() -> str:
            return own_urls(settings)[0]

        yield Scene(settings, server, url_of_own_row)
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.fresh_database() as url, catalog_rows(url) as rows:
        row = rows.insert(NAME, "720p")
        settings = settings_for(place, proxy.url, DATABASE_URL=url, CATALOG="compressor")
        yield Scene(settings, server, lambda: rows.url_of(row))


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
    app: Scene,
    media: Media,
    stakes: Stakes,
    point: Point,
) -> None:
    with open(media.faststart, "rb") as file:
        content = padded(file.read(), LARGE)
    stakes.put(app.settings, PATH, content)
    with running_daemon(app.settings, environment={CRASH_AT_VARIABLE: point.value}) as daemon:
        assert daemon.wait(30) == -signal.SIGKILL
    stakes.inject()
    with running_daemon(app.settings) as daemon:
        if point is Point.RECORDED:
            daemon.expect("daemon_ready")
        else:
            daemon.expect("upload_released", path=PATH)
        stakes.recovered()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    app.ensure_all_is_well(content)
    stakes.judge(app.settings)
