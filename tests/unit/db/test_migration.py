"""Migrations create exactly the schema of the models, also if several processes run them at once."""

import re
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import ExitStack, closing
from dataclasses import fields
from functools import partialmethod
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from playhouse.migrations import Runner
from psycopg import sql

from db import Database, DatabaseError, ErrorKind, Ledger, State, migrate, pending_migrations, schema_version
from db.fields import Dialect
from tests.support.databases import CHECKSUM, DatabaseAddress, claim, enqueue, only
from tests.support.postgres import PostgresServer

ALL = [
    "0001_initial",
    "0002_invalidations",
    "0003_catalog_rows",
    "0004_change_times",
    "0006_orphans",
    "0007_catalog_row_sightings",
    "0008_expected_etags",
    "0009_orphan_rounds",
    "0010_small_files",
    "0011_server_dialects",
    "0012_proofs_by_reading",
    "0013_state_counts",
    "0014_receipts",
    "0015_outcomes",
    "0016_steering",
    "0017_notifications",
]
HISTORY = "schema_migration"


def sqlite_schema(database: Database) -> set[tuple[str, ...]]:
    """Every CREATE statement but those of triggers, split into parts, without differences in formatting."""
    with database.operation("read the schema") as connected:
        cursor = connected.execute_sql(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger' AND tbl_name <> ?",
            (HISTORY,),
        )
        return {parts_of(re.sub(r'[\s"]|IF NOT EXISTS', "", statement)) for (statement,) in cursor.fetchall()}


def parts_of(statement: str) -> tuple[str, ...]:
    """A table's columns and constraints, sorted: columns that were added later follow the constraints."""
    if not statement.startswith("CREATETABLE"):
        return (statement,)
    head, _, body = statement.removesuffix(")").partition("(")
    parts, depth = [""], 0
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return (head, *sorted(parts))


POSTGRES_SCHEMA = (
    """
    SELECT table_name, column_name, data_type, character_maximum_length, numeric_precision, numeric_scale,
           is_nullable, regexp_replace(column_default, {schema}, 'S')
    FROM information_schema.columns WHERE table_schema = {schema} AND table_name <> {history}
    """,
    """
    SELECT tablename, indexname, replace(indexdef, {schema}, 'S')
    FROM pg_indexes WHERE schemaname = {schema} AND tablename <> {history}
    """,
    """
    SELECT conrelid::regclass::text <> '', conname, replace(pg_get_constraintdef(oid), {schema}, 'S')
    FROM pg_constraint
    WHERE connamespace = {schema}::regnamespace AND conrelid <> ({schema} || '.' || {history})::regclass
    """,
)


def postgres_schema(postgres: PostgresServer, schema: str) -> list[set[tuple[object, ...]]]:
    names = {"schema": sql.Literal(schema), "history": sql.Literal(HISTORY)}
    return [set(postgres.execute(sql.SQL(query).format(**names))) for query in POSTGRES_SCHEMA]


def make_from_models(database: Database) -> None:
    with database.operation("make the tables from the models") as connected:
        tables = database.tables
        ours = [getattr(tables, field.name) for field in fields(tables) if field.name != "compressor_rows"]
        connected.create_tables(ours)


def test_migrations_give_the_models_schema_on_sqlite(sqlite_address: DatabaseAddress, tmp_path: Path) -> None:
    modelled = DatabaseAddress(f"sqlite://{tmp_path}/modelled.sqlite3", None)
    with closing(sqlite_address.open()) as migrated, closing(modelled.open()) as other:
        migrate(migrated)
        make_from_models(other)
        assert sqlite_schema(migrated) == sqlite_schema(other)


def test_migrations_give_the_models_schema_on_postgresql(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    assert postgres_address.schema is not None
    with closing(postgres_address.open()) as database:
        migrate(database)
    with postgres.fresh_schema() as schema:
        postgres.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        with closing(DatabaseAddress(postgres.url, schema).open()) as modelled:
            make_from_models(modelled)
            postgres.execute(sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(schema, HISTORY)))
        migrated = postgres_schema(postgres, postgres_address.schema)
        assert migrated == postgres_schema(postgres, schema)
    assert all(migrated)


def test_migrations_are_applied_once(address: DatabaseAddress) -> None:
    with closing(address.open()) as database:
        assert pending_migrations(database) == ALL
        assert migrate(database) == ALL
        upload = enqueue(Ledger(database, "main"))
        assert pending_migrations(database) == []
        assert migrate(database) == []
        assert Ledger(database, "main").current(upload.path) == upload


def test_the_tables_of_a_newer_version_are_refused_and_left_as_they_are(address: DatabaseAddress) -> None:
    with closing(address.open()) as database:
        migrate(database)
        with database.operation("play a newer version") as connected:
            Runner(connected, schema=database.schema).History.create(name="9999_newer")
        for use in (migrate, pending_migrations):
            with pytest.raises(DatabaseError, match=r"9999_newer.*restore the backup") as refused:
                use(database)
            assert refused.value.kind is ErrorKind.ENVIRONMENT
        assert schema_version(database) == "9999_newer"


