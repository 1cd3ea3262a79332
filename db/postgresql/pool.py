"""The pool of connections to PostgreSQL; imports its driver, psycopg."""

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast

import peewee
import psycopg
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from db.connection_url import SNAPSHOT
from db.errors import DatabaseUrlError
from db.fields import COLUMN_TYPES, Dialect

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

_LIMITS_AND_TIME = (
    "; SELECT clock_timestamp(), set_config('lock_timeout', '1s', true), "
    "set_config('statement_timeout', '30s', true), "
    "set_config('idle_in_transaction_session_timeout', '30s', true)"
)
_BEGIN = "BEGIN" + _LIMITS_AND_TIME
_BEGIN_READ_ONLY = "BEGIN READ ONLY" + _LIMITS_AND_TIME
_BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ" + _LIMITS_AND_TIME

_peewee_log = logging.getLogger("peewee")

_SAVEPOINTS = itertools.count(1)


class _Adapter(peewee.Psycopg3Adapter):
    """What this package needs of psycopg through peewee, which may have been imported without it.

    That excludes its fields of JSON and its named cursors.
    """

    txn_idle = TransactionStatus.IDLE
    txn_inerror = TransactionStatus.INERROR
    txn_unknown = TransactionStatus.UNKNOWN

    def check_driver(self) -> None:
        """Do nothing: this module has imported the driver."""

    def get_binary_type(self) -> type[psycopg.Binary]:
        """The type of bytes in parameters."""
        return psycopg.Binary

    def connect(self, db: peewee.Database, **parameters: Any) -> Any:
        """A connection to a database; in `parameters` is all else that libpq needs."""
        return psycopg.connect(dbname=db.database, **parameters)


class PostgresPool(PooledPostgresqlDatabase):
    """A pool of connections whose transactions are bounded in time; with `read_only` they change nothing.

    They need no session state, so that they work through a pooler: PgBouncer refuses the start-up parameter
    `options`, and in transaction mode each transaction may run on another server connection
    (pgbouncer.org/features.html). Every setting is therefore made with `SET LOCAL`, which ends with the
    transaction, and no statement is prepared by name.
    """

    psycopg2_adapter = _Adapter  # what peewee takes where it has not imported psycopg
    psycopg3_adapter = _Adapter

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
        """Begin a transaction with its limits, and ask for the time, together with its first statement."""
        self._state.began_at = None
        self._state.deferred = [_BEGIN_SNAPSHOT if isolation_level == SNAPSHOT else self._begin]

    def commit(self) -> None:
        """Commit the transaction, of which the server knows nothing if there was no statement in it."""
        self._state.deferred = []
        if self._state.began_at is not None:
            super().commit()

    def rollback(self) -> None:
        """Roll back the transaction; see `commit`."""
        self._state.deferred = []
        if self._state.began_at is not None:
            super().rollback()

    def run(self, text: str, parameters: Sequence[Any]) -> tuple[list[tuple[Any, ...]], int, None]:
        """Run one statement; returns its rows, how many it changed, and None. Raises psycopg's errors.

        Outside of a transaction as one, in one message.
        """
        if not self.in_transaction():
            return self._run_alone(text, parameters)
        cursor: Any = self.execute_sql(text, parameters)
        # psycopg takes its time for `Cursor.description`.
        rows = cursor.fetchall() if text.startswith("SELECT") or " RETURNING " in text else []
        return rows, cursor.rowcount, None

    def _run_alone(self, text: str, parameters: Sequence[Any]) -> tuple[list[tuple[Any, ...]], int, None]:
        # Of several statements in a message the server takes no parameters apart from their text
        # (postgresql.org/docs/current/protocol-flow.html), so psycopg writes them into it.
        connection = self.connection()
        cursor = psycopg.ClientCursor(connection)
        _peewee_log.debug((text, parameters))
        try:
            cursor.execute(f"{self._begin}; {text}; COMMIT", parameters)
            cursor.set_result(2)
        except psycopg.Error:
            # What comes after an error is not run: the transaction is still open.
            with suppress(psycopg.Error):
                connection.rollback()
            raise
        return cursor.fetchall() if cursor.description else [], cursor.rowcount, None

    def now(self) -> datetime:
        """The server's time, in a transaction, by what it was at its beginning."""
        if self._state.began_at is None:
            self.cursor().execute("")
        if self._state.began_at[0] is None:
            # The first statement has failed, and so has the answer to the question that went with it.
            (server_time,) = self.execute_sql("SELECT clock_timestamp()").fetchone()
            self._note_beginning(server_time)
        server_time, monotonic = self._state.began_at
        passed = timedelta(seconds=time.monotonic() - monotonic)
        return cast("datetime", server_time).astimezone(UTC) + passed

    def savepoint(self, sid: object = None) -> Any:
        """A savepoint in the transaction of this thread; its statements are sent together with others."""
        del sid
        return _Savepoint(self)

    def defer(self, statement: str) -> None:
        """Send a statement without a result before the next one, in a message with others like it."""
        self._state.deferred.append(statement)

    def take_deferred(self) -> list[str]:
        """The statements that were deferred, which are not sent any more."""
        deferred, self._state.deferred = self._state.deferred, []
        return cast("list[str]", deferred)

    def cursor(self, named_cursor: object = None) -> Any:
        """A cursor for a statement, which is sent together with those that were deferred.

        The end of the transaction, which it is not in any more, makes them needless.
        """
        if self.in_transaction() and (deferred := self.take_deferred()):
            return _JoiningCursor(self.connection(), deferred, self._note_beginning)
        return super().cursor(named_cursor)

    def _note_beginning(self, server_time: datetime | None) -> None:
        """Note that the server may have begun a transaction or, with its time, that it has."""
        self._state.began_at = server_time, time.monotonic()


class _JoiningCursor(psycopg.ClientCursor[Any]):
    """Sends several statements in one message, of which the last one has the result.

    Of these the server takes no parameters apart from their text, so psycopg writes them into it.
    """

    def __init__(
        self, connection: Any, before: list[str], note_beginning: Callable[[datetime | None], None]
    ) -> None:
        super().__init__(connection)
        self._before = before
        self._note_beginning = note_beginning

    def execute(self, query: Any, params: Any = None, **_: Any) -> Self:
        """Send the query after the statements that were deferred."""
        begins = self._before[0].startswith("BEGIN")
        if begins:
            self._note_beginning(None)
        super().execute("; ".join(filter(None, (*self._before, query))), params)
        if begins:
            self.set_result(1)
            self._note_beginning(cast("Any", self.fetchone())[0])
        self.set_result(-1)
        return self


class _Savepoint:
    """A savepoint that is made before the first statement in it, and not at all without one."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    def __enter__(self) -> Self:
        self._name = f"s{self._pool.transaction_depth()}_{next(_SAVEPOINTS)}"
        self._made = f"SAVEPOINT {self._name}"
        self._pool.defer(self._made)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        deferred = self._pool.take_deferred()
        if self._made in deferred:
            deferred = deferred[: deferred.index(self._made)]
        elif kind is None:
            deferred.append(f"RELEASE SAVEPOINT {self._name}")
        else:
            # Ends those in it, too.
            self._pool.execute_sql(f"ROLLBACK TO SAVEPOINT {self._name}")
            deferred = [f"RELEASE SAVEPOINT {self._name}"]
        for statement in deferred:
            self._pool.defer(statement)


def open_pool(url: str, *, read_only: bool, max_connections: int) -> peewee.Database:
    """A pool for a URL or another connection string of libpq; connects when first used.

    Raises DatabaseUrlError if it is invalid, without the URL, which may hold a password.
    """
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
