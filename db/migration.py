"""Applies schema migrations, safely when several processes start at once."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

_UNUSABLE = """
    SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    AND CASE relkind
        WHEN 'r' THEN NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
            AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
        WHEN 'S' THEN NOT has_sequence_privilege(oid, 'USAGE')
        ELSE FALSE END
    ORDER BY relname
"""

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
    write-ahead logging, which persists. Raises DatabaseError, also for the tables of a newer version.
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
            _refuse_newer_tables(runner)
            applied: list[str] = runner.up()
            return applied


def pending_migrations(database: Database) -> list[str]:
    """The names of the migrations that `migrate` would apply, in order. Changes nothing.

    Raises DatabaseError, also for the tables of a newer version.
    """
    with (
        database.operation("list the pending migrations") as connected,
        _runner(database, connected) as runner,
    ):
        _refuse_newer_tables(runner)
        return [migration.name for migration in runner.status() if not migration.applied]


def schema_version(database: Database) -> str | None:
    """The name of the latest migration applied; None if there is none. Changes nothing."""
    with (
        database.operation("read the version of the tables") as connected,
        _runner(database, connected) as runner,
    ):
        return max((migration.name for migration in runner.status() if migration.applied), default=None)


def try_migration(database: Database) -> None:
    """Do what `migrate` needs privileges for, in a transaction that is rolled back.

    Creates the schema if it is missing and a table in it, and alters our own table if it exists. Does nothing
    on SQLite. Raises DatabaseError.
    """
    if database.schema is None:
        return
    name = "try what a migration needs"
    with (
        suppress(_RollBackError),
        database.transaction(name),
        database.operation(name) as connected,
    ):
        _create_schema(database.schema, connected)
        table = Entity(database.schema, f"video_uploader_probe_{os.getpid()}")
        connected.execute(NodeList((SQL("CREATE TABLE"), table, SQL("()"))))
        if schema_version(database) is not None:
            # Needs the table's owner and no lock that keeps others waiting.
            uploads = Entity(database.schema, "uploads")
            statement = (SQL("ALTER TABLE"), uploads, SQL("ALTER COLUMN id SET STATISTICS -1"))
            connected.execute(NodeList(statement))
        raise _RollBackError


def unusable_tables(database: Database) -> list[str]:
    """Our tables and sequences that this role may not read and write; none on SQLite."""
    if database.schema is None:
        return []
    with database.operation("look for missing privileges") as connected:
        return [name for (name,) in connected.execute_sql(_UNUSABLE, (database.schema,)).fetchall()]


def current_role(database: Database) -> str:
    """The role of the connections, quoted where SQL requires that; CURRENT_USER on SQLite, which has none."""
    if database.schema is None:
        return "CURRENT_USER"
    with database.operation("look up the role") as connected:
        return str(connected.execute_sql("SELECT quote_ident(current_user)").fetchone()[0])


class _RollBackError(Exception):
    """Rolls a transaction back that was only a trial."""


@contextmanager
def _runner(database: Database, connected: Any) -> Iterator[Any]:
    with as_file(files("db.migrations")) as directory:
        yield Runner(connected, directory=str(directory), schema=database.schema)


def _refuse_newer_tables(runner: Any) -> None:
    """Raise DatabaseError if a migration was applied that came after those of this program."""
    newest = max(runner.applied(), default="")
    if newest > MIGRATIONS[-1]:
        raise DatabaseError(
            ErrorKind.ENVIRONMENT,
            "use the ledger",
            f"a newer version of this program has made its tables ({newest}; this version knows "
            f"{MIGRATIONS[-1]})",
            "Install that version, or restore the backup of the ledger from before it was installed.",
        )


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
