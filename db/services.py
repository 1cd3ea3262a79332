"""What is kept about services outside: invalidations that a CDN is due, and dialects of object stores.

An invalidation is committed in the transaction that records the replacement, so that a crash cannot separate
them. Every replacement has its own row: a key that is requested again while its earlier invalidation is being
sent is sent again, because the earlier one may have preceded the replacement.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import peewee

from db.database import Database


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One replaced object whose invalidation has not been sent yet."""

    id: int
    object_key: str
    requested_at: datetime


class Invalidations:
    """The invalidations of one instance. `clock` replaces the database's time.

    Every method may raise DatabaseError.
    """

    def __init__(
        self, database: Database, instance: str, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.instance = instance
        self._database = database
        self._clock = clock or database.now
        self._rows = database.tables.invalidations

    def now(self) -> datetime:
        """The time that the other methods use, in UTC."""
        return self._clock().astimezone(UTC)

    def request(self, object_key: str) -> None:
        """Queue an invalidation for the object of this key."""
        rows = self._rows
        with self._database.transaction("request an invalidation"):
            rows.insert(instance=self.instance, object_key=object_key, requested_at=self.now()).execute()

    def unsent(self, limit: int, *, other_than: Collection[str] = ()) -> list[Invalidation]:
        """The invalidations that have not been sent yet, oldest first, at most `limit`.

        Those of the object keys in `other_than` are left out.
        """
        rows = self._rows
        query: Any = rows.select(rows.id, rows.object_key, rows.requested_at)
        query = query.where(self._in_instance, rows.sent_at.is_null()).order_by(rows.id).limit(limit)
        if other_than:
            query = query.where(rows.object_key.not_in(list(other_than)))
        with self._database.operation("list the invalidations"):
            return [Invalidation(*row) for row in query.tuples()]

    def last_sent_at(self) -> datetime | None:
        """When the last invalidation was sent; None if none was."""
        rows = self._rows
        query: Any = rows.select(rows.sent_at).where(self._in_instance, rows.sent_at.is_null(False))
        with self._database.operation("look up when an invalidation was last sent"):
            found: datetime | None = query.order_by(rows.sent_at.desc()).limit(1).scalar()
            return found

    def mark_sent(self, batch: Sequence[Invalidation]) -> None:
        """Record that these were sent now. Deletes earlier sent ones, so that the table stays small."""
        rows = self._rows
        with self._database.transaction("record that invalidations were sent"):
            rows.delete().where(self._in_instance, rows.sent_at.is_null(False)).execute()
            sent = rows.id.in_([invalidation.id for invalidation in batch])
            rows.update(sent_at=self.now()).where(self._in_instance, sent).execute()

    @property
    def _in_instance(self) -> peewee.Expression:
        return self._rows.instance == self.instance


class DialectFinding(NamedTuple):
    """One thing that a server does not take, what it said when it was asked, and when that was (UTC)."""

    feature: str
    said: str
    found_at: datetime


class ServerDialects:
    """What was found out about one bucket of one server, so that a restart need not find it out again.

    Every method may raise DatabaseError.
    """

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
