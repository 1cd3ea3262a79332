"""Fixtures of tests that run on both databases: a fresh SQLite file, a fresh schema of a PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from db import Database, migrate, sqlite_url
from tests.support.databases import Clock, DatabaseAddress
from tests.support.postgres import PostgresServer


@pytest.fixture
def sqlite_address(tmp_path: os.PathLike[str]) -> DatabaseAddress:
    return DatabaseAddress(sqlite_url(os.path.join(tmp_path, "state", "ledger é%?#.sqlite3")), None)


@pytest.fixture
def postgres_address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.fresh_schema() as schema:
        yield DatabaseAddress(postgres.url, schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> DatabaseAddress:
    name = "sqlite_address" if request.param == "sqlite" else "postgres_address"
    found: DatabaseAddress = request.getfixturevalue(name)
    return found


@pytest.fixture
def database(address: DatabaseAddress) -> Iterator[Database]:
    database = address.open()
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()
