"""Errors of the drivers are raised as `DatabaseError`, of the kind that says what resolves them."""

import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from db import (
    Database,
    DatabaseError,
    ErrorKind,
    Ledger,
    LockNotAvailableError,
    State,
    migrate,
    open_database,
    sqlite_url,
)
from tests.support.databases import CHECKSUM, HORIZON, IDENTITY, LEASE, DatabaseAddress, enqueue
from tests.support.postgres import PostgresServer


def test_a_locked_file_is_a_matter_of_time(
    sqlite_address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.BUSY_SECONDS", 0.01)
    with closing(sqlite_address.open()) as holder, closing(sqlite_address.open()) as other:
        migrate(holder)
        with holder.transaction(), pytest.raises(DatabaseError, match="locked") as caught:
            enqueue(Ledger(other, "main"))
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert enqueue(Ledger(other, "main")).id == 1


def test_a_file_that_is_no_database_is_the_operators_affair(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "notes.txt")
    with open(path, "w", encoding="ascii") as file:
        file.write("this is not a database, it only looks like a path to one" * 100)
    with pytest.raises(DatabaseError, match="restore it from a backup") as caught:
        migrate(open_database(sqlite_url(path)))
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def fill_up(database: Database) -> None:
    """Write until the database is full, in one transaction."""
    with database.transaction(), database.operation("leave no room to grow") as connected:
        connected.execute_sql("PRAGMA max_page_count = 1")
        for number in range(1000):
            enqueue(Ledger(database, "main"), f"{number}.mp4")


def test_a_full_disk_is_the_operators_affair(sqlite_address: DatabaseAddress) -> None:
    with closing(sqlite_address.open()) as database, database.session():
        migrate(database)
        with pytest.raises(DatabaseError, match="Free some space") as caught:
            fill_up(database)
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        assert Ledger(database, "main").uploads() == []


@contextmanager
def files_that_cannot_grow() -> Iterator[None]:
    """Make every write of this process to a regular file fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def commit_what_cannot_be_written(ledger: Ledger, database: Database) -> None:
    with ExitStack() as until_committed, database.transaction():
        enqueue(ledger)
        until_committed.enter_context(files_that_cannot_grow())


def test_a_commit_that_cannot_be_written_says_why(sqlite_address: DatabaseAddress) -> None:
    with closing(sqlite_address.open()) as database, database.session():
        migrate(database)
        ledger = Ledger(database, "main")
        with pytest.raises(DatabaseError, match="disk I/O error") as caught:
            commit_what_cannot_be_written(ledger, database)
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        assert ledger.uploads() == []
        assert enqueue(ledger).id == 1


def test_tables_that_are_missing_are_the_operators_affair(address: DatabaseAddress) -> None:
    with closing(address.open()) as database:
        with pytest.raises(DatabaseError, match="which updates them") as caught:
            Ledger(database, "main").counts()
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        assert caught.value.operation == "count the uploads"


def test_values_that_the_schema_refuses_concern_that_row_only(ledger: Ledger) -> None:
    upload = enqueue(ledger)
    with pytest.raises(DatabaseError) as caught:
        ledger.advance(upload, State.VERIFIED, checksum=CHECKSUM, confirmed_by="its size")
    assert caught.value.kind is ErrorKind.OBJECT
    assert ledger.current(upload.path) == upload


def test_a_connection_that_breaks_is_a_matter_of_time_and_replaced(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    with closing(postgres_address.open()) as database, database.session():
        migrate(database)
        ledger = Ledger(database, "main")
        upload = enqueue(ledger)
        postgres.terminate_connections()
        with pytest.raises(DatabaseError) as caught:
            ledger.current(upload.path)
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert ledger.current(upload.path) == upload


def test_a_transaction_whose_connection_breaks_leaves_nothing(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    with closing(postgres_address.open()) as database, database.session():
        migrate(database)
        ledger = Ledger(database, "main")

        def lose_the_connection() -> None:
            with database.transaction():
                enqueue(ledger)
                postgres.terminate_connections()

        with pytest.raises(DatabaseError) as caught:
            lose_the_connection()
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert ledger.uploads() == []


def test_a_server_that_is_away_is_a_matter_of_time(tmp_path: os.PathLike[str]) -> None:
    database = open_database(f"postgresql://user@/postgres?host={tmp_path}")
    with pytest.raises(DatabaseError, match="check that the server runs") as caught:
        Ledger(database, "main").now()
    database.close()
    assert caught.value.kind is ErrorKind.TRANSIENT


def test_a_lock_is_waited_for_a_second_only(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    with closing(postgres_address.open()) as database, psycopg.connect(postgres.url) as other:
        migrate(database)
        ledger = Ledger(database, "main")
        upload, free = enqueue(ledger, "a.mp4"), enqueue(ledger, "b.mp4")
        claimed = ledger.claim(State.PENDING, 2, lease=LEASE, horizon=HORIZON)
        lock = sql.SQL("SELECT 1 FROM {}.uploads WHERE id = {} FOR UPDATE")
        other.execute(lock.format(sql.Identifier(database.schema or ""), upload.id))
        began = time.monotonic()
        with pytest.raises(LockNotAvailableError, match="end the transaction of that session") as caught:
            ledger.return_claim(claimed[0])
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert 0.9 < time.monotonic() - began < 5
        ledger.renew_claims(claimed, 2 * LEASE)
        renewed = {row.id: row.claimed_until for row in ledger.uploads()}
        assert renewed[upload.id] == claimed[0].claimed_until
        assert renewed[free.id] != claimed[1].claimed_until
        assert ledger.release_all_claims() == 1


def test_a_role_without_rights_is_the_operators_affair(
    postgres: PostgresServer, postgres_address: DatabaseAddress
) -> None:
    with closing(postgres_address.open()) as database:
        migrate(database)
    role = sql.Identifier(f"reader_of_{postgres_address.schema}")
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        url = postgres.url.replace("postgres:@", f"reader_of_{postgres_address.schema}@")
        unprivileged = open_database(url, schema=postgres_address.schema)
        with pytest.raises(DatabaseError, match="GRANT") as caught:
            Ledger(unprivileged, "main").counts()
        unprivileged.close()
    finally:
        postgres.execute(sql.SQL("DROP ROLE {}").format(role))
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_pool_with_no_connection_left_is_a_matter_of_time(
    postgres_address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.postgresql.pool.POOL_SECONDS", 0.01)
    with closing(postgres_address.open(max_connections=1)) as database:
        migrate(database)
        taken, done = threading.Event(), threading.Event()

        def take() -> None:
            with database.operation("take the only connection"):
                taken.set()
                done.wait(timeout=30)

        with ThreadPoolExecutor(1) as pool:
            taking = pool.submit(take)
            assert taken.wait(timeout=30)
            with pytest.raises(DatabaseError, match="in use") as caught:
                Ledger(database, "main").counts()
            done.set()
            taking.result()
    assert caught.value.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(
    ("state", "kind", "hint"),
    [
        ("22001", ErrorKind.OBJECT, "cannot be written with these values"),
        ("25006", ErrorKind.ENVIRONMENT, "is read-only"),
        ("28P01", ErrorKind.ENVIRONMENT, "password"),
        ("40001", ErrorKind.TRANSIENT, "automatically"),
        ("42P01", ErrorKind.ENVIRONMENT, "db migrate"),
        ("53100", ErrorKind.ENVIRONMENT, "Free some space"),
        ("53300", ErrorKind.TRANSIENT, "more connections"),
        ("57014", ErrorKind.TRANSIENT, "slows the server down"),
        ("57P03", ErrorKind.TRANSIENT, "automatically"),
        ("58030", ErrorKind.ENVIRONMENT, "its disk"),
        ("XX000", ErrorKind.ENVIRONMENT, "unexpected"),
    ],
)
def test_what_a_server_says_is_judged_by_its_code(
    postgres_address: DatabaseAddress, state: str, kind: ErrorKind, hint: str
) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
    with (
        closing(postgres_address.open()) as database,
        pytest.raises(DatabaseError, match=hint) as caught,
        database.operation("hear what it says") as connected,
    ):
        connected.execute_sql(raising)
    assert caught.value.kind is kind


def test_the_drivers_own_error_stays_in_the_trace(database: Database) -> None:
    with pytest.raises(DatabaseError) as caught, database.operation("misspell") as connected:
        connected.execute_sql("SELEKT 1")
    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(cause.__context__, sqlite3.Error | psycopg.Error)
    assert str(caught.value).startswith("Could not misspell: ")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_callers_own_passes_unchanged(database: Database) -> None:
    with pytest.raises(LookupError), database.operation("look"):
        raise LookupError


def test_a_number_that_no_column_can_hold_concerns_its_row_alone(database: Database) -> None:
    ledger = Ledger(database, "main")
    with pytest.raises(DatabaseError, match="other rows are not affected") as caught:
        enqueue(ledger, identity=replace(IDENTITY, mtime_ns=2**63))
    assert caught.value.kind is ErrorKind.OBJECT
    assert enqueue(ledger).mtime_ns == IDENTITY.mtime_ns


def test_a_time_that_python_cannot_represent_is_no_broken_connection(postgres: PostgresServer) -> None:
    with (
        closing(open_database(postgres.url)) as database,
        pytest.raises(DatabaseError) as caught,
        database.operation("read a time") as connected,
    ):
        connected.execute_sql("SELECT 'infinity'::timestamptz").fetchone()
    assert caught.value.kind is ErrorKind.OBJECT
