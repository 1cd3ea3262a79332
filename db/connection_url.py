"""Resolves a database URL to a peewee database that is not connected yet, and has the one of SQLite."""

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import peewee

from db import postgresql
from db.errors import DatabaseError, DatabaseUrlError, ErrorKind, translated, translation_of
from db.fields import COLUMN_TYPES, Dialect

_peewee_log = logging.getLogger("peewee")

BUSY_SECONDS = 5
GROUP_SECONDS = 0.05
"""How long a group of transactions takes up others before it is committed."""

SNAPSHOT = "snapshot"
"""The isolation level of a transaction in which every query sees what the first one does."""


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """A database to connect to; `file` is the path of a SQLite file."""

    dialect: Dialect
    peewee: peewee.Database
    file: str | None = None


class SqliteDatabase(peewee.SqliteDatabase):
    """SQLite, whose threads commit their transactions together: one sync of the disk for all that wait.

    SQLite has one writer at a time, and others poll for its lock. So threads write in turn. A thread that
    ends its transaction while others wait lets the next one go on with it, and waits until the last one
    commits. A transaction that fails is rolled back alone, to its savepoint. An error of the commit is one of
    every transaction in it.

    All write on one connection, whose cache what it has written keeps valid, and read on their own outside of
    transactions. It is made with the first transaction and closed with the last connection of a thread.
    """

    _state: Any
    """What a thread has open; not in peewee's stubs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False
        self._group: _Group | None = None
        self._writer: Any = None
        """The connection of all transactions, used in turn."""
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        """The context in which a thread waits."""
        self._connections = 0
        """How many connections of threads are open."""

    @contextmanager
    def shared_transaction(self) -> Iterator[None]:
        """A transaction of this thread, which holds the write lock and is on the disk after the block.

        The thread must not be in a transaction. Raises the driver's errors: "database is locked" if its turn
        has not come within `BUSY_SECONDS`, or another process then keeps the lock for as long.
        """
        self._await_turn()
        state = self._state
        try:
            group = self._join_group()
        except BaseException:
            self._end_turn()
            raise
        own, state.conn = state.conn, group.connection
        state.transactions.append(group)
        try:
            try:
                yield
            finally:
                state.transactions.pop()
                state.conn = own
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

    def inner_transaction(self, operation: str) -> "_SqliteSavepoint":
        """A savepoint in the transaction of this thread. Raises DatabaseError about the operation."""
        return _SqliteSavepoint(operation, self._state.conn, self._state.transactions[-1])

    def run(self, text: str, parameters: Sequence[Any]) -> tuple[list[tuple[Any, ...]], int, Any]:
        """Run one statement; returns its rows, how many it changed, and the id of an inserted row.

        Where nothing watches peewee's queries, without it, which would take longer than the statement.
        """
        if self.query_hooks or _peewee_log.isEnabledFor(logging.DEBUG):
            cursor = self.execute_sql(text, parameters)
        else:
            self._note_statement(text)
            cursor = self._state.conn.execute(text, parameters)
        rows = cursor.fetchall() if text.startswith("SELECT") or " RETURNING " in text else []
        return rows, cursor.rowcount, cursor.lastrowid

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """As peewee's."""
        self._note_statement(sql)
        this: Any = super()  # untyped in peewee's stubs
        return this.execute_sql(sql, params)

    def _note_statement(self, text: str) -> None:
        """Before the first statement that writes a savepoint keeps what the last one does."""
        group = self._group
        if group is not None and not text.startswith("SELECT"):
            # Of another thread's group, too: that makes a savepoint at worst that it does not need.
            group.kept_by = None

    def close_all(self) -> None:
        """Close this thread's connection and, unless others still use it, the one that writes."""
        self._discard()
        self._close_unused_writer()

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = super()._connect()  # type: ignore[misc]
        with self._turns:
            self._connections += 1
        return connection

    def _close(self, connection: sqlite3.Connection) -> None:
        super()._close(connection)  # type: ignore[misc]
        with self._turns:
            self._connections -= 1
            left = self._connections
        if left <= 0:
            self._close_unused_writer()

    def _close_unused_writer(self) -> None:
        """Close the connection that writes, unless a thread has its turn; the next transaction makes one."""
        with self._turns:
            if self._is_taken:
                return
            writer, self._writer = self._writer, None
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
            with self.waiting():
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
        with self.waiting():
            done.acquire()

    def _join_group(self) -> "_Group":
        """Begin a transaction, or a savepoint in the one that other threads wait for."""
        if self._group is None:
            if self._writer is None:
                self._writer = super()._connect()  # type: ignore[misc]
            self._writer.execute("BEGIN IMMEDIATE")
            self._group = _Group(self._writer)
        else:
            self._group.connection.execute("SAVEPOINT member")
            self._group.kept_by = "member"
        return self._group

    def _roll_back_member(self, group: "_Group", exc: BaseException) -> None:
        """Undo what this thread has done in its turn; SQLite may have rolled back all of the group."""
        is_of_database = isinstance(exc, DatabaseError | peewee.PeeweeException | sqlite3.Error)
        group.is_broken |= is_of_database and getattr(exc, "kind", None) is not ErrorKind.OBJECT
        try:
            if not group.connection.in_transaction:
                group.error = _cause(exc)
            elif group.members:
                group.connection.execute("ROLLBACK TO SAVEPOINT member")
            else:
                group.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            group.error = error
        if group.error is not None or not group.members:
            self._end_group(group)

    def _commit(self, group: "_Group") -> None:
        # Until SQLite says that it is on the disk, it may not be.
        group.error = _sqlite_error("the commit was interrupted", sqlite3.SQLITE_INTERRUPT)
        try:
            with self.waiting():
                group.connection.execute("COMMIT")
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
                self._writer = None
                with suppress(sqlite3.Error):
                    group.connection.close()
        finally:
            for done in group.waiting:
                done.release()

    def _discard(self) -> None:
        """Close this thread's connection; the next operation makes another one."""
        this: Any = self  # untyped in peewee's stubs
        this.close()


