"""A platform for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beside.platform import Platform, running_platform
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None) -> None:
    """The AWS settings of this machine play no part."""


@pytest.fixture
def platform(place: str, postgres: PostgresServer, server: S3Server) -> Iterator[Platform]:
    """The compressor's database and directory, and an empty bucket."""
    with running_platform(place, postgres, server) as running:
        yield running