def test_the_version_of_the_schema_is_that_of_the_latest_migration(address: DatabaseAddress) -> None:
    with closing(address.open()) as database:
        assert schema_version(database) is None
        migrate(database)
        assert schema_version(database) == ALL[-1]


def test_looking_for_pending_migrations_makes_nothing(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    with closing(postgres_address.open(read_only=True)) as database:
        assert pending_migrations(database) == ALL
    assert postgres.execute(
        sql.SQL("SELECT count(*) FROM pg_namespace WHERE nspname = {}").format(postgres_address.schema)
    ) == [(0,)]


OLD_UPLOADS = """
    INSERT INTO {schema}uploads (instance, path, video_id, filename, quality, device, inode, size, mtime_ns,
        object_key, state, due_at, discovered_at, changed_at, checksum, verified_at, confirmed_by)
    SELECT 'main', 'v/' || name || '_720p.mp4', CAST('0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11' AS {uuid}),
        name || '.mp4', '720p', 1, 1, 9, 1, 'videos/' || name, state, found, found, found, 'AAAAAAAAAAA=',
        found, confirmed_by
    FROM (
        SELECT name, state, confirmed_by, CAST('2024-05-17T12:00:00.000000Z' AS {time}) AS found
        FROM (
            SELECT 'a' AS name, 'verified' AS state, 'checksum' AS confirmed_by
            UNION ALL SELECT 'b', 'pending', NULL
        ) AS given
    ) AS dated ORDER BY name
"""
"""As a version before the column `turn` wrote them."""
OLD_TYPES = {
    Dialect.SQLITE: {"time": "TEXT", "uuid": "TEXT"},
    Dialect.POSTGRESQL: {"time": "TIMESTAMPTZ", "uuid": "UUID"},
}


def test_an_older_ledger_learns_that_an_object_can_be_proven_by_reading(
    address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows stay, and no other word is taken."""
    proof: dict[str, Any] = {"checksum": CHECKSUM, "etag": "e", "url": "https://s3/a"}
    with closing(address.open()) as database, monkeypatch.context() as older:
        older.setattr(Runner, "up", partialmethod(Runner.up, "0011_server_dialects"))
        assert migrate(database) == ALL[: ALL.index("0012_proofs_by_reading")]
        schema = "" if database.schema is None else f'"{database.schema}".'
        with database.operation("fill the ledger") as connected:
            connected.execute_sql(OLD_UPLOADS.format(schema=schema, **OLD_TYPES[database.dialect]))
        with (
            pytest.raises(DatabaseError, match="uploads_confirmed_by_known"),
            database.operation("use a later word") as connected,
        ):
            connected.execute_sql(f"UPDATE {schema}uploads SET confirmed_by = 'reading' WHERE id = 1")
    with closing(address.open()) as database:
        assert migrate(database) == ALL[ALL.index("0012_proofs_by_reading") :]
        ledger = Ledger(database, "main")
        kept = ledger.current("v/a_720p.mp4")
        assert kept is not None
        assert (kept.id, kept.state, kept.confirmed_by, kept.turn) == (1, State.VERIFIED, "checksum", 3)
        (pending,) = claim(ledger)
        with pytest.raises(DatabaseError, match="uploads_confirmed_by_known"):
            ledger.advance(pending, State.VERIFIED, confirmed_by="its size", **proof)
        ledger.advance(pending, State.VERIFIED, confirmed_by="reading", **proof)
        assert only(filter(None, [ledger.current(pending.path)])).confirmed_by == "reading"
        if database.schema is None:
            with database.operation("check the file") as connected:
                assert connected.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]


MIGRATE_ON_SIGNAL = """
import sys
from db import migrate, open_database
database = open_database(sys.argv[1], schema=sys.argv[2] or None)
print("ready", flush=True)
sys.stdin.readline()
print(*migrate(database))
database.close()
"""


def test_processes_that_start_at_once_migrate_once(address: DatabaseAddress) -> None:
    command = [sys.executable, "-c", MIGRATE_ON_SIGNAL, address.url, address.schema or ""]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    applied = [process.communicate(timeout=30)[0].split() for process in processes]
    assert sorted(applied) == [[], [], [], ALL]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]


def test_a_file_that_is_busy_is_waited_for(
    sqlite_address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.BUSY_SECONDS", 0)
    with closing(sqlite_address.open()) as database, ExitStack() as elsewhere:
        path = unquote(sqlite_address.url.removeprefix("sqlite://"))
        holder = elsewhere.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("db.migration.time.sleep", lambda _: holder.rollback())
        assert migrate(database) == ALL


def test_a_file_that_stays_busy_is_a_matter_of_time(
    sqlite_address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.BUSY_SECONDS", 0)
    monkeypatch.setattr("db.migration.BUSY_SECONDS", 0)
    with closing(sqlite_address.open()) as holder, closing(sqlite_address.open()) as database:
        with holder.transaction(), pytest.raises(DatabaseError) as caught:
            migrate(database)
        assert caught.value.kind is ErrorKind.TRANSIENT


def test_the_migrations_are_part_of_what_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"db", "db.migrations"} <= set(project["tool"]["setuptools"]["packages"])
    numbered = sorted(file.name for file in files("db.migrations").iterdir() if file.name[0].isdigit())
    assert numbered == [f"{name}.py" for name in ALL]
