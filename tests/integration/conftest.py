"""What the integration tests share: an S3 server, real videos, and a house on both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.catalog_rows import CatalogRows, catalog_rows
from tests.support.cli_process import CUT, GOOD, Command, strict_command
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, Harness, open_harness, settings_for
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server, forget_aws
from tests.unit.watcher.conftest import _sigio_is_ignored, make_place, media, place  # noqa: F401  # fixtures
from watcher.settings.model import Settings

MakeSettings = Callable[..., Settings]
MakeHarness = Callable[..., Harness]


@pytest.fixture(autouse=True)
def _no_aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests."""
    with S3Server() as server:
        yield server


@pytest.fixture
def server(s3: S3Server) -> Iterator[S3Server]:
    """The S3 server with the one empty bucket that the settings name."""
    s3.create_bucket(BUCKET)
    yield s3
    s3.forget_everything()


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the server, which counts requests and does as it is told."""
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
def settings(place: str, proxy: FaultProxy) -> MakeSettings:  # noqa: F811  # the fixture
    """Settings for an empty directory and the proxied server."""

    def make(**changes: Any) -> Settings:
        return settings_for(place, proxy.url, **changes)

    return make


@pytest.fixture
def make_harness(settings: MakeSettings, server: S3Server) -> Iterator[MakeHarness]:
    """Opens workshops on one directory: one after the other they are lives of the same daemon."""
    with ExitStack() as stack:

        def open_one(**changes: Any) -> Harness:
            return stack.enter_context(open_harness(settings(**changes), server))

        yield open_one


@pytest.fixture
def rows(postgres: PostgresServer) -> Iterator[CatalogRows]:
    """A fresh database with the compressor's tables and one video."""
    with postgres.fresh_database() as url, catalog_rows(url) as made:
        yield made


@pytest.fixture
def beside(make_harness: MakeHarness, rows: CatalogRows) -> MakeHarness:
    """Opens workshops beside the compressor's catalog."""

    def open_one(**changes: Any) -> Harness:
        return make_harness(**{"DATABASE_URL": rows.url, "CATALOG": "compressor", **changes})

    return open_one


@pytest.fixture
def video(media: Media) -> bytes:  # noqa: F811  # the fixture
    """The bytes of a complete MP4."""
    with open(media.faststart, "rb") as file:
        return file.read()


@pytest.fixture
def offline_command(place: str) -> Iterator[Command]:  # noqa: F811  # the fixture
    """The command with an S3 server that must not get any request."""
    with FaultProxy() as server:
        yield strict_command(place, server.url)
        assert server.requests == []


@pytest.fixture
def online_command(place: str, proxy: FaultProxy) -> Command:  # noqa: F811  # the fixture
    """The command with a real S3 server."""
    return strict_command(place, proxy.url)


@pytest.fixture(scope="session")
def used_command(s3: S3Server, media: Media) -> Iterator[Command]:  # noqa: F811  # the fixture
    """The command after a run that published one file and rejected another one; read-only."""
    with make_place() as directory:
        s3.create_bucket(BUCKET)
        command = strict_command(directory, s3.url)
        with open(media.faststart, "rb") as file:
            video = file.read()
        command.write(GOOD, video)
        command.write(CUT, video[: len(video) // 2])
        command.write(f"{VIDEO_ID}/notes.log", b"not a video")
        assert command("run", "--once").code == 1
        s3.forget_everything()
        yield command


@pytest.fixture
def copied_command(used_command: Command, place: str) -> Command:  # noqa: F811  # the fixture
    """A copy of `used_command` that a test may change."""
    shutil.copytree(used_command.place, place, dirs_exist_ok=True)
    return strict_command(place, used_command.s3_url)
