"""A source video for all tests, and a database for each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compressor.database import create_schema
from tests.compressor.sources import make_source
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real source video, from long ago."""
    path = tmp_path_factory.mktemp("pending") / "Été #1 100% (final).v2.mp4"
    make_source(path, seconds=0.5, height=180)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database with the compressor's tables, and nothing in them."""
    with postgres.fresh_database() as url:
        create_schema(url)
        yield url
