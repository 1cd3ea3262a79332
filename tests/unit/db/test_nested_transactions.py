"""A transaction within another one is a savepoint, also where PostgreSQL is told of it later or never."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from db import Database, DatabaseError, Ledger
from db.fields import Dialect
from tests.support.databases import enqueue


def paths(ledger: Ledger) -> list[str]:
    return [upload.path for upload in ledger.uploads()]


def fail_in_the_database(database: Database) -> None:
    """Run a statement that no database accepts; on PostgreSQL it ends the transaction but for a savepoint."""
    with database.operation("read what is missing") as connected:
        connected.execute_sql("SELECT * FROM missing")


def test_what_fails_within_a_transaction_is_undone_alone(database: Database, ledger: Ledger) -> None:
    with database.transaction():
        enqueue(ledger, "1")
        with suppress(LookupError), database.transaction():
            enqueue(ledger, "2")
            raise LookupError
        enqueue(ledger, "3")
        with suppress(DatabaseError), database.transaction():
            enqueue(ledger, "4")
            fail_in_the_database(database)
        enqueue(ledger, "5")
    assert paths(ledger) == ["1", "3", "5"]


def test_what_succeeded_within_what_fails_is_undone_with_it(database: Database, ledger: Ledger) -> None:
    with database.transaction():
        with database.transaction():
            enqueue(ledger, "1")
        with suppress(LookupError), database.transaction():
            with database.transaction():
                enqueue(ledger, "2")
            with database.transaction():
                enqueue(ledger, "3")
            raise LookupError
        with suppress(DatabaseError), database.transaction(), database.transaction():
            with suppress(DatabaseError), database.transaction():
                fail_in_the_database(database)
            enqueue(ledger, "4")
            fail_in_the_database(database)
        enqueue(ledger, "5")
    assert paths(ledger) == ["1", "5"]


def test_a_transaction_that_fails_before_its_first_statement_undoes_nothing(
    database: Database, ledger: Ledger
) -> None:
    with database.transaction():
        enqueue(ledger, "1")
        with suppress(LookupError), database.transaction(), database.transaction():
            raise LookupError
        enqueue(ledger, "2")
        with database.transaction(), database.transaction():
            pass
    with suppress(LookupError), database.transaction():
        with database.transaction():
            enqueue(ledger, "3")
        raise LookupError
    assert paths(ledger) == ["1", "2"]


def select_twice(database: Database) -> None:
    """Run two statements, each in a savepoint, or two, and make one without a statement between them."""
    with database.transaction(), database.operation("select") as connected:
        with database.transaction(), database.transaction():
            connected.execute_sql("SELECT 1")
        with database.transaction():
            pass
        with database.transaction():
            connected.execute_sql("SELECT 2")


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that are sent from now on: the first word of each, and whether more statements follow."""
    sent: list[str] = []
    execute = psycopg.Cursor.execute

    def record(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(query.partition(" ")[0] + " ..." * (";" in query))
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", record)
    return sent


def test_postgresql_is_sent_savepoints_together_and_none_without_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect is Dialect.SQLITE:
        pytest.skip("SQLite is told at once: it gets no messages")
    with database.session():
        database.now()
        sent = recorded(monkeypatch)
        select_twice(database)
    assert sent == ["BEGIN; ...", "RELEASE ...", "COMMIT"]


def test_postgresql_is_not_told_of_a_transaction_without_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is left with or without an error, also where the time was asked for before that."""
    if database.dialect is Dialect.SQLITE:
        pytest.skip("SQLite takes the write lock at once")
    with database.session():
        database.now()
        sent = recorded(monkeypatch)
        with database.transaction(), database.transaction():
            pass
        with suppress(LookupError), database.transaction():
            raise LookupError
        assert sent == []
        with database.transaction():
            database.now()
        with suppress(LookupError), database.transaction():
            database.now()
            raise LookupError
    assert sent == ["BEGIN; ...", "COMMIT", "BEGIN; ...", "ROLLBACK"]


def test_a_first_statement_that_fails_leaves_nothing_of_its_transaction(
    database: Database, ledger: Ledger
) -> None:
    """It comes in one message with the beginning, also of a savepoint that is rolled back to."""
    with database.session():
        with suppress(DatabaseError), database.transaction():
            fail_in_the_database(database)
        with database.transaction():
            with suppress(DatabaseError), database.transaction():
                fail_in_the_database(database)
            assert abs(database.now() - datetime.now(UTC)) < timedelta(minutes=1)
            enqueue(ledger, "1")
        with suppress(DatabaseError), database.transaction():
            enqueue(ledger, "2")
            fail_in_the_database(database)
    assert paths(ledger) == ["1"]


def test_the_time_in_a_transaction_goes_on(database: Database) -> None:
    with database.transaction(), database.operation("ask for the time") as connected:
        before = database.now()
        if database.dialect is Dialect.POSTGRESQL:
            (asked,) = connected.execute_sql("SELECT clock_timestamp()").fetchone()
            assert abs(asked - database.now()) < timedelta(seconds=5)
        assert database.now() > before


def test_a_statement_that_fails_alone_leaves_its_connection_as_it_was(database: Database) -> None:
    """A value that is out of range is no fault of the connection, which is used again."""
    with database.session():
        for wrong in ("SELECT abs(-9223372036854775807 - 1)", "SELECT abs((-9223372036854775808)::bigint)"):
            with suppress(DatabaseError):
                database.run("take the magnitude of a number", wrong, ())
            peewee: Any = database._peewee
            assert not peewee.in_transaction()
            assert database.run("ask for a number", "SELECT 1", ())[0] == [(1,)]
            if database.dialect is Dialect.POSTGRESQL:
                assert peewee.connection().info.transaction_status == psycopg.pq.TransactionStatus.IDLE
