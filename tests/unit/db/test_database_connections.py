"""Connections belong to threads and are closed; transactions are atomic."""

import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from psycopg import sql

from db import (
    Database,
    DatabaseError,
    DatabaseUrlError,
    ErrorKind,
    Ledger,
    migrate,
    open_database,
    sqlite_url,
)
from tests.support.databases import Clock, DatabaseAddress, enqueue
from tests.support.postgres import PostgresServer


def file_of(address: DatabaseAddress) -> str:
    return unquote(address.url.removeprefix("sqlite://"))


def open_handles(path: str) -> list[str]:
    """The open files of this process whose paths begin with `path`."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith(path):
            found.append(target)
    return found


def connections(postgres: PostgresServer) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'video-uploader'"
    ((count,),) = postgres.execute(sql.SQL(query))
    assert isinstance(count, int)
    return count


def backend(database: Database) -> int:
    """The process of the server that this thread is connected to."""
    with database.operation("identify the connection") as connected:
        return int(connected.execute_sql("SELECT pg_backend_pid()").fetchone()[0])


def fail_after(database: Database, work: Callable[[], object]) -> None:
    """Call `work` in a transaction that then fails."""
    with database.transaction():
        work()
        raise LookupError


def pragma(database: Database, name: str) -> object:
    with database.operation(f"read the pragma {name}") as connected:
        return connected.pragma(name)


def read_files(path: str) -> dict[str, bytes]:
    """The contents of a SQLite file and of those beside it that belong to it."""
    contents = {}
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with open(name, "rb") as file:
            contents[name] = file.read()
    return contents


def write_files(contents: dict[str, bytes]) -> None:
    """Overwrite files in place."""
    for name, content in contents.items():
        with open(name, "r+b") as file:
            file.write(content)
            file.truncate()


class TestSqliteFile:
    def test_it_is_written_ahead_synced_and_waits_for_others(self, sqlite_address: DatabaseAddress) -> None:
        with closing(sqlite_address.open()) as database:
            migrate(database)
            settings = {
                name: pragma(database, name)
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}

    def test_only_its_owner_can_read_it_and_what_lies_beside_it(
        self, sqlite_address: DatabaseAddress
    ) -> None:
        path = file_of(sqlite_address)
        with closing(sqlite_address.open()) as database, database.session():
            migrate(database)
            enqueue(Ledger(database, "main"))
            files = [entry.path for entry in os.scandir(os.path.dirname(path))]
            assert len(files) == 3
            assert {stat.S_IMODE(os.stat(file).st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700

    def test_no_connection_outlives_its_use(self, sqlite_address: DatabaseAddress) -> None:
        database = sqlite_address.open()
        migrate(database)
        enqueue(Ledger(database, "main"))
        with pytest.raises(DatabaseError), database.operation("fail") as connected:
            connected.execute_sql("SELECT * FROM nowhere")
        assert open_handles(file_of(sqlite_address)) == []

    def test_a_session_keeps_its_threads_connection_and_closes_it(
        self, sqlite_address: DatabaseAddress
    ) -> None:
        database = sqlite_address.open()
        migrate(database)
        ledger = Ledger(database, "main")

        def live(path: str) -> int:
            with database.session():
                enqueue(ledger, path)
                return len(open_handles(file_of(sqlite_address)))

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(live, "a.mp4").result() > 0
        assert open_handles(file_of(sqlite_address)) == []
        database.close()

    @pytest.mark.parametrize("change", ["deleted", "replaced"])
    def test_nothing_is_written_to_a_file_that_was_deleted_or_replaced(
        self, sqlite_address: DatabaseAddress, change: str
    ) -> None:
        path = file_of(sqlite_address)
        with closing(sqlite_address.open()) as database, database.session():
            migrate(database)
            ledger = Ledger(database, "main")
            shutil.copyfile(path, f"{path}.older")
            upload = enqueue(ledger)
            os.rename(path, f"{path}.aside")
            if change == "replaced":
                os.rename(f"{path}.older", path)
            for use in (ledger.counts, lambda: enqueue(ledger, "other.mp4")):
                with pytest.raises(DatabaseError, match=f"{change}.* since it was opened") as caught:
                    use()
                assert caught.value.kind is ErrorKind.ENVIRONMENT
            os.rename(f"{path}.aside", path)
            assert ledger.uploads() == [upload]

    @pytest.mark.parametrize("kind", ["older", "with its log", "of another daemon", "empty", "no database"])
    def test_nothing_is_read_or_written_once_another_content_was_copied_over_the_file(
        self, sqlite_address: DatabaseAddress, clock: Clock, kind: str
    ) -> None:
        """The file keeps its inode. The threads keep their connections, with what these have cached."""
        path = file_of(sqlite_address)
        with closing(sqlite_address.open()) as database, database.session():
            migrate(database)
            ledger = Ledger(database, "main", clock=clock)
            enqueue(ledger, "early.mp4")
            if kind in {"older", "with its log"}:
                ledger.heartbeat({})
            elif kind == "of another daemon":
                Ledger(database, "other", clock=clock).heartbeat({})
            backups = [path, f"{path}-wal", f"{path}-shm"] if kind == "with its log" else [path]
            for name in backups:
                shutil.copyfile(name, f"{name}.backup")
            if kind in {"empty", "no database"}:
                write_files({f"{path}.backup": b"" if kind == "empty" else b"no database" * 1000})
            clock.advance(seconds=5)
            upload = enqueue(ledger)
            ledger.heartbeat({})
            for index in range(50):
                enqueue(ledger, f"{index}.mp4")
            content = read_files(path)
            inode = os.stat(path).st_ino
            for name in backups:
                shutil.copyfile(f"{name}.backup", name)
            assert os.stat(path).st_ino == inode
            for use in (ledger.counts, lambda: enqueue(ledger, "x.mp4"), lambda: ledger.heartbeat({})) * 2:
                with pytest.raises(DatabaseError, match="replaced since it was opened") as caught:
                    use()
                assert caught.value.kind is ErrorKind.ENVIRONMENT
            if kind == "older":
                assert "a heartbeat of" in str(caught.value)
                assert f"remove {path}-wal" in str(caught.value)
            if kind == "empty":
                return  # SQLite removes the log beside an empty file, so that the content is lost.
            write_files(content)
            assert ledger.uploads(ids=[upload.id]) == [upload]
            ledger.heartbeat({})

    def test_opened_for_reading_it_must_exist(self, sqlite_address: DatabaseAddress) -> None:
        database = sqlite_address.open(read_only=True)
        with pytest.raises(DatabaseError) as caught:
            Ledger(database, "main").counts()
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        assert not os.path.exists(os.path.dirname(file_of(sqlite_address)))

    def test_it_exists_once_it_was_opened_for_writing(self, sqlite_address: DatabaseAddress) -> None:
        reader = sqlite_address.open(read_only=True)
        assert not reader.exists()
        sqlite_address.open().close()
        assert reader.exists()

    def test_a_directory_that_cannot_be_made_is_the_operators_affair(
        self, tmp_path: os.PathLike[str]
    ) -> None:
        blocker = os.path.join(tmp_path, "file")
        with open(blocker, "w", encoding="ascii"):
            pass
        with pytest.raises(DatabaseError, match="Choose a directory") as caught:
            open_database(sqlite_url(os.path.join(blocker, "ledger.sqlite3")))
        assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_reader_sees_what_a_writer_commits_and_can_write_nothing(address: DatabaseAddress) -> None:
    with closing(address.open()) as writer, closing(address.open(read_only=True)) as reader:
        migrate(writer)
        with reader.session():
            assert Ledger(reader, "main").current("a.mp4") is None
            upload = enqueue(Ledger(writer, "main"), "a.mp4")
            assert Ledger(reader, "main").current("a.mp4") == upload
            with pytest.raises(DatabaseError) as caught:
                enqueue(Ledger(reader, "main"), "b.mp4")
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_transaction_that_fails_leaves_nothing(database: Database, ledger: Ledger) -> None:
    with pytest.raises(LookupError):
        fail_after(database, lambda: enqueue(ledger))
    assert ledger.uploads() == []


def test_an_inner_transaction_that_fails_spares_the_outer_one(database: Database, ledger: Ledger) -> None:
    with database.transaction():
        enqueue(ledger, "kept.mp4")
        with pytest.raises(LookupError):
            fail_after(database, lambda: enqueue(ledger, "lost.mp4"))
    assert [upload.path for upload in ledger.uploads()] == ["kept.mp4"]


def test_a_database_can_be_closed_twice_and_used_again(database: Database, ledger: Ledger) -> None:
    database.close()
    database.close()
    assert enqueue(ledger) == ledger.current("v/my_video_720p.mp4")


def test_the_time_is_aware_and_that_of_the_world(database: Database) -> None:
    assert abs(Ledger(database, "main").now() - datetime.now(UTC)) < timedelta(seconds=10)


def replace_table(postgres: PostgresServer, address: DatabaseAddress, heartbeat_at: str | None) -> None:
    """Restore the table of heartbeats as of that time, or empty."""
    assert address.schema is not None
    table = sql.Identifier(address.schema, "instances")
    if heartbeat_at is None:
        postgres.execute(sql.SQL("TRUNCATE {}").format(table))
    else:
        change = sql.SQL("UPDATE {} SET heartbeat_at = {}").format(table, sql.Literal(heartbeat_at))
        postgres.execute(change)


class TestPostgresPool:
    @pytest.mark.parametrize("restored", [None, "2024-05-17T11:00:00Z"])
    @pytest.mark.parametrize("in_place", [True, False])
    def test_nothing_is_read_or_written_once_another_database_was_restored(
        self,
        postgres: PostgresServer,
        postgres_address: DatabaseAddress,
        clock: Clock,
        restored: str | None,
        in_place: bool,
    ) -> None:
        """Restored in place, the next heartbeat finds it; created anew, the first new connection does."""
        with closing(postgres_address.open()) as database, database.session():
            migrate(database)
            ledger = Ledger(database, "main", clock=clock)
            ledger.heartbeat({})
            ledger.counts()
            replace_table(postgres, postgres_address, restored)
            uses: list[Callable[[], object]] = [ledger.counts, lambda: enqueue(ledger)]
            if in_place:
                uses.insert(0, lambda: ledger.heartbeat({}))
            else:
                end = sql.SQL("SELECT pg_terminate_backend({}, 5000)")
                postgres.execute(end.format(sql.Literal(backend(database))))
                with pytest.raises(DatabaseError):
                    ledger.counts()
            for use in uses:
                with pytest.raises(DatabaseError, match="replaced since it was opened") as caught:
                    use()
                assert caught.value.kind is ErrorKind.ENVIRONMENT
            assert "restart the daemon" in str(caught.value)
            if restored is not None:
                replace_table(postgres, postgres_address, "2024-05-17T12:00:00Z")
                ledger.heartbeat({})

    def test_a_standby_that_took_over_without_the_last_heartbeats_is_the_same_database(
        self, postgres: PostgresServer, postgres_address: DatabaseAddress, clock: Clock
    ) -> None:
        with closing(postgres_address.open()) as database:
            migrate(database)
            ledger = Ledger(database, "main", clock=clock)
            ledger.heartbeat({})
            replace_table(postgres, postgres_address, "2024-05-17T11:59:00Z")
            ledger.heartbeat({})

    def test_a_server_is_always_there_to_be_asked(self, postgres_address: DatabaseAddress) -> None:
        assert postgres_address.open(read_only=True).exists()

    def test_threads_share_a_bounded_number_of_connections(
        self, postgres: PostgresServer, postgres_address: DatabaseAddress
    ) -> None:
        with closing(postgres_address.open(max_connections=2)) as database:
            migrate(database)
            together = threading.Barrier(2)

            def count(_: int) -> int:
                with database.session():
                    Ledger(database, "main").counts()
                    together.wait(timeout=30)
                    return connections(postgres)

            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(count, range(2))) == [2, 2]
                assert list(pool.map(count, range(2))) == [2, 2]

    def test_closing_leaves_no_connection(
        self, postgres: PostgresServer, postgres_address: DatabaseAddress
    ) -> None:
        database = postgres_address.open()
        migrate(database)
        database.close()
        # A backend ends a moment after its client has disconnected.
        while connections(postgres):
            pass

    def test_all_tables_live_in_the_schema(
        self, postgres: PostgresServer, postgres_address: DatabaseAddress
    ) -> None:
        with closing(postgres_address.open()) as database:
            migrate(database)
        found = postgres.execute(
            sql.SQL("SELECT tablename FROM pg_tables WHERE schemaname = {}").format(postgres_address.schema)
        )
        tables = {
            "uploads",
            "upload_events",
            "receipts",
            "instances",
            "video_qualities",
            "invalidations",
            "publications",
            "orphans",
            "orphan_looks",
            "orphan_rounds",
            "ledger_token",
            "catalog_row_sightings",
            "server_dialects",
            "state_counts",
            "notifications",
            "holds",
            "orders",
            "schema_migration",
        }
        assert {name for (name,) in found} == tables

    def test_threads_that_only_read_leave_a_server_that_has_become_a_standby(
        self, postgres_address: DatabaseAddress
    ) -> None:
        def write(database: Database) -> None:
            with database.operation("write to a standby") as connected:
                connected.execute_sql("DO $$ BEGIN RAISE read_only_sql_transaction; END $$")

        with closing(postgres_address.open()) as database, ThreadPoolExecutor(2) as pool:
            idle = pool.submit(backend, database).result()
            with database.session():
                kept = backend(database)
                assert backend(database) == kept
                with pytest.raises(DatabaseError, match="point DATABASE_URL at the primary") as caught:
                    pool.submit(write, database).result()
                assert caught.value.kind is ErrorKind.ENVIRONMENT
                assert not {backend(database), pool.submit(backend, database).result()} & {kept, idle}

    def test_a_kept_connection_has_a_greatest_age(
        self, postgres_address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(postgres_address.open()) as database, database.session():
            before = backend(database)
            assert backend(database) == before
            monkeypatch.setattr("db.postgresql.pool.MAX_AGE_SECONDS", 0.0)
            with database.transaction():
                within = backend(database)
                assert within != before
                assert backend(database) == within

    def test_it_names_the_server_without_user_and_password(self, postgres_address: DatabaseAddress) -> None:
        with closing(postgres_address.open()) as database:
            database.now()
            assert str(database.server).endswith("/.s.PGSQL.5432")


def test_a_sqlite_database_is_named_by_its_file(sqlite_address: DatabaseAddress) -> None:
    with closing(sqlite_address.open()) as database:
        assert database.server == file_of(sqlite_address)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@host/db",
        "sqlite://relative/secret",
        "sqlite:///",
        "sqlite:///secret/dir/",
        "sqlite:///secret?mode=memory",
        "sqlite://host/secret",
        "postgresql://user:secret@[host/db",
        "postgresql://user:secret@host/db?unknown=1",
        "postgresql://user:secret@host",
        "",
    ],
)
def test_a_url_that_is_not_understood_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match="sqlite:///absolute/path or postgresql://") as caught:
        open_database(url)
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert "secret" not in str(caught.value)


def test_a_sqlite_database_has_no_schemas(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(DatabaseUrlError, match="schema"):
        open_database(sqlite_url(os.path.join(tmp_path, "x")), schema="public")
