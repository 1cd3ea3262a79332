"""Fixtures: each test runs on a new SQLite file and on a new schema of a PostgreSQL server."""

import os
from collections.abc import Iterator

import pytest

from db import Database, Ledger, OwnCatalog, migrate, sqlite_url
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


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, "main", clock=clock)


@pytest.fixture
def catalog(database: Database) -> OwnCatalog:
    return OwnCatalog(database)
