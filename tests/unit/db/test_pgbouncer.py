"""Everything works through PgBouncer, and leaves no setting behind on the connections that it shares."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from db import DatabaseError, ErrorKind, Ledger, State, migrate, pending_migrations
from tests.support import pgbouncer
from tests.support.databases import DatabaseAddress, advance_to, claim, enqueue
from tests.support.pgbouncer import PgBouncerUnavailableError, running_pgbouncer
from tests.support.postgres import PostgresServer

SETTINGS = (
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_read_only",
)


@pytest.fixture(params=["session", "transaction"])
def pooled(
    request: pytest.FixtureRequest, postgres: PostgresServer, postgres_address: DatabaseAddress
) -> Iterator[DatabaseAddress]:
    """A fresh schema, reached through PgBouncer in one of its modes."""
    try:
        with running_pgbouncer(postgres, request.param) as bouncer:
            yield DatabaseAddress(bouncer.url, postgres_address.schema)
    except PgBouncerUnavailableError as exc:
        exc.skip()


def test_where_it_is_required_its_tests_fail_instead_of_being_skipped(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    monkeypatch.setattr(pgbouncer, "COMMAND", None)
    skipped, failed = pytest.skip.Exception, pytest.fail.Exception
    for value, outcome in (("0", skipped), ("1", failed)):
        monkeypatch.setenv("PGBOUNCER_REQUIRE", value)
        with pytest.raises(PgBouncerUnavailableError) as refused, running_pgbouncer(postgres, "session"):
            pytest.fail("it was started")
        with pytest.raises((skipped, failed), match="apt install pgbouncer") as ended:
            refused.value.skip()
        assert ended.type is outcome


def test_several_threads_share_its_connections(pooled: DatabaseAddress) -> None:
    with closing(pooled.open()) as database:
        migrate(database)
        ledger = Ledger(database, "main")

        def work(thread: int) -> None:
            with database.session():
                # psycopg prepares a statement at its sixth execution.
                for number in range(12):
                    enqueue(ledger, f"{thread}/{number}.mp4")
                    for upload in claim(ledger, limit=1):
                        advance_to(ledger, upload, State.RELEASED)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert ledger.counts()[State.RELEASED] == 48


def test_a_reader_reads_and_cannot_write(pooled: DatabaseAddress) -> None:
    with closing(pooled.open()) as writer, closing(pooled.open(read_only=True)) as reader:
        migrate(writer)
        upload = enqueue(Ledger(writer, "main"))
        assert pending_migrations(reader) == []
        assert Ledger(reader, "main").current(upload.path) == upload
        with pytest.raises(DatabaseError, match="read-only") as caught:
            enqueue(Ledger(reader, "main"), "other.mp4")
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        enqueue(Ledger(writer, "main"), "other.mp4")


def test_other_clients_find_their_connections_unchanged(pooled: DatabaseAddress) -> None:
    with closing(pooled.open()) as writer, closing(pooled.open(read_only=True)) as reader:
        migrate(writer)
        enqueue(Ledger(writer, "main"))
        Ledger(reader, "main").counts()
        with psycopg.connect(pooled.url, autocommit=True, prepare_threshold=None) as other:
            query = "SELECT name, setting, boot_val FROM pg_settings WHERE name = ANY(%s)"
            found = other.execute(query, [list(SETTINGS)]).fetchall()
            assert len(found) == len(SETTINGS)
            assert [name for name, setting, default in found if setting != default] == []
            assert other.execute("SELECT name FROM pg_prepared_statements").fetchall() == []