class _SqliteSavepoint:
    """A savepoint; all have one name, which stands for the innermost one (sqlite.org/lang_savepoint.html).

    None is made while nothing was written since the last one, which then stands for both.
    """

    __slots__ = "_connection", "_group", "_is_own", "_name", "_operation"

    def __init__(self, operation: str, connection: sqlite3.Connection, group: "_Group") -> None:
        self._operation = operation
        self._connection = connection
        self._group = group

    def __enter__(self) -> None:
        kept_by = self._group.kept_by
        self._is_own = kept_by is None
        self._name = kept_by or "inner"
        if self._is_own:
            with translated(self._operation):
                self._connection.execute("SAVEPOINT inner")
            self._group.kept_by = self._name

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if error is not None or self._is_own:
            with translated(self._operation):
                self._end(has_failed=error is not None)
        if error is not None and (translation := translation_of(error, self._operation)) is not None:
            raise translation from error

    def _end(self, *, has_failed: bool) -> None:
        # After an error SQLite may have rolled back the whole transaction.
        is_open = not has_failed or self._connection.in_transaction
        if has_failed:
            if is_open:
                self._connection.execute(f"ROLLBACK TO SAVEPOINT {self._name}")
            self._group.kept_by = self._name if is_open else None
        if self._is_own:
            if is_open:
                self._connection.execute("RELEASE SAVEPOINT inner")
            self._group.kept_by = None


class _Group:
    """Transactions that are committed together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.members = 0
        self.waiting: list[threading.Lock] = []
        self.error: BaseException | None = None
        self.is_broken = False
        self.kept_by: str | None = None
        """The last savepoint, if nothing was written since it was made."""
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
        pool = postgresql.open_pool(url, read_only=read_only, max_connections=max_connections)
        return DatabaseTarget(Dialect.POSTGRESQL, pool)
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
        # Threads write on each other's connections, in turn (`shared_transaction`).
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
