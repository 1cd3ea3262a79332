"""A platform for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beside.platform import Scene, platform
from tests.integration.conftest import s3, server  # noqa: F401  # fixtures
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server, forget_aws
from tests.unit.watcher.conftest import place  # noqa: F401  # fixture


@pytest.fixture(autouse=True)
def _no_aws_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


@pytest.fixture
def scene(place: str, postgres: PostgresServer, server: S3Server) -> Iterator[Scene]:  # noqa: F811  # fixtures
    """The compressor's database and directory, and an empty bucket."""
    with platform(place, postgres, server) as running:
        yield running
