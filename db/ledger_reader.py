"""The questions one can ask the ledger. Nothing here changes a row."""

import json
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import peewee
from peewee import SQL, fn

from db.key_history import KeyHistory
from db.records import InstanceReport, Upload, UploadEvent
from db.states import ENDED_STATES, State

PAGE = 500
MOST_HELD = 1_000
"""Claims that are looked at to see when the first of them ends."""


class LedgerReader(KeyHistory):
    """The ledger of one instance, for reading."""

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

    def abandoned_multiparts(self, limit: int) -> list[Upload]:
        """Uploads that are past sending, or given up, and whose multipart upload may still be open in S3."""
        uploads = self._uploads
        query = uploads.select().where(
            self._ours, uploads.multipart_id.is_null(False), uploads.state != State.PENDING
        )
        return self._fetch("list abandoned multipart uploads", query.order_by(uploads.id).limit(limit))

    def next_due(self, state: State, *, horizon: timedelta, awaits_others: bool = True) -> datetime | None:
        """When the next upload of `state` can be claimed; None if there is none. It may have passed already.

        An upload due later than `horizon` from now counts as due now: the clock must have jumped. One that
        another daemon holds is due when its claim runs out; `awaits_others` says whether that counts.
        """
        uploads = self._uploads
        with self._database.operation("see when the next upload is due"):
            now = self.now()
            later: Any = uploads.select(uploads.due_at).where(self._is_queued(state), uploads.due_at > now)
            times = [
                self._claimable_at(state, uploads.due_at <= now, now, awaits_others=awaits_others),
                later.order_by(uploads.due_at).limit(1).scalar(),
                self._claimable_at(state, uploads.due_at > now + horizon, now, awaits_others=awaits_others),
            ]
        return min((time for time in times if time is not None), default=None)

    def counts(self) -> dict[State, int]:
        """How many uploads there are in each state, zeros included."""
        return self._counts(self._ours).get(self.instance, dict.fromkeys(State, 0))

    def counts_by_instance(self) -> dict[str, dict[State, int]]:
        """The same for every instance that has uploads."""
        return self._counts()

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
        """What this worker's daemon last said about itself."""
        return next((report for report in self.instance_reports() if report.instance == self.worker), None)

    def instance_reports(self) -> list[InstanceReport]:
        """What every daemon that uses this database last said about itself, by name."""
        instances = self._database.tables.instances
        query: Any = instances.select().order_by(instances.instance)
        with self._database.operation("read the daemons' reports"):
            return [InstanceReport(**row | {"report": json.loads(row["report"])}) for row in query.dicts()]

    def _counts(self, *of: peewee.Expression) -> dict[str, dict[State, int]]:
        uploads = self._uploads
        query: Any = uploads.select(uploads.instance, uploads.state, fn.COUNT(uploads.id))
        if of:
            query = query.where(*of)
        counts: dict[str, dict[State, int]] = {}
        with self._database.operation("count the uploads"):
            for instance, state, number in query.group_by(uploads.instance, uploads.state).tuples():
                counts.setdefault(instance, dict.fromkeys(State, 0))[state] = number
        return counts

    def _claimable_at(self, state: State, due: Any, now: datetime, *, awaits_others: bool) -> datetime | None:
        """When the first of what is due can be claimed: at once, or when a claim ends if all are held.

        What is held is read row by row: it is no more than all workers together have room for, and an index
        for it would have to be written by every claim.
        """
        uploads = self._uploads
        queued = (self._is_queued(state), due)
        free: Any = uploads.select(uploads.due_at).where(*queued, uploads.claimed_until.is_null())
        first: datetime | None = free.order_by(uploads.due_at).limit(1).scalar()
        if first is not None:
            return min(first, now)
        # In the order of the index, and with a limit, or PostgreSQL may read the whole table: it cannot know
        # that hardly any of the published rows are among those that were due long ago.
        held: Any = uploads.select(uploads.claimed_until).where(*queued)
        if not awaits_others:
            held = held.where((uploads.claimed_by == self.worker) | (uploads.claimed_until <= now))
        ends: list[datetime | None] = list(held.order_by(uploads.due_at).limit(MOST_HELD).scalars())
        return min((end for end in ends if end is not None), default=None)

    def _is_queued(self, state: State) -> peewee.Expression:
        """True of what a stage may claim once it is due; in the words of the index `uploads_due`."""
        uploads = self._uploads
        queued: peewee.Expression = (
            self._ours & (uploads.state == state) & (uploads.awaits_row == SQL("FALSE"))
        )
        return queued

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
