"""What a CDN in front of the bucket must be told to forget, kept until it has been told.

A request is written in the transaction that records what it is about, so that no crash comes between. Every
replacement gets a row of its own: one that is asked for while an earlier one of the same key is on its way is
sent again, because the earlier one may have come too soon.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import peewee

from db.database import Database


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One replaced object that the CDN has not been told of yet."""

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
        """The time that the other methods go by."""
        return self._clock().astimezone(UTC)

    def request(self, object_key: str) -> None:
        """Have the CDN told that the object of this key was replaced."""
        rows = self._rows
        with self._database.transaction("ask for an invalidation"):
            rows.insert(instance=self.instance, object_key=object_key, requested_at=self.now()).execute()

    def waiting(self, limit: int) -> list[Invalidation]:
        """What the CDN has not been told of yet, oldest first, at most `limit`."""
        rows = self._rows
        query: Any = rows.select(rows.id, rows.object_key, rows.requested_at)
        query = query.where(self._ours, rows.sent_at.is_null()).order_by(rows.id).limit(limit)
        with self._database.operation("list the invalidations"):
            return [Invalidation(*row) for row in query.tuples()]

    def last_sent_at(self) -> datetime | None:
        """When the CDN was last told of anything; None if never."""
        rows = self._rows
        query: Any = rows.select(rows.sent_at).where(self._ours, rows.sent_at.is_null(False))
        with self._database.operation("see when an invalidation was last sent"):
            found: datetime | None = query.order_by(rows.sent_at.desc()).limit(1).scalar()
            return found

    def mark_sent(self, batch: Sequence[Invalidation]) -> None:
        """The CDN was told of these now. Those of batches before are forgotten: the table stays small."""
        rows = self._rows
        with self._database.transaction("note that invalidations were sent"):
            rows.delete().where(self._ours, rows.sent_at.is_null(False)).execute()
            sent = rows.id.in_([invalidation.id for invalidation in batch])
            rows.update(sent_at=self.now()).where(self._ours, sent).execute()

    @property
    def _ours(self) -> peewee.Expression:
        return self._rows.instance == self.instance
