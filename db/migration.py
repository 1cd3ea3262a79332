"""Applies schema migrations, safely when several processes start at once."""

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
"""The key of the migrations' advisory lock: "videoupl" in ASCII."""

_RETRY_SECONDS = 0.02

MIGRATIONS = tuple(
    sorted(
        entry.name.removesuffix(".py")
        for entry in files("db.migrations").iterdir()
        if re.fullmatch(r"\d{4}_\w+\.py", entry.name)
    )
)
"""The names of all migrations, in order."""


def migrate(database: Database) -> list[str]:
    """Apply the missing migrations in one transaction; returns their names in order.

    Safe if several processes start at once. Creates the schema on PostgreSQL; on SQLite switches the file to
    write-ahead logging, which persists. Raises DatabaseError.
    """
    with database.session():
        if database.schema is None:
            _use_write_ahead_log(database)
        with (
            database.transaction(),
            database.operation("migrate the tables") as connected,
            _runner(database, connected) as runner,
        ):
            if database.schema is not None:
                # A migration may rewrite tables, and another daemon's is waited for.
                connected.execute_sql("SET LOCAL statement_timeout = '30min'")
                connected.execute_sql("SET LOCAL lock_timeout = '10min'")
                connected.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                _create_schema(database.schema, connected)
            applied: list[str] = runner.up()
            return applied


def pending_migrations(database: Database) -> list[str]:
    """The names of the migrations that `migrate` would apply, in order. Changes nothing."""
    with (
        database.operation("list the pending migrations") as connected,
        _runner(database, connected) as runner,
    ):
        return [migration.name for migration in runner.status() if not migration.applied]


def schema_version(database: Database) -> str | None:
    """The name of the latest migration applied; None if there is none. Changes nothing."""
    with (
        database.operation("read the version of the tables") as connected,
        _runner(database, connected) as runner,
    ):
        return max((migration.name for migration in runner.status() if migration.applied), default=None)


@contextmanager
def _runner(database: Database, connected: Any) -> Iterator[Any]:
    with as_file(files("db.migrations")) as directory:
        yield Runner(connected, directory=str(directory), schema=database.schema)


def _create_schema(schema: str, connected: Any) -> None:
    """Create the schema if it is missing: CREATE needs a privilege that the daemon's user may not have."""
    query = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = %s"
    (found,) = connected.execute_sql(query, (schema,)).fetchone()
    if not found:
        connected.execute(NodeList((SQL("CREATE SCHEMA"), Entity(schema))))


def _use_write_ahead_log(database: Database) -> None:
    """Switch the journal mode, with retries: SQLite ignores its busy timeout while another does so."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with database.operation("switch the database to write-ahead logging") as connected:
                connected.execute_sql("PRAGMA journal_mode = WAL").fetchall()
        except DatabaseError as error:
            if error.kind is not ErrorKind.TRANSIENT or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return
