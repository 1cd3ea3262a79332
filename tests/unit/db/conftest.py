"""The databases that every test here runs on: a fresh SQLite file, a fresh schema of a PostgreSQL."""

import pytest

from db import Database, Ledger, OwnCatalog
from tests.support.database_fixtures import clock, database, place, postgres_place, sqlite_place  # noqa: F401
from tests.support.databases import Clock

# The fixtures are named as parameters below.
# ruff: noqa: F811


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, "main", clock=clock)


@pytest.fixture
def catalog(database: Database) -> OwnCatalog:
    return OwnCatalog(database)
