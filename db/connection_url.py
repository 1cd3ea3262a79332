"""Resolves a database URL to a peewee database that is not connected yet: of SQLite, or of PostgreSQL."""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

import peewee
import psycopg
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.conninfo import conninfo_to_dict

from db.errors import DatabaseError, DatabaseUrlError, ErrorKind
from db.fields import COLUMN_TYPES, Dialect

BUSY_SECONDS = 5
GROUP_SECONDS = 0.05
"""How long a group of transactions takes up others before it is committed."""

POOL_SECONDS = 10
"""How long a thread waits for a connection while all are in use."""

MAX_AGE_SECONDS = 300
"""A connection is replaced after this time, because its server may have become a standby since."""

_POSTGRES_DEFAULTS = {
    "application_name": "video-uploader",
    "connect_timeout": "10",
    # A server that stops responding is detected within a minute instead of after hours (tcp(7)).
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

_LIMITS = (
    "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '30s'"
)
_BEGIN = "BEGIN; " + _LIMITS
_BEGIN_READ_ONLY = "BEGIN READ ONLY; " + _LIMITS


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """A database to connect to; `file` is the path of a SQLite file."""

    dialect: Dialect
    peewee: peewee.Database
    file: str | None = None


class SqliteDatabase(peewee.SqliteDatabase):
    """SQLite, whose threads commit their transactions together: one sync of the disk for all that wait.

    SQLite has one writer at a time, and others poll for its lock. So all threads write on one connection, in
    turn. A thread that ends its transaction leaves the commit to the next one that waits for a turn, and goes
    on when that is done; the last one, after which no thread waits, commits. A transaction that fails is
    rolled back alone, to its savepoint. An error of the commit is one of every transaction in it.
    """

    # Not in peewee's stubs.
    _state: Any
    _connect: Callable[[], Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False
        self._group: _Group | None = None
        self._writer: Any = None
        self._sessions = 0

    @contextmanager
    def shared_transaction(self) -> Iterator[None]:
        """A transaction of this thread, which holds the write lock and is on the disk after the block.

        The thread must not be in a transaction. Raises the driver's errors: "database is locked" if its turn
        has not come within `BUSY_SECONDS`, or another process then keeps the lock for as long.
        """
        self._await_turn()
        try:
            group = self._join_group()
        except BaseException:
            self._end_turn()
            raise
        state = self._state
        own, state.conn, state.closed = (state.conn, state.closed), self._writer, False
        state.transactions.append(group)
        try:
            try:
                yield
            finally:
                state.transactions.pop()
                state.conn, state.closed = own
        except BaseException as exc:
            self._roll_back_member(group, exc)
            self._end_turn_and_wait(group)
            if group.error is not None and not isinstance(exc, DatabaseError | peewee.PeeweeException):
                # What the block has seen, and decided by, was never committed.
                raise group.error from exc
            raise
        group.members += 1
        self._end_turn_and_wait(group)
        if group.error is not None:
            raise group.error

    def keep_writer(self) -> None:
        """Keep the connection for writing open until as many calls of `drop_writer`."""
        with self._turns:
            self._sessions += 1

    def drop_writer(self) -> None:
        """Close the connection for writing if no other thread keeps it."""
        with self._turns:
            self._sessions -= 1
            # Without sessions there are no transactions.
            writer, self._writer = (self._writer, None) if not self._sessions else (None, self._writer)
        if writer is not None:
            writer.close()

    def _await_turn(self) -> None:
        """Wait until this thread alone writes. First come, first served."""
        with self._turns:
            if not self._is_taken:
                self._is_taken = True
                return
            given = _taken_lock()
            self._waiting.append(given)
        is_given = False
        try:
            is_given = given.acquire(timeout=BUSY_SECONDS)
        finally:
            if not is_given:
                self._stop_waiting(given)
        if not is_given:
            raise _sqlite_error("database is locked", sqlite3.SQLITE_BUSY)

    def _stop_waiting(self, given: threading.Lock) -> None:
        """Wait no more; pass on the turn if it has just come."""
        with self._turns:
            is_waiting = given in self._waiting
            if is_waiting:
                self._waiting.remove(given)
        if not is_waiting:
            self._end_turn()

    def _end_turn(self) -> None:
        """Give the turn to the thread that has waited longest, or commit the group and end it."""
        while True:
            with self._turns:
                if self._waiting and (self._group is None or not self._group.is_old):
                    self._waiting.popleft().release()
                    return
                if self._group is None:
                    self._is_taken = False
                    return
            self._commit(self._group)

    def _end_turn_and_wait(self, group: "_Group") -> None:
        """End the turn, and wait until the group is committed or has failed."""
        done = _taken_lock()
        if self._group is group:
            group.waiting.append(done)
        else:
            done.release()
        self._end_turn()
        done.acquire()

    def _join_group(self) -> "_Group":
        """Begin the transaction, or a savepoint in the one that other threads wait for."""
        if self._writer is None:
            self._writer = self._connect()
        if self._group is None:
            self._writer.execute("BEGIN IMMEDIATE")
            self._group = _Group()
        else:
            self._writer.execute("SAVEPOINT member")
        return self._group

    def _roll_back_member(self, group: "_Group", exc: BaseException) -> None:
        """Undo what this thread has done in its turn; SQLite may have rolled back all of the group."""
        is_of_database = isinstance(exc, DatabaseError | peewee.PeeweeException | sqlite3.Error)
        group.is_broken |= is_of_database and getattr(exc, "kind", None) is not ErrorKind.OBJECT
        try:
            if not self._writer.in_transaction:
                group.error = _cause(exc)
            elif group.members:
                self._writer.execute("ROLLBACK TO SAVEPOINT member")
            else:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error as error:
            group.error = error
        if group.error is not None or not group.members:
            self._end_group(group)

    def _commit(self, group: "_Group") -> None:
        # Until SQLite says that it is on the disk, it may not be.
        group.error = _sqlite_error("the commit was interrupted", sqlite3.SQLITE_INTERRUPT)
        try:
            self._writer.execute("COMMIT")
            group.error = None
        except sqlite3.Error as error:
            group.error = error
        finally:
            self._end_group(group)

    def _end_group(self, group: "_Group") -> None:
        """Have the threads of the group go on. A connection on which something failed is not used again."""
        self._group = None
        try:
            if group.error is not None or group.is_broken:
                # Rolls back what is open.
                writer, self._writer = self._writer, None
                writer.close()
        finally:
            for done in group.waiting:
                done.release()


class _Group:
    """Transactions that are committed together: how many, who waits, and the error that all of them have."""

    def __init__(self) -> None:
        self.members = 0
        self.waiting: list[threading.Lock] = []
        self.error: BaseException | None = None
        self.is_broken = False
        self._began_at = time.monotonic()

    @property
    def is_old(self) -> bool:
        """Whether the group takes no more transactions, however many wait."""
        return time.monotonic() - self._began_at > GROUP_SECONDS


def _taken_lock() -> threading.Lock:
    """A lock that another thread releases: an event that costs little."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def _sqlite_error(message: str, code: int) -> sqlite3.OperationalError:
    """An error as the driver raises it."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def _cause(exc: BaseException) -> BaseException:
    """The driver's error, which concerns all transactions of a group, of that of an operation of one."""
    return exc.__cause__ if isinstance(exc, DatabaseError) and exc.__cause__ is not None else exc


class PostgresPool(PooledPostgresqlDatabase):
    """A pool of connections whose transactions are bounded in time; with `read_only` they change nothing.

    They need no session state, so that they work through a pooler: PgBouncer refuses the start-up parameter
    `options`, and in transaction mode each transaction may run on another server connection
    (pgbouncer.org/features.html). Every setting is therefore made with `SET LOCAL`, which ends with the
    transaction, and no statement is prepared by name.
    """

    server: str | None = None
    """The server of the latest connection: `host:port`, or the path of a socket; None before the first."""
    connections_made = 0

    def __init__(self, database: str, *, read_only: bool, **parameters: Any) -> None:
        self._begin = _BEGIN_READ_ONLY if read_only else _BEGIN
        self._dropped_at = 0.0
        super().__init__(
            database,
            stale_timeout=MAX_AGE_SECONDS,
            timeout=POOL_SECONDS,
            prefer_psycopg3=True,
            prepare_threshold=None,
            **parameters,
        )

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Connect this thread; a connection that it keeps is replaced once it is too old or dropped."""
        if reuse_if_open and not self.is_closed() and not self.in_transaction():
            in_use = self._in_use.get(self.conn_key(self.connection()))
            if in_use is None or self._is_stale(in_use.timestamp):
                self.manual_close()
        return bool(super().connect(reuse_if_open))

    def drop_connections(self) -> None:
        """Have every thread connect anew, because the server has become a standby; safe for threads."""
        self._dropped_at = time.time()
        self.close_idle()

    def _connect(self) -> Any:
        connection = super()._connect()
        self.connections_made += 1
        host, port = connection.info.host, connection.info.port
        self.server = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
        return connection

    def _is_stale(self, timestamp: float) -> bool:
        # A clock that was set back makes the age negative.
        is_young = 0 <= time.time() - timestamp <= MAX_AGE_SECONDS
        return not is_young or timestamp <= self._dropped_at

    def begin(self, isolation_level: object = None) -> None:
        """Begin a transaction with its limits, in one message."""
        del isolation_level
        self.cursor().execute(self._begin)


def sqlite_url(path: str) -> str:
    """The URL of a SQLite file; `path` is absolute and may contain any characters."""
    return "sqlite://" + quote(path)


def resolve_url(url: str, *, read_only: bool, max_connections: int) -> DatabaseTarget:
    """Parse `url` and configure its database; unless `read_only`, create a missing SQLite file (mode 0600).

    Raises DatabaseUrlError if the URL is invalid, DatabaseError if the file cannot be created. No message
    contains the URL, which may hold a password.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        path = _sqlite_path(url)
        return DatabaseTarget(Dialect.SQLITE, _sqlite(path, read_only), path)
    if scheme in {"postgresql", "postgres"}:
        return DatabaseTarget(Dialect.POSTGRESQL, _postgresql(url, read_only, max_connections))
    raise DatabaseUrlError("it begins with neither sqlite:// nor postgresql://")


def _sqlite_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise DatabaseUrlError("the path of a SQLite file must be absolute, after three slashes")
    if parts.query or parts.fragment:
        raise DatabaseUrlError("a SQLite URL takes no options; write '?' and '#' in a path as %3F and %23")
    path = "/" + unquote(parts.path).lstrip("/")
    if path.endswith("/") or "\0" in path:
        raise DatabaseUrlError("the path of a SQLite file must name a file")
    return path


def _sqlite(path: str, read_only: bool) -> peewee.Database:
    if not read_only:
        _create_file(path)
    return SqliteDatabase(
        f"file:{quote(path)}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        timeout=BUSY_SECONDS,
        # FULL: a commit is on the disk when it returns (sqlite.org/pragma.html#pragma_synchronous).
        pragmas={"foreign_keys": 1, "synchronous": "FULL"},
        # All threads write on one connection, in turn (`shared_transaction`).
        check_same_thread=False,
        field_types=dict(COLUMN_TYPES[Dialect.SQLITE]),
        autoconnect=False,
    )


def _create_file(path: str) -> None:
    """Create the file with mode 0600, which SQLite's own files beside it inherit; SQLite would use 0644."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise DatabaseError(
            ErrorKind.ENVIRONMENT,
            f"open the database file {path}",
            exc.strerror or str(exc),
            "Choose a directory that the daemon's user can write to, or change the owner of this one.",
        ) from exc


def _postgresql(url: str, read_only: bool, max_connections: int) -> peewee.Database:
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message quotes the URL, which may hold the password.
        raise DatabaseUrlError("libpq cannot parse it") from None
    parameters = _POSTGRES_DEFAULTS | {name: str(value) for name, value in given.items()}
    if "dbname" not in parameters:
        raise DatabaseUrlError("it names no database")
    pool = PostgresPool(
        parameters.pop("dbname"),
        read_only=read_only,
        max_connections=max_connections,
        field_types=dict(COLUMN_TYPES[Dialect.POSTGRESQL]),
        autoconnect=False,
        **parameters,
    )
    return cast("peewee.Database", pool)
