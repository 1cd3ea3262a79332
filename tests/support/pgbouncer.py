"""PgBouncer, the connection pooler, in front of a PostgreSQL server for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import psycopg

from tests.support.ports import free_address
from tests.support.postgres import PostgresServer

START_SECONDS = 20.0
COMMAND = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")

PoolMode = Literal["session", "transaction"]


class PgBouncerUnavailableError(Exception):
    """PgBouncer cannot be started on this machine; the message says why."""


@contextmanager
def running_pgbouncer(postgres: PostgresServer, mode: PoolMode) -> Iterator[str]:
    """The URL of the server's database `postgres` through a PgBouncer, which has two server connections.

    Raises PgBouncerUnavailableError.
    """
    if COMMAND is None:
        raise PgBouncerUnavailableError(
            "the command pgbouncer is not installed (Debian: apt install pgbouncer)"
        )
    host, port = free_address().rsplit(":", 1)
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as directory:
        configuration = os.path.join(directory, "pgbouncer.ini")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(_configuration(postgres, mode, host, port))
        with open(os.path.join(directory, "log"), "w+b") as log:
            # The server's user can enter the directory of its socket; as root PgBouncer refuses to run.
            user = os.stat(_socket_directory(postgres)).st_uid
            os.chown(directory, user, -1)
            process = subprocess.Popen([COMMAND, configuration], user=user, stdout=log, stderr=log)
            try:
                url = f"postgresql://postgres@{host}:{port}/postgres"
                _wait(url, process, log.name)
                yield url
            finally:
                process.kill()
                process.wait()


def _socket_directory(postgres: PostgresServer) -> str:
    return parse_qs(urlsplit(postgres.url).query)["host"][0]


def _configuration(postgres: PostgresServer, mode: PoolMode, host: str, port: str) -> str:
    return f"""
[databases]
postgres = host={_socket_directory(postgres)} dbname=postgres user=postgres
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {2 if mode == "transaction" else 20}
"""


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
