"""One open database: connections that belong to threads, transactions, and errors in our own words."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import peewee

from db.connection_url import Target, parse_url
from db.driver_errors import translated
from db.errors import DatabaseError, DatabaseUrlError, ErrorKind
from db.fields import Dialect
from db.models import Tables, bind

DEFAULT_SCHEMA = "video_uploader"
DEFAULT_CATALOG_SCHEMA = "public"
DEFAULT_CONNECTIONS = 20


class Database:
    """A SQLite file or a PostgreSQL database; made by `open_database`.

    Any thread may use it. A thread that wraps its life in `session` keeps one connection for it; outside of a
    session every operation opens a connection and closes it again. A connection on which something went wrong
    is not used again.
    """

    def __init__(self, target: Target, *, schema: str | None, catalog_schema: str | None = None) -> None:
        self.dialect = target.dialect
        self.schema = schema
        self.catalog_schema = catalog_schema
        self.tables: Tables = bind(target.peewee, schema, catalog_schema)
        self._peewee = target.peewee
        self._file = target.file
        self._thread = _ThreadState()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep this thread's connection until the end of the block, then close it. Nests."""
        self._thread.depth += 1
        try:
            yield
        finally:
            self._thread.depth -= 1
            if self._thread.depth == 0 and not self._peewee.is_closed():
                with translated("close a database connection"):
                    self._peewee.close()

    @contextmanager
    def operation(self, what: str) -> Iterator[Any]:
        """A connected `peewee.Database`, for a block that does what the words `what` say.

        It is typed `Any`, for peewee leaves the methods that matter here untyped. Raises DatabaseError for
        whatever goes wrong with the database in the block.
        """
        with self.session():
            try:
                with translated(what):
                    self._peewee.connect(reuse_if_open=True)
                    yield self._peewee
            except DatabaseError as error:
                if error.kind is not ErrorKind.OBJECT and not self._peewee.in_transaction():
                    self._discard_connection()
                raise

    @contextmanager
    def transaction(self, what: str = "complete a transaction") -> Iterator[None]:
        """All or nothing. On SQLite it holds the write lock from the start (`BEGIN IMMEDIATE`). Nests.

        Raises DatabaseError, which says that it could not do `what`.
        """
        failure: BaseException | None = None
        with self.operation(what):
            try:
                with self._atomic():
                    try:
                        yield
                    except BaseException as exc:
                        failure = exc
                        raise
            except peewee.PeeweeException:
                # A rollback fails where the transaction was over already: what ended it is what counts.
                if failure is None:
                    raise
                raise failure from failure.__cause__

    def exists(self) -> bool:
        """Whether there is anything to connect to: False only for a SQLite file that is not there."""
        return self._file is None or os.path.exists(self._file)

    def now(self) -> datetime:
        """The database server's time; with SQLite, which has no server, this machine's."""
        if self.dialect is Dialect.SQLITE:
            return datetime.now(UTC)
        with self.operation("ask the database for its time") as connected:
            (time,) = connected.execute_sql("SELECT clock_timestamp()").fetchone()
            return cast("datetime", time).astimezone(UTC)

    def close(self) -> None:
        """Close every connection; on SQLite those of other threads end with their sessions. Idempotent."""
        with translated("close the database"):
            close_all = getattr(self._peewee, "close_all", self._peewee.close)
            close_all()

    def _atomic(self) -> AbstractContextManager[object]:
        if self.dialect is Dialect.SQLITE:
            return self._peewee.atomic("IMMEDIATE")
        return self._peewee.atomic()

    def _discard_connection(self) -> None:
        """Really close this thread's connection: a pool would hand it to the next."""
        with translated("close a broken connection"):
            discard = getattr(self._peewee, "manual_close", self._peewee.close)
            discard()


class _ThreadState(threading.local):
    """How many sessions and operations are open, one in the other, in this thread."""

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

    Connects when first used. On PostgreSQL all tables live in `schema` ("video_uploader" unless given), the
    compressor's in `catalog_schema`, and at most `max_connections` are open at a time. On SQLite a missing
    file is made, readable by its owner only, and its directory too. With `read_only` nothing is ever made or
    changed.

    Raises DatabaseUrlError if the URL is not understood, DatabaseError if a SQLite file cannot be made.
    """
    target = parse_url(url, read_only=read_only, max_connections=max_connections)
    if target.dialect is Dialect.SQLITE:
        if schema is not None:
            raise DatabaseUrlError("a SQLite database has no schemas")
        return Database(target, schema=None)
    return Database(target, schema=schema or DEFAULT_SCHEMA, catalog_schema=catalog_schema)
