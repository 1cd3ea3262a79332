"""PgBouncer, the connection pooler, in front of a PostgreSQL server for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import psycopg

from tests.support.ports import free_address
from tests.support.postgres import PostgresServer, ServerUnavailableError

START_SECONDS = 20.0
COMMAND = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")

PoolMode = Literal["session", "transaction"]


class PgBouncerUnavailableError(ServerUnavailableError):
    """PgBouncer cannot be started."""

    required_by = "PGBOUNCER_REQUIRE"


@dataclass(frozen=True)
class PgBouncer:
    """A running PgBouncer. `url` is that of the server's database `postgres` through it."""

    url: str
    process: subprocess.Popen[bytes]
    configuration: str
    mode: PoolMode

    def url_through(self, url: str) -> str:
        """The URL, through the pooler, of the database that a URL of the server names."""
        return urlsplit(self.url)._replace(path=urlsplit(url).path).geturl()

    def point_at(self, postgres: PostgresServer) -> None:
        """Send every transaction from now on to another server; those under way end where they began."""
        _configure(self.configuration, postgres, self.mode, urlsplit(self.url).netloc)
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running_pgbouncer(postgres: PostgresServer, mode: PoolMode) -> Iterator[PgBouncer]:
    """A PgBouncer before the server's databases; in transaction mode with two connections to each.

    Raises PgBouncerUnavailableError.
    """
    if COMMAND is None:
        raise PgBouncerUnavailableError(
            "the command pgbouncer is not installed (Debian: apt install pgbouncer)"
        )
    address = f"postgres@{free_address()}"
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as directory:
        configuration = os.path.join(directory, "pgbouncer.ini")
        _configure(configuration, postgres, mode, address)
        with open(os.path.join(directory, "log"), "w+b") as log:
            # The server's user can enter the directory of its socket; as root PgBouncer refuses to run.
            user = os.stat(postgres.socket_directory).st_uid
            os.chown(directory, user, -1)
            process = subprocess.Popen([COMMAND, configuration], user=user, stdout=log, stderr=log)
            try:
                url = f"postgresql://{address}/postgres"
                _wait(url, process, log.name)
                yield PgBouncer(url, process, configuration, mode)
            finally:
                process.kill()
                process.wait()


def _configure(path: str, postgres: PostgresServer, mode: PoolMode, address: str) -> None:
    host, _, port = address.rpartition("@")[2].rpartition(":")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"""
[databases]
* = host={postgres.socket_directory} user=postgres
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {2 if mode == "transaction" else 20}
""")


def _wait(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.Error as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(log, encoding="utf-8", errors="replace") as file:
                    raise PgBouncerUnavailableError(f"PgBouncer does not start: {file.read()}") from exc
            time.sleep(0.02)
        else:
            return
