"""An open database: connections that belong to threads, transactions, and errors as `DatabaseError`."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote

import peewee

from db.connection_url import BUSY_SECONDS, DatabaseTarget, SqliteDatabase, resolve_url
from db.errors import (
    DatabaseError,
    DatabaseUrlError,
    ErrorKind,
    LockNotAvailableError,
    ReadOnlyServerError,
    ReplacedDatabaseError,
    translated,
    translation_of,
)
from db.fields import Dialect, format_time, parse_time
from db.models import Tables, bind
from db.postgresql.driver import driver_errors

DEFAULT_SCHEMA = "video_uploader"
DEFAULT_CATALOG_SCHEMA = "public"
DEFAULT_CONNECTIONS = 20

_RETURNING_SINCE = (3, 35)
"""The version of SQLite that knows RETURNING (sqlite.org/lang_returning.html)."""
_NO_LEDGER = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""A table is missing, the file is damaged, or it is no database (sqlite.org/rescode.html)."""

FAILOVER_LAG = timedelta(seconds=60)
"""How much of the last writes an asynchronous standby may lack when it takes over. They are repeated."""


class _Connected:
    """A block of an operation, with a beginning and an end; a generator would take several times as long."""

    __slots__ = "_begin", "_end", "_kind", "_operation", "_started"

    def __init__(
        self,
        begin: Callable[[str, str], float | None],
        end: Callable[[str, str, float | None, BaseException | None], None],
        operation: str,
        kind: str,
    ) -> None:
        self._begin = begin
        self._end = end
        self._operation = operation
        self._kind = kind

    def __enter__(self) -> None:
        self._started = self._begin(self._operation, self._kind)

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._end(self._operation, self._kind, self._started, error)


