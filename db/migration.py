"""Brings the tables up to date, whoever else may be trying the same at the same moment."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any

from peewee import SQL, Entity, NodeList
from playhouse.migrations import Runner

from db.connection_url import BUSY_SECONDS
from db.database import Database
from db.errors import DatabaseError, ErrorKind

_LOCK = 0x7669_6465_6F75_706C
"""The advisory lock of this program's migrations: "videoupl" in ASCII."""

_PAUSE_SECONDS = 0.02

MIGRATIONS = tuple(
    sorted(
        entry.name.removesuffix(".py")
        for entry in files("db.migrations").iterdir()
        if re.fullmatch(r"\d{4}_\w+\.py", entry.name)
    )
)
"""The names of all migrations there are, in order."""


def migrate(database: Database) -> list[str]:
    """Apply what is missing, all or nothing, and say what was applied: the migrations' names in order.

    Safe if several processes start at once. Makes the schema on PostgreSQL; on SQLite also switches the file
    to write-ahead logging, which it remembers. Raises DatabaseError.
    """
    with database.session():
        if database.schema is None:
            _use_write_ahead_log(database)
        with (
            database.transaction(),
            database.operation("bring the tables up to date") as connected,
            _runner(database, connected) as runner,
        ):
            if database.schema is not None:
                connected.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                _make_schema(database.schema, connected)
            applied: list[str] = runner.up()
            return applied


def pending_migrations(database: Database) -> list[str]:
    """The names of the migrations that `migrate` would apply, in order. Changes nothing."""
    with (
        database.operation("see which tables are out of date") as connected,
        _runner(database, connected) as runner,
    ):
        return [migration.name for migration in runner.status() if not migration.applied]


def schema_version(database: Database) -> str | None:
    """The name of the latest migration that was applied; None if there was none. Changes nothing."""
    with (
        database.operation("see which version the tables have") as connected,
        _runner(database, connected) as runner,
    ):
        return max((migration.name for migration in runner.status() if migration.applied), default=None)


@contextmanager
def _runner(database: Database, connected: Any) -> Iterator[Any]:
    with as_file(files("db.migrations")) as directory:
        yield Runner(connected, directory=str(directory), schema=database.schema)


def _make_schema(schema: str, connected: Any) -> None:
    """Make the schema unless it is there: making one takes a right that an operator may keep to himself."""
    query = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = %s"
    (found,) = connected.execute_sql(query, (schema,)).fetchone()
    if not found:
        connected.execute(NodeList((SQL("CREATE SCHEMA"), Entity(schema))))


def _use_write_ahead_log(database: Database) -> None:
    """Switch the journal; while another process does the same SQLite is busy at once instead of waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with database.operation("switch the database to write-ahead logging") as connected:
                connected.execute_sql("PRAGMA journal_mode = WAL").fetchall()
        except DatabaseError as error:
            if error.kind is not ErrorKind.TRANSIENT or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
