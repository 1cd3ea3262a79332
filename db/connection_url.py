"""Resolves a database URL to a configured peewee database that is not connected yet."""

import os
import time
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
    """SQLite, which rolls back by itself when the disk is full (sqlite.org/lang_transaction.html)."""

    def rollback(self) -> None:
        """Roll back unless SQLite has done so."""
        typed: Any = self  # peewee's stubs leave `connection` untyped
        if typed.connection().in_transaction:
            super().rollback()


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