class Database:
    """A SQLite file or a PostgreSQL database; opened by `open_database`.

    Thread-safe. A thread keeps one connection for the duration of a `session`; outside of a session every
    operation opens a connection and closes it. A connection on which an operation failed is not used again.
    """

    def __init__(
        self, target: DatabaseTarget, *, schema: str | None, catalog_schema: str | None = None
    ) -> None:
        self.dialect = target.dialect
        self.schema = schema
        self.catalog_schema = catalog_schema
        self.tables: Tables = bind(target.peewee, schema, catalog_schema)
        self.returns_rows = (
            self.dialect is Dialect.POSTGRESQL or sqlite3.sqlite_version_info >= _RETURNING_SINCE
        )
        """Whether a statement that writes can return the rows that it wrote, which saves another one."""
        self._peewee = target.peewee
        self._file = target.file
        self._file_id: tuple[int, int] | None = None
        if target.file is not None:
            with suppress(OSError):
                self._file_id = _file_id(target.file)
        self._mark: tuple[str, datetime] | None = None
        self._marked_version: object = None
        """The version (`_version`) in which the mark was found last; None to look for it again."""
        self._thread = _ThreadState()
        self.observer: Callable[[str, float, bool], None] | None = None
        """Told of each operation and transaction that is not part of another one: its kind, which is 'read',
        'claim' or 'write', its seconds, and whether the database failed it. Called in the thread of each."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep this thread's connection open until the end of the block. Can be nested."""
        self._thread.depth += 1
        try:
            yield
        finally:
            self._end_session()

    def _end_session(self) -> None:
        self._thread.depth -= 1
        if self._thread.depth == 0 and not self._peewee.is_closed():
            with translated("close a database connection"):
                self._peewee.close()

    @contextmanager
    def operation(self, name: str) -> Iterator[Any]:
        """A connected `peewee.Database`, for the block; `name` is the operation's in error messages.

        It is typed `Any`, because peewee's stubs leave the methods used here untyped. Raises DatabaseError
        for any error of the database in the block.
        """
        with self._connected(name), self._bounded():
            yield self._peewee

    def run(
        self, operation: str, text: str, parameters: Sequence[Any]
    ) -> tuple[list[tuple[Any, ...]], int, Any]:
        """Run one statement; returns its rows, how many rows it changed, and the id of an inserted row.

        Raises DatabaseError with the name of the operation.
        """
        connected: Any = self._peewee
        if not connected.in_transaction():
            with self._connected(operation, "read" if text.startswith("SELECT") else "write"):
                found: tuple[list[tuple[Any, ...]], int, Any] = connected.run(text, parameters)
                return found
        try:
            found = connected.run(text, parameters)
        except Exception as exc:
            if (error := translation_of(exc, operation)) is None:
                raise
            raise error from exc
        return found

    def transaction(
        self, name: str = "complete a transaction", *, isolation: str | None = None
    ) -> AbstractContextManager[None]:
        """Commit the block, or roll it back if it raises. Can be nested; an inner one is a savepoint.

        On SQLite it holds the write lock from the start (`BEGIN IMMEDIATE`), and is committed together with
        those of other threads that wait for the lock. It is on the disk when the block has been left. Raises
        DatabaseError with the operation `name`. On PostgreSQL `isolation` may be `SNAPSHOT`.
        """
        if isinstance(self._peewee, SqliteDatabase) and self._peewee.in_transaction():
            return self._peewee.inner_transaction(name)
        return self._transaction(name, isolation)

    def transaction_of_one_statement(self, name: str) -> AbstractContextManager[None]:
        """As `transaction`, for one statement that `run` runs: on PostgreSQL that is one by itself."""
        if self.dialect is Dialect.POSTGRESQL and not self._peewee.in_transaction():
            return nullcontext()
        return self.transaction(name)

    @contextmanager
    def _transaction(self, name: str, isolation: str | None) -> Iterator[None]:
        kind = "claim" if name == "claim uploads" else "write"
        with self._connected(name, kind), self._atomic(isolation):
            yield

    def tell_of_waits(self, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        """Have SQLite's threads wait for each other and the disk in the context that `waiting` makes."""
        if isinstance(self._peewee, SqliteDatabase):
            self._peewee.waiting = waiting

    def exists(self) -> bool:
        """Whether there is a database to connect to: False only for a SQLite file that does not exist."""
        return self._file is None or os.path.exists(self._file)

    @property
    def server(self) -> str | None:
        """What the latest connection was made to: the host and port, or the path of the socket or the file.

        None before the first connection to a server.
        """
        server: str | None = getattr(self._peewee, "server", self._file)
        return server

    @property
    def lag(self) -> timedelta:
        """How much of the last writes may be missing without the database being another one."""
        return FAILOVER_LAG if self._file is None else timedelta()

    def now(self) -> datetime:
        """The database server's time, in UTC; with SQLite, which has no server, this machine's."""
        if self.dialect is Dialect.SQLITE:
            return datetime.now(UTC)
        with self.operation("read the time of the database") as connected:
            return cast("datetime", connected.now())

    def mark(self, instance: str, at: datetime) -> None:
        """Know this database from now on by the heartbeat of an instance, which it has committed.

        Another database at the same place, or a copy of this one from before, has an older one or none. Then
        every operation raises ReplacedDatabaseError until the heartbeat is back.
        """
        self._mark = instance, at
        if self.dialect is Dialect.SQLITE:
            # Into the file itself: what is copied over the file leaves the write-ahead log as it is.
            with (
                suppress(DatabaseError),
                self.operation("move the heartbeat to the database file") as connected,
            ):
                connected.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def commits(self) -> object:
        """Differs once anything was committed to a SQLite file, by any thread or process; None on a server.

        Two are comparable if this thread has kept its connection (`session`) between them.
        """
        if not isinstance(self._peewee, SqliteDatabase):
            return None
        with self.operation("see whether anything was written") as connected:
            # All writing is done on another connection (sqlite.org/pragma.html#pragma_data_version).
            version = connected.execute_sql("PRAGMA data_version").fetchone()
            return connected.connection(), version

    def doubt(self) -> None:
        """Have the next operation look for the mark, whether anything suggests another database or not."""
        self._marked_version = None

    def close(self) -> None:
        """Close every connection; on SQLite those of other threads close with their sessions. Idempotent."""
        with translated("close the database"):
            close_all = getattr(self._peewee, "close_all", self._peewee.close)
            close_all()

    def _connected(self, operation: str, kind: str = "read") -> _Connected:
        """Connect this thread for the block, and raise the errors of the database in it as DatabaseError."""
        return _Connected(self._begin, self._end, operation, kind)

    def _begin(self, operation: str, kind: str) -> float | None:
        """Connect this thread to the database that it is meant for; returns when that began.

        None in a transaction: all of this was done when that began, and is done with its error.
        """
        if self._peewee.in_transaction():
            return None
        started = time.perf_counter()
        self._thread.depth += 1
        try:
            status = None if self._file_id is None else self._require_same_file(operation)
            if self._file is None or self._peewee.is_closed():
                self._peewee.connect(reuse_if_open=True)
            if self._mark is not None:
                self._require_mark(operation, *self._mark, self._version(status))
        except BaseException as exc:
            self._end(operation, kind, started, exc)
            raise
        return started

    def _end(self, operation: str, kind: str, started: float | None, exc: BaseException | None) -> None:
        """End what `_begin` began, and raise the DatabaseError that an exception amounts to."""
        error = exc if exc is None or isinstance(exc, DatabaseError) else translation_of(exc, operation)
        if started is not None:
            try:
                if error is not None:
                    self._drop_unusable(error)
            finally:
                if self.observer is not None:
                    self.observer(kind, time.perf_counter() - started, error is not None)
                self._end_session()
        if error is not None and error is not exc:
            raise error from exc

    def _drop_unusable(self, error: DatabaseError) -> None:
        """Close the connections that must not be used again after an error."""
        if isinstance(error, ReadOnlyServerError):
            self._drop_connections()
        keeps = isinstance(error, LockNotAvailableError | ReplacedDatabaseError)
        if not keeps and error.kind is not ErrorKind.OBJECT:
            self._discard_connection()

    def _atomic(self, isolation: str | None = None) -> AbstractContextManager[None]:
        """A transaction or, on PostgreSQL in one, a savepoint."""
        if isinstance(self._peewee, SqliteDatabase):
            return self._peewee.shared_transaction()
        return self._atomic_on_server(isolation)

    @contextmanager
    def _atomic_on_server(self, isolation: str | None) -> Iterator[None]:
        failure: BaseException | None = None
        try:
            with self._peewee.atomic(isolation):
                try:
                    yield
                except BaseException as exc:
                    failure = exc
                    raise
        except driver_errors(peewee.PeeweeException):
            # The rollback fails if the transaction has ended already: the error that ended it counts.
            if failure is None:
                raise
            raise failure from failure.__cause__

    def _require_same_file(self, operation: str) -> os.stat_result | None:
        """Raise ReplacedDatabaseError if the SQLite file is not the one that was opened.

        A connection keeps a deleted file, and what it writes there is lost. Returns the file's status; None
        where SQLite is left to report that it cannot be had.
        """
        try:
            status = os.stat(self._file or "")
        except FileNotFoundError:
            status = None
        except OSError:
            return None
        if status is not None and (status.st_dev, status.st_ino) == self._file_id:
            return status
        change = "deleted" if status is None else "replaced by another one"
        raise ReplacedDatabaseError(
            operation,
            f"the database file {self._file} has been {change} since it was opened",
            "Move the earlier file back, or restart the daemon to use what is at that path now.",
        )

    def _require_mark(self, operation: str, instance: str, at: datetime, version: object) -> None:
        """Raise ReplacedDatabaseError if the database was changed from outside, and the mark is not in it."""
        if version == self._marked_version:
            return
        found = self._find_mark(instance)
        if found is None or found < at - self.lag:
            place = "database" if self._file is None else f"database file {self._file}"
            remedy = (
                "If a backup was restored, restart the daemon to use it."
                if self._file is None
                else f"Stop the daemon, remove {self._file}-wal and {self._file}-shm, copy the intended file "
                "there while no process uses it, then start the daemon."
            )
            raise ReplacedDatabaseError(
                operation,
                f"the content of the {place} has been replaced since it was opened: it has "
                f"{'no heartbeat' if found is None else f'a heartbeat of {format_time(found)}'} where this "
                f"daemon wrote that of {format_time(at)}",
                remedy,
            )
        self._marked_version = version

    def _version(self, status: os.stat_result | None) -> object:
        """Differs after any change from outside that can replace the content: of the file, or a connection.

        `status` is the file's. A file in write-ahead mode changes at checkpoints, too; a server's database
        can be dropped only without connections. What is restored table by table is found by the next
        heartbeat.
        """
        if self._file is None:
            return getattr(self._peewee, "connections_made", None)
        if status is None:
            return ()  # SQLite reports it
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _find_mark(self, instance: str) -> datetime | None:
        """The time of the instance's heartbeat; None if the database has none, or is damaged."""
        if self._file is None:
            instances = self.tables.instances
            query: Any = instances.select(instances.heartbeat_at).where(instances.instance == instance)
            with self._atomic():
                found: datetime | None = query.scalar()
                return found
        # The thread's connection would answer from its cache.
        fresh = sqlite3.connect(f"file:{quote(self._file)}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        sql = "SELECT heartbeat_at FROM instances WHERE instance = ?"
        try:
            with closing(fresh):
                row: tuple[str] | None = fresh.execute(sql, (instance,)).fetchone()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode & 0xFF not in _NO_LEDGER:
                raise
            return None
        return None if row is None else parse_time(row[0])

    def _bounded(self) -> AbstractContextManager[None]:
        """On PostgreSQL a transaction, because only a transaction has limits (`SET LOCAL`)."""
        if self.dialect is Dialect.SQLITE or self._peewee.in_transaction():
            return nullcontext()
        return self._atomic()

    def _drop_connections(self) -> None:
        """Have every thread connect anew: one that only reads gets no error from a standby."""
        with translated("drop the connections"):
            drop = getattr(self._peewee, "drop_connections", lambda: None)
            drop()

    def _discard_connection(self) -> None:
        """Close this thread's connection for good; returned to the pool it would be used again."""
        with translated("close a broken connection"):
            discard = getattr(self._peewee, "manual_close", self._peewee.close)
            discard()


def _file_id(path: str) -> tuple[int, int] | None:
    """Device and inode of a file; None if it does not exist. Raises OSError."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _ThreadState(threading.local):
    """The number of nested sessions and operations that are open in this thread."""

    depth = 0


def open_database(
    url: str,
    *,
    schema: str | None = None,
    catalog_schema: str = DEFAULT_CATALOG_SCHEMA,
    read_only: bool = False,
    max_connections: int = DEFAULT_CONNECTIONS,
) -> Database:
    """Open `sqlite:///absolute/path` or `postgresql://user:password@host:port/database`.

    Connects when first used. On PostgreSQL the tables are in `schema` ("video_uploader" by default), the
    compressor's in `catalog_schema`, and at most `max_connections` are open at a time. On SQLite a missing
    file and its directory are created with access for the owner only. With `read_only` nothing is created or
    changed.

    Raises DatabaseUrlError if the URL is invalid, DatabaseError if a SQLite file cannot be created.
    """
    target = resolve_url(url, read_only=read_only, max_connections=max_connections)
    if target.dialect is Dialect.SQLITE:
        if schema is not None:
            raise DatabaseUrlError("a SQLite database has no schemas")
        return Database(target, schema=None)
    return Database(target, schema=schema or DEFAULT_SCHEMA, catalog_schema=catalog_schema)
