"""Fixtures of tests that run on both databases: a fresh SQLite file, a fresh schema of a PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from db import Database, migrate, sqlite_url
from tests.support.databases import Clock, Place
from tests.support.postgres import PostgresServer


@pytest.fixture
def sqlite_place(tmp_path: os.PathLike[str]) -> Place:
    return Place(sqlite_url(os.path.join(tmp_path, "state", "ledger é%?#.sqlite3")), None)


@pytest.fixture
def postgres_place(postgres: PostgresServer) -> Iterator[Place]:
    with postgres.fresh_schema() as schema:
        yield Place(postgres.url, schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    name = "sqlite_place" if request.param == "sqlite" else "postgres_place"
    found: Place = request.getfixturevalue(name)
    return found


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    database = place.open()
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()
