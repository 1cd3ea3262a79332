"""Fixtures that several suites share; the root's conftest makes this module a plugin of pytest.

Fixtures that are active in every test of a suite are named by that suite's own conftest.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.catalog_rows import CatalogRows, catalog_rows
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, Harness, MakeHarness, MakeSettings, open_harness, settings_for
from tests.support.media import Media, make_media
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server, forget_aws
from tests.support.temporary_directory import make_place
from watcher.filesystem import leases
from watcher.settings.model import Settings


@pytest.fixture
def no_aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process without the AWS settings of this machine."""
    forget_aws(monkeypatch)


@pytest.fixture
def sigio_ignored() -> Iterator[None]:
    """The process with SIGIO ignored, as in the daemon: a broken lease must not kill it."""
    before = signal.getsignal(signal.SIGIO)
    leases.ignore_sigio()
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Real videos, made once."""
    return make_media(str(tmp_path_factory.mktemp("media")))


@pytest.fixture
def place() -> Iterator[str]:
    """An empty directory that anyone may enter, on a file system whose leases can be trusted."""
    with make_place() as directory:
        yield directory


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
    """A proxy before the server, which records requests and injects faults."""
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
def settings(place: str, proxy: FaultProxy) -> MakeSettings:
    """Settings for an empty directory and the proxied server."""

    def make(**changes: Any) -> Settings:
        return settings_for(place, proxy.url, **changes)

    return make


@pytest.fixture
def make_harness(settings: MakeSettings, server: S3Server) -> Iterator[MakeHarness]:
    """Opens harnesses on one directory; one after the other they are restarts of the same daemon."""
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
def video(media: Media) -> bytes:
    """The bytes of a complete MP4."""
    with open(media.faststart, "rb") as file:
        return file.read()
