"""Two PostgreSQL servers, of which the second replicates the first, and a switchover between them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from tests.support.postgres import PostgresServer, PostgresUnavailableError, running_postgres

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class ServerPair:
    """A server and its standby. `url` is libpq's URL of whichever of them accepts writes."""

    old: PostgresServer
    new: PostgresServer

    @property
    def url(self) -> str:
        """The database `postgres`, with both hosts."""
        hosts = quote(f"{self.old.socket_directory},{self.new.socket_directory}", safe="")
        return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"

    def switch_over(self) -> None:
        """Promote the standby without a loss; the old server only reads from now on.

        It keeps its connections, as a managed service may do with those to a server that it has demoted.
        """
        self.old.execute(sql.SQL("ALTER SYSTEM SET default_transaction_read_only = on"))
        self.old.execute(sql.SQL("SELECT pg_reload_conf()"))
        _wait(
            self.old,
            "SELECT current_setting('transaction_read_only') = 'on' AND NOT EXISTS"
            " (SELECT 1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL)",
        )
        [(position,)] = self.old.execute(sql.SQL("SELECT pg_current_wal_lsn()::text"))
        _wait(self.new, f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
        self.new.execute(sql.SQL("SELECT pg_promote()"))


@contextmanager
def running_pair() -> Iterator[ServerPair]:
    """A server and a standby that has caught up with it. Raises PostgresUnavailableError."""
    with running_postgres() as old, tempfile.TemporaryDirectory(prefix="standby-") as directory:
        commands, user = str(old.process.bin_path), os.stat(old.socket_directory).st_uid
        os.chown(directory, user, -1)
        os.chmod(directory, 0o755)  # other users connect to the socket in it
        data = os.path.join(directory, "data")
        source = f"host={old.socket_directory} user=postgres"
        # PostgreSQL's documentation: "Log-Shipping Standby Servers".
        made = subprocess.run(
            [os.path.join(commands, "pg_basebackup"), "-d", source, "-D", data, "-R", "-c", "fast"],
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise PostgresUnavailableError(f"pg_basebackup fails here: {made.stderr}")
        with open(os.path.join(directory, "log"), "w+b") as log:
            process = subprocess.Popen(
                [os.path.join(commands, "postgres"), "-D", data, "-k", directory, "-h", ""],
                user=user,
                stdout=log,
                stderr=log,
            )
            try:
                query = f"host={quote(directory, safe='')}"
                new = PostgresServer(urlsplit(old.url)._replace(query=query).geturl())
                _wait(new, "SELECT EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming')")
                yield ServerPair(old, new)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(PATIENCE_SECONDS)


def _wait(server: PostgresServer, question: str) -> None:
    """Wait until a query answers with true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if server.execute(sql.SQL(question)) == [(True,)]:
                return
            answer = "it is not so"
        except psycopg.OperationalError as exc:
            answer = str(exc)
        if time.monotonic() > deadline:
            raise PostgresUnavailableError(f"waited in vain for: {question}: {answer}")
        time.sleep(0.02)
