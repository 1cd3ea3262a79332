"""The questions one can ask the ledger. Nothing here changes a row."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import peewee
from peewee import fn

from db.database import Database
from db.records import InstanceReport, Upload, UploadEvent
from db.states import ENDED_STATES, State
from db.story import Story

PAGE = 500


class LedgerReader:
    """The ledger of one instance, for reading.

    `clock` replaces the database's time. Every method may raise DatabaseError and works on its own connection
    unless the thread is in a `Database.session`.
    """

    def __init__(
        self, database: Database, instance: str, *, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.instance = instance
        self._database = database
        self._clock = clock or database.now
        self._uploads = database.tables.uploads
        self._story = Story(database)

    @property
    def database(self) -> Database:
        """Where the ledger is kept."""
        return self._database

    def now(self) -> datetime:
        """The time that claims, due times and events go by."""
        return self._clock().astimezone(UTC)

    def current(self, path: str) -> Upload | None:
        """The newest upload of the path."""
        uploads = self._uploads
        query = uploads.select().where(self._ours, uploads.path == path).order_by(uploads.id.desc())
        return self._first("look up a path", query)

    def current_many(self, paths: Iterable[str]) -> dict[str, Upload]:
        """The newest upload of each of the paths that has one."""
        uploads = self._uploads
        remaining = iter(paths)
        found: dict[str, Upload] = {}
        while page := list(islice(remaining, PAGE)):
            of_paths = uploads.select(fn.MAX(uploads.id)).where(self._ours, uploads.path.in_(page))
            newest = uploads.select().where(uploads.id.in_(of_paths.group_by(uploads.path)))
            found.update((upload.path, upload) for upload in self._fetch("look up paths", newest))
        return found

    def uploads(
        self,
        *,
        state: State | None = None,
        video_id: str | None = None,
        ids: Iterable[int] | None = None,
        path: str | None = None,
        limit: int | None = None,
        all_instances: bool = False,
    ) -> list[Upload]:
        """The uploads that meet every condition given, oldest first, at most `limit`."""
        matching = self._matching(state, video_id, ids, path, all_instances)
        return self._fetch("list uploads", matching.order_by(self._uploads.id).limit(limit))

    def iter_uploads(
        self,
        *,
        state: State | None = None,
        video_id: str | None = None,
        path: str | None = None,
        all_instances: bool = False,
    ) -> Iterator[Upload]:
        """Like `uploads`, but a page at a time, so that memory stays bounded however many there are."""
        return self._pages(self._matching(state, video_id, None, path, all_instances))

    def live_uploads(self, states: Collection[State]) -> Iterator[Upload]:
        """The uploads in any of the states, a page at a time, so that memory stays bounded."""
        return self._pages(self._uploads.select().where(self._ours, self._uploads.state.in_(sorted(states))))

    def same_key(self, upload: Upload) -> Upload | None:
        """The oldest upload of another path that has, or is on its way to, the same object key.

        Two files for one key would overwrite each other's object.
        """
        uploads = self._uploads
        holding = [State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query = (
            uploads.select()
            .where(
                self._ours,
                uploads.object_key == upload.object_key,
                uploads.path != upload.path,
                uploads.state.in_(holding),
            )
            .order_by(uploads.id)
        )
        return self._first("look for another file of the same key", query)

    def of_key(self, object_key: str) -> list[Upload]:
        """Every upload that has or had this object key, oldest first."""
        uploads = self._uploads
        query = uploads.select().where(self._ours, uploads.object_key == object_key).order_by(uploads.id)
        return self._fetch("look up an object key", query)

    def abandoned_multiparts(self, limit: int) -> list[Upload]:
        """Uploads that are past sending, or given up, and whose multipart upload may still be open in S3."""
        uploads = self._uploads
        query = uploads.select().where(
            self._ours, uploads.multipart_id.is_null(False), uploads.state != State.PENDING
        )
        return self._fetch("list abandoned multipart uploads", query.order_by(uploads.id).limit(limit))

    def replaces(self, upload: Upload) -> bool:
        """Whether an earlier upload of the same object key was ever verified with another checksum.

        An upload whose object was lost meanwhile has no proof any more; its story still says that it had one.
        """
        uploads, events = self._uploads, self._database.tables.events
        told: Any = events.select(events.id).where(
            events.upload == uploads.id, events.event == State.VERIFIED.value
        )
        query = uploads.select().where(
            self._ours,
            uploads.object_key == upload.object_key,
            uploads.id < upload.id,
            uploads.checksum != upload.checksum,
            uploads.verified_at.is_null(False) | fn.EXISTS(told),
        )
        return self._first("see whether an object was replaced", query) is not None

    def next_due(self, state: State, *, horizon: timedelta) -> datetime | None:
        """When the next upload of `state` can be claimed; None if there is none. It may have passed already.

        An upload due later than `horizon` from now counts as due now: the clock must have jumped.
        """
        uploads = self._uploads
        of_state = [self._ours, uploads.state == state]
        ends: Any = uploads.select(fn.MIN(uploads.due_at), fn.MAX(uploads.due_at))
        free = ends.where(*of_state, uploads.claimed_until.is_null())
        held = uploads.select(fn.MIN(uploads.claimed_until)).where(*of_state)
        with self._database.operation("see when the next upload is due"):
            now = self.now()
            earliest, latest = free.tuples().first()
            expires = held.scalar()
        times = [time for time in (earliest, expires) if time is not None]
        if latest is not None and latest > now + horizon:
            times.append(now)
        return min(times, default=None)

    def counts(self) -> dict[State, int]:
        """How many uploads there are in each state, zeros included."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.state, fn.COUNT(uploads.id)).where(self._ours)
        with self._database.operation("count the uploads"):
            return dict.fromkeys(State, 0) | dict(query.group_by(uploads.state).tuples())

    def oldest_pending(self) -> Upload | None:
        """The pending upload that was discovered first."""
        uploads = self._uploads
        query = uploads.select().where(self._ours, uploads.state == State.PENDING)
        return self._first(
            "find the oldest pending upload", query.order_by(uploads.discovered_at, uploads.id)
        )

    def last_errors(self, limit: int) -> list[Upload]:
        """The live uploads that carry an error, the one that something happened to last first."""
        uploads, events = self._uploads, self._database.tables.events
        query = (
            uploads.select()
            .join(events, on=events.upload == uploads.id)
            .where(self._ours, self._is_live, uploads.last_error.is_null(False))
            .group_by(uploads.id)
            .order_by(fn.MAX(events.id).desc())
            .limit(limit)
        )
        return self._fetch("list the last errors", query)

    def events(self, upload_id: int) -> list[UploadEvent]:
        """The upload's story in the order it happened."""
        return self._story.read(upload_id)

    def instance_report(self) -> InstanceReport | None:
        """What the daemon of this instance last said about itself."""
        instances = self._database.tables.instances
        query = instances.select().where(instances.instance == self.instance)
        with self._database.operation("read the daemon's report"):
            row = query.dicts().first()
            return row and InstanceReport(**row | {"report": json.loads(row["report"])})

    @property
    def _ours(self) -> peewee.Expression:
        return self._uploads.instance == self.instance

    @property
    def _is_live(self) -> peewee.Expression:
        return self._uploads.state.not_in(sorted(ENDED_STATES))

    def _matching(
        self,
        state: State | None,
        video_id: str | None,
        ids: Iterable[int] | None,
        path: str | None,
        all_instances: bool,
    ) -> Any:
        uploads = self._uploads
        query = uploads.select() if all_instances else uploads.select().where(self._ours)
        if state is not None:
            query = query.where(uploads.state == state)
        if video_id is not None:
            query = query.where(uploads.video_id == video_id)
        if ids is not None:
            query = query.where(uploads.id.in_(list(ids)))
        if path is not None:
            query = query.where(uploads.path == path)
        return query

    def _pages(self, query: Any) -> Iterator[Upload]:
        number = self._uploads.id
        after = 0
        while page := self._fetch("list uploads", query.where(number > after).order_by(number).limit(PAGE)):
            yield from page
            after = page[-1].id

    def _first(self, what: str, query: Any) -> Upload | None:
        return next(iter(self._fetch(what, query.limit(1))), None)

    def _fetch(self, what: str, query: Any) -> list[Upload]:
        with self._database.operation(what):
            return [Upload(**row) for row in query.dicts()]
