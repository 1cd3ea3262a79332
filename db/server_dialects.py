"""What was found out about object stores, so that a restart need not find it out again."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import peewee

from db.database import Database


class DialectFinding(NamedTuple):
    """One thing that a server does not take, what it said when it was asked, and when that was (UTC)."""

    feature: str
    said: str
    found_at: datetime


class ServerDialects:
    """The findings about one bucket of one server. Every method may raise DatabaseError."""

    def __init__(self, database: Database, endpoint: str, bucket: str) -> None:
        self._database = database
        self._rows = database.tables.dialects
        self._server = {"endpoint": endpoint, "bucket": bucket}

    def findings(self) -> list[DialectFinding]:
        """All findings, in the order of their features."""
        rows = self._rows
        query: Any = rows.select(rows.feature, rows.said, rows.found_at)
        query = query.where(self._of_server).order_by(rows.feature)
        with self._database.operation("read what the server does not take"):
            return [DialectFinding(*row) for row in query.tuples()]

    def replace(self, findings: Iterable[DialectFinding]) -> None:
        """Record these findings in place of all earlier ones."""
        with self._database.transaction("record what the server does not take"):
            self._rows.delete().where(self._of_server).execute()
            for finding in findings:
                self._rows.insert(**self._server, **finding._asdict()).execute()

    @property
    def _of_server(self) -> peewee.Expression:
        rows = self._rows
        return (rows.endpoint == self._server["endpoint"]) & (rows.bucket == self._server["bucket"])
