"""What is kept about services outside: invalidations, notifications, and dialects of object stores.

An invalidation is committed in the transaction that records the replacement, so that a crash cannot separate
them. Every replacement has its own row: a key that is requested again while its earlier invalidation is being
sent is sent again, because the earlier one may have preceded the replacement.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import peewee
from peewee import fn

from db.database import Database
from db.fields import Dialect
from db.statements import assigned, statement


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


class Notification(NamedTuple):
    """One thing to be told. `subject` tells it from others; `attempts` includes the present one."""

    id: int
    subject: str
    payload: str
    occurred_at: datetime
    attempts: int


class Outbox:
    """The notifications of one instance, by channel, until they are delivered.

    `clock` replaces the database's time. Every method may raise DatabaseError.
    """

    def __init__(
        self, database: Database, instance: str, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.database = database
        self.instance = instance
        self._clock = clock or database.now
        self._rows = database.tables.notifications

    def now(self) -> datetime:
        """The time that the other methods use, in UTC."""
        return self._clock().astimezone(UTC)

    def add(self, channel: str, subject: str, payload: str, *, at: datetime, due_at: datetime) -> None:
        """Queue one, within the transaction that is open, if one is."""
        values = {"channel": channel, "subject": subject, "payload": payload}
        self._insert.run(**values, occurred_at=at, due_at=due_at, attempts=0, instance=self.instance)

    @statement("queue a notification")
    def _insert(self, **values: Any) -> Any:
        return self._rows.insert(assigned(self._rows, values))

    def take(self, channel: str, limit: int, *, lease: timedelta) -> list[Notification]:
        """Claim at most `limit` that are due, longest due first; they are due again after `lease`."""
        rows = self._rows
        # Cheaper where there is nothing to be claimed, and without SQLite's write lock.
        if (due_at := self.next_due(channel)) is None or due_at > self.now():
            return []
        with self.database.transaction("claim notifications"):
            now = self.now()
            query: Any = rows.select(rows.id, rows.subject, rows.payload, rows.occurred_at, rows.attempts + 1)
            query = query.where(self._of(channel), rows.due_at <= now).order_by(rows.due_at, rows.id)
            query = query.limit(limit)
            if self.database.dialect is Dialect.POSTGRESQL:
                query = query.for_update(skip_locked=True)
            taken = [Notification(*row) for row in query.tuples()]
            if taken:
                claimed = rows.id.in_([one.id for one in taken])
                values = {rows.due_at: now + lease, rows.attempts: rows.attempts + 1}
                rows.update(values).where(claimed).execute()
            return taken

    def finish(
        self,
        done: Iterable[Notification],
        *,
        failed: Notification | None = None,
        retry_in: timedelta = timedelta(),
        untried: Sequence[Notification] = (),
    ) -> None:
        """Delete what was delivered or given up, postpone the one that failed, return what was not tried."""
        rows = self._rows
        with self.database.transaction("record what was delivered"):
            now = self.now()
            if ids := [one.id for one in done]:
                rows.delete().where(rows.id.in_(ids)).execute()
            if failed is not None:
                rows.update(due_at=now + retry_in).where(rows.id == failed.id).execute()
            if untried:
                values = {rows.due_at: now, rows.attempts: rows.attempts - 1}
                rows.update(values).where(rows.id.in_([one.id for one in untried])).execute()

    def withdraw(self, channel: str, subject: str) -> bool:
        """Delete those of a subject; False if there were none."""
        of_subject = self._of(channel) & (self._rows.subject == subject)
        with self.database.transaction("withdraw notifications"):
            return bool(self._rows.delete().where(of_subject).execute())

    def make_due(self, channel: str) -> None:
        """Make all of a channel due now, because what kept them from being delivered has ended."""
        rows, now = self._rows, self.now()
        with self.database.transaction("make notifications due"):
            rows.update(due_at=now).where(self._of(channel), rows.due_at > now).execute()

    def discard(self, *, other_than: Collection[str]) -> int:
        """Delete those of all other channels, to which nothing is delivered any more; returns how many."""
        rows = self._rows
        with self.database.transaction("discard notifications"):
            others = rows.channel.not_in(list(other_than) or [""])
            return int(rows.delete().where(rows.instance == self.instance, others).execute())

    def next_due(self, channel: str) -> datetime | None:
        """When the next one of a channel is due; None if there is none."""
        rows = self._rows
        query: Any = rows.select(rows.due_at).where(self._of(channel)).order_by(rows.due_at).limit(1)
        with self.database.operation("look for notifications"):
            due_at: datetime | None = query.scalar()
            return due_at

    def counts(self) -> dict[str, int]:
        """How many are kept, by channel."""
        rows = self._rows
        query: Any = rows.select(rows.channel, fn.COUNT(rows.id)).where(rows.instance == self.instance)
        with self.database.operation("count the notifications"):
            return dict(query.group_by(rows.channel).tuples())

    def oldest(self) -> dict[str, datetime]:
        """When the oldest that is kept has occurred, by channel."""
        rows = self._rows
        query: Any = rows.select(rows.channel, fn.MIN(rows.occurred_at)).where(rows.instance == self.instance)
        with self.database.operation("find the oldest notifications"):
            return dict(query.group_by(rows.channel).tuples())

    def _of(self, channel: str) -> Any:
        return (self._rows.instance == self.instance) & (self._rows.channel == channel)


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
