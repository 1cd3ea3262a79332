"""Fixtures of the integration tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.catalog_rows import CatalogRows
from tests.support.cli_process import CUT, GOOD, Command, strict_command
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.media import Media
from tests.support.s3_server import S3Server
from tests.support.temporary_directory import make_place


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""


@pytest.fixture
def make_catalog_harness(make_harness: MakeHarness, rows: CatalogRows) -> MakeHarness:
    """Opens harnesses whose catalog is the compressor's."""

    def open_one(**changes: Any) -> Harness:
        return make_harness(**{"DATABASE_URL": rows.url, "CATALOG": "compressor", **changes})

    return open_one


@pytest.fixture
def offline_command(place: str) -> Iterator[Command]:
    """The command with an S3 server that must not get any request."""
    with FaultProxy() as server:
        yield strict_command(place, server.url)
        assert server.requests == []


@pytest.fixture
def online_command(place: str, proxy: FaultProxy) -> Command:
    """The command with a real S3 server."""
    return strict_command(place, proxy.url)


@pytest.fixture(scope="session")
def used_command(s3: S3Server, media: Media) -> Iterator[Command]:
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
def copied_command(used_command: Command, place: str) -> Command:
    """A copy of `used_command` that a test may change."""
    shutil.copytree(used_command.place, place, dirs_exist_ok=True)
    return strict_command(place, used_command.s3_url)
