"""Fixtures: each test runs on a new SQLite file and on a new schema of a PostgreSQL server."""

import pytest

from db import Database, Ledger, OwnCatalog
from tests.support.database_fixtures import (  # noqa: F401  # fixtures
    address,
    clock,
    database,
    postgres_address,
    sqlite_address,
)
from tests.support.databases import Clock

# The fixtures are named as parameters below.
# ruff: noqa: F811


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, "main", clock=clock)


@pytest.fixture
def catalog(database: Database) -> OwnCatalog:
    return OwnCatalog(database)
