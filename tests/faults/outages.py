"""Outages of a database: connections are refused, and open ones are terminated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql


class DatabaseOutages:
    """Outages of the database that `seeing` is connected to; that one connection sees through them.

    `admin` is a superuser's connection to another database of the server.
    """

    def __init__(self, admin: psycopg.Connection, seeing: psycopg.Connection[dict[str, object]]) -> None:
        self._admin = admin
        self._seeing = seeing.info.backend_pid
        self._name = seeing.info.dbname
        self.is_away = False

    def go_away(self) -> None:
        """Refuse new connections and cut those that there are."""
        self._allow(False)
        others = [self._name, self._seeing]
        where = "FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
        self._admin.execute(f"SELECT pg_terminate_backend(pid) {where}".encode(), others)
        while self._admin.execute(f"SELECT 1 {where} LIMIT 1".encode(), others).fetchone():
            continue

    def come_back(self) -> None:
        """Accept connections again."""
        if self.is_away:
            self._allow(True)

    def _allow(self, allow: bool) -> None:
        statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        self._admin.execute(statement.format(sql.Identifier(self._name), sql.Literal(allow)))
        self.is_away = not allow


@contextmanager
def database_outages(url: str, seeing: psycopg.Connection[dict[str, object]]) -> Iterator[DatabaseOutages]:
    """Outages of a database, by a superuser's URL of it; at the end it is there again."""
    with psycopg.connect(urlsplit(url)._replace(path="/postgres").geturl(), autocommit=True) as admin:
        outages = DatabaseOutages(admin, seeing)
        try:
            yield outages
        finally:
            outages.come_back()
