"""Queries of the ledger. Nothing here changes a row."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypedDict, Unpack

from peewee import SQL, fn

from db.database import Database
from db.receipts import Receipts
from db.records import InstanceReport, Upload, UploadEvent, hash_text
from db.state_counts import Outcomes, StateCounts
from db.states import State
from db.upload_queries import UploadEvents, UploadQueries

PAGE = 500
MAX_SEARCHED = 10_000
"""How many rows one page of uploads reads at most, to find a text in their paths."""


class Conditions(TypedDict, total=False):
    """Which uploads to list; a condition that is missing or None excludes none."""

    state: State | None
    video_id: str | None
    path: str | None
    ids: Iterable[int] | None
    all_instances: bool
    """Whether the uploads of other instances are listed, too."""


class LedgerReader(UploadQueries):
    """The ledger of one instance, for reading.

    `worker` is the name of the calling daemon where it differs from the instance's: several daemons share the
    ledger of a shared directory. `clock` replaces the database's time. Every method may raise DatabaseError
    and works on its own connection unless the thread is in a `Database.session`.
    """

    def __init__(
        self,
        database: Database,
        instance: str,
        *,
        worker: str | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        super().__init__(database, instance, worker or instance)
        self._clock = clock or database.now
        self._upload_events = UploadEvents(database)
        self._state_counts = StateCounts(database)
        self.receipts = Receipts(self)

    def now(self) -> datetime:
        """The time that claims, due times and events refer to, in UTC."""
        return self._clock().astimezone(UTC)

    @cached_property
    def token(self) -> str:
        """A random text, 16 hexadecimal digits, that tells this ledger from all others."""
        query: Any = self.database.tables.ledger_token.select()
        with self.database.operation("read the token of the ledger"):
            return str(query.get().token)

    # Uploads

    def current(self, path: str) -> Upload | None:
        """The newest upload of the path."""
        of_path = self._newest_of_path.run(path=path, path_hash=hash_text(self.instance, path))
        found, has_receipts = self._beside_receipts(of_path)
        if not has_receipts or (found is not None and found.state.is_live):
            # No other one is newer than the live one.
            return found
        return _newest(found, *self.receipts.of_paths([path]))

    def current_many(self, paths: Iterable[str]) -> dict[str, Upload]:
        """The newest upload of each of the paths that has one."""
        remaining = iter(paths)
        found: dict[str, Upload] = {}
        while page := list(islice(remaining, PAGE)):
            newest = self.records(self._newest_of_paths.run(paths=page).rows)
            found.update((upload.path, upload) for upload in newest)
            for upload in self.receipts.of_paths(page):
                found[upload.path] = _newest(found.get(upload.path), upload) or upload
        return found

    def uploads(self, *, limit: int | None = None, **conditions: Unpack[Conditions]) -> list[Upload]:
        """The uploads that meet every condition given, oldest first, at most `limit`."""
        given: Any = {name: value for name, value in conditions.items() if value is not None}
        all_instances = given.pop("all_instances", False)
        if "ids" in given:
            given["ids"] = list(given["ids"])
        found = list(self.records(self._matching.run(all_instances, limit, **given).rows))
        return _merged(found, self._receipts_like(all_instances, limit, **given))[:limit]

    def iter_uploads(
        self, *, newest_first: bool = False, before: int | None = None, **conditions: Unpack[Conditions]
    ) -> Iterator[Upload]:
        """Like `uploads`, but reads one page at a time, so that memory use is bounded.

        With `newest_first`, `before` leaves out those whose ids are not lower.
        """
        given: Any = {name: value for name, value in conditions.items() if value is not None}
        all_instances = given.pop("all_instances", False)
        matching = self._matching.make(self, all_instances, None, **given)
        receipts = partial(self._receipts_like, all_instances, PAGE, newest_first=newest_first, **given)
        return self._pages(matching, receipts, newest_first=newest_first, after=before)

    def iter_in_states(self, states: Collection[State]) -> Iterator[Upload]:
        """The uploads in any of the states, read one page at a time, so that memory use is bounded."""
        matching = self._select(self._in_instance, self._uploads.state.in_(sorted(states)))
        has_released = State.RELEASED in states
        return self._pages(matching, partial(self._receipts_like, False, PAGE) if has_released else None)

    def abandoned_multiparts(self, limit: int, *, after: int = 0) -> list[Upload]:
        """The uploads that are no longer pending and whose multipart upload may still be open in S3.

        In the order of their ids, from the one that follows `after`.
        """
        uploads = self._uploads
        query = self._select(
            self._in_instance,
            uploads.id > after,
            uploads.multipart_id.is_null(False),
            uploads.state != State.PENDING,
        )
        return self._fetch("list abandoned multipart uploads", query.order_by(uploads.id).limit(limit))

    def oldest_pending(self) -> Upload | None:
        """The pending upload that was discovered first."""
        uploads = self._uploads
        # Worded like the condition of the index `uploads_pending`.
        is_pending = uploads.state.concat(SQL("''")) == SQL("'pending'")
        query = self._select(self._in_instance, is_pending)
        return self._first(
            "find the oldest pending upload", query.order_by(uploads.discovered_at, uploads.id)
        )

    def oldest(self, state: State) -> Upload | None:
        """The upload of the state that is due first; at the catalog gate, or without one, none is."""
        query = self._select(self._is_queued(state)).order_by(self._uploads.due_at)
        return self._first("find the oldest upload of a state", query)

    def latest(self, state: State, limit: int) -> list[Upload]:
        """The uploads of the state that is due last, which is what came into it last, latest first."""
        query = self._select(self._is_queued(state)).order_by(self._uploads.due_at.desc())
        found = self._fetch("list what came into a state last", query.limit(limit))
        receipts = self._receipts_like(False, limit, state=state, newest_first=True)
        return sorted(_merged(found, receipts), key=lambda upload: upload.changed_at, reverse=True)[:limit]

    def page(
        self,
        limit: int,
        *,
        before: int | None = None,
        text: str | None = None,
        **conditions: Unpack[Conditions],
    ) -> tuple[list[Upload], int | None]:
        """At most `limit` uploads that meet every condition, newest first, and where the next page begins.

        Only ids below `before` are listed, and with `text` only paths that contain it, in any case. A page
        reads no more than `MAX_SEARCHED` rows, so one with a `text` may have few uploads or none. The next
        page is that before the id that is returned; None if there is no other.
        """
        found: list[Upload] = []
        last = before
        uploads = self.iter_uploads(newest_first=True, before=before, **conditions)
        for number, upload in enumerate(uploads):
            if len(found) == limit or number == MAX_SEARCHED:
                return found, last
            last = upload.id
            if text is None or text.casefold() in upload.path.casefold():
                found.append(upload)
        return found, None

    def error_counts(self) -> list[tuple[str | None, State, int, int]]:
        """The live uploads that have an error, by code and state: how many, and the newest one's id."""
        uploads = self._uploads
        query: Any = uploads.select(
            uploads.error_code, uploads.state, fn.COUNT(uploads.id), fn.MAX(uploads.id)
        ).where(self._in_instance, self._is_live, uploads.last_error.is_null(False))
        with self.database.operation("count the errors"):
            rows = query.group_by(uploads.error_code, uploads.state).tuples()
            return [(code, State(state), int(count), int(newest)) for code, state, count, newest in rows]

    def last_errors(self, limit: int) -> list[Upload]:
        """The live uploads that have an error, the one with the latest event first."""
        uploads, events = self._uploads, self.database.tables.events
        query = (
            uploads.select()
            .join(events, on=events.upload == uploads.id)
            .where(self._in_instance, self._is_live, uploads.last_error.is_null(False))
            .group_by(uploads.id)
            .order_by(fn.MAX(events.id).desc())
            .limit(limit)
        )
        return self._fetch("list the last errors", query)

    def counts(self) -> dict[State, int]:
        """The number of uploads in each state, zeros included."""
        return self._state_counts.read(self.instance).get(self.instance, dict.fromkeys(State, 0))

    def sizes(self) -> dict[State, int]:
        """The bytes of the files of the uploads in each state, zeros included."""
        return self._state_counts.sizes(self.instance)

    def outcomes(self, period: timedelta) -> Outcomes:
        """What became of uploads within the last `period`, of at most a day."""
        return self._state_counts.outcomes(self.instance, self.now() - period)

    def waiting_since(self) -> dict[State, datetime]:
        """Since when the oldest upload has been in each open state that has any.

        Of pending ones since they were found; of the others the one that is due first.
        """
        since = {}
        if (oldest := self.oldest_pending()) is not None:
            since[State.PENDING] = oldest.discovered_at
        for state in (State.VERIFIED, State.PUBLISHED):
            if (first := self.oldest(state)) is not None:
                since[state] = first.changed_at
        return since

    def counts_by_instance(self) -> dict[str, dict[State, int]]:
        """The number of uploads in each state, for every instance that has uploads."""
        return self._state_counts.read()

    def events(self, upload_id: int) -> list[UploadEvent]:
        """The upload's events, oldest first."""
        # The receipt last: it then has those of an upload that is folded meanwhile.
        present = self._upload_events.read(upload_id)
        folded = self.receipts.events(upload_id)
        return folded if folded[-len(present) :] == present else folded + present

    # Claims and due times

    def next_due(self, state: State, *, horizon: timedelta, awaits_others: bool = True) -> datetime | None:
        """When the next upload of `state` can be claimed, which may be in the past; None if there is none.

        An upload that is due later than `horizon` from now counts as due now: the clock must have jumped. One
        that another daemon has claimed is due when the claim ends; `awaits_others` says whether it counts.
        """
        with self.database.operation("find when the next upload is due"):
            now = self.now()
            times = [
                self._claimable_at(state, now, None, now, awaits_others=awaits_others),
                self._time(self._first_due.value(False, state=state, after=now, until=None)),
                self._claimable_at(state, None, now + horizon, now, awaits_others=awaits_others),
            ]
        return min((time for time in times if time is not None), default=None)

    def has_other_due(self, upload: Upload) -> bool:
        """Whether another upload in the same state is due or claimed; one at the catalog gate is neither."""
        uploads = self._uploads
        with self.database.operation("find another upload that is due"):
            query: Any = uploads.select(uploads.id).where(
                self._is_queued(upload.state), uploads.due_at <= self.now(), uploads.id != upload.id
            )
            return query.order_by(uploads.due_at).limit(1).scalar() is not None

    def is_claimed(self, upload: Upload) -> bool:
        """Whether any daemon, this one included, has a claim on the upload that has not expired."""
        return upload.claimed_until is not None and upload.claimed_until > self.now()

    def is_claimed_by_another(self, upload: Upload) -> bool:
        """Whether a daemon other than this one has a claim on the upload that has not expired."""
        return upload.claimed_by != self.worker and self.is_claimed(upload)

    # The catalog gate

    def count_awaiting_row(self, *, longer_than: timedelta = timedelta(0)) -> int:
        """The number of uploads that have waited at the catalog gate for longer than that."""
        uploads = self._uploads
        query: Any = uploads.select(fn.COUNT(uploads.id)).where(self._at_gate)
        with self.database.operation("count what waits for a catalog row"):
            return int(query.where(uploads.due_at <= self.now() - longer_than).scalar())

    def awaiting_row_since(self) -> datetime | None:
        """When the longest wait at the catalog gate began; None if no upload waits."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.due_at).where(self._at_gate).order_by(uploads.due_at)
        with self.database.operation("find what has waited longest for a catalog row"):
            found: datetime | None = query.limit(1).scalar()
            return found

    def last_admitted(self) -> Upload | None:
        """The newest upload that was admitted for a catalog row."""
        uploads = self._uploads
        query = self._select(self._in_instance, uploads.catalog_row_at.is_null(False))
        found = self._first("find the last admitted upload", query.order_by(uploads.id.desc()))
        newest = self.receipts.page(PAGE, newest_first=True)
        return _newest(found, *(upload for upload in newest if upload.catalog_row_at is not None))

    # Object keys: several uploads, of one path or of several, can have the same key.

    def key_conflict(self, upload: Upload) -> Upload | None:
        """An upload of another path that has, or is going to have, the same object key.

        Two files with one key would overwrite each other's object. An upload at the catalog gate has no key
        yet: its row decides about it, and there may never be one. Of several uploads it is the oldest of
        those that have an object or a claim, else the oldest.
        """
        key = upload.object_key
        of_key = self._others_of_key.run(object_key=key, path=upload.path, key_hash=hash_text(key))
        found, has_receipts = self._beside_receipts(of_key)
        receipts = self._receipts_of_key(key, all_instances=False) if has_receipts else []
        others = [other for other in [found, *receipts] if other and other.path != upload.path]
        return min(others, key=_age_for_key, default=None)

    def uploads_of_key(self, object_key: str, *, all_instances: bool = False) -> list[Upload]:
        """Every upload that has or had this object key, oldest first."""
        uploads = self._uploads
        query = self._select(uploads.object_key == object_key).order_by(uploads.id)
        if not all_instances:
            query = query.where(self._is_of_instance)
        found = self._fetch("look up an object key", query)
        return _merged(found, self._receipts_of_key(object_key, all_instances=all_instances))

    def replaces_other_content(self, upload: Upload) -> bool:
        """Whether an earlier upload of the same object key was ever verified with another checksum."""
        uploads = self._uploads
        query = self._select(
            self._is_of_instance,
            uploads.id < upload.id,
            uploads.object_key == upload.object_key,
            uploads.checksum != upload.checksum,
            self._was_verified,
        )
        return self._first("check whether an upload replaces an object", query) is not None or any(
            earlier.id < upload.id and earlier.checksum != upload.checksum
            for earlier in self._receipts_of_key(upload.object_key, all_instances=False)
        )

    def other_content_for_row(self, upload: Upload) -> Upload | None:
        """An upload, of any instance, whose content must not be replaced by this one's.

        It has the same object key and another checksum, and was verified for the catalog row that this upload
        was admitted for, or for a newer one.
        """
        if upload.catalog_row_at is None:
            return None
        uploads = self._uploads
        query = self._select(
            uploads.id != upload.id,
            uploads.object_key == upload.object_key,
            uploads.checksum != upload.checksum,
            uploads.catalog_row_at >= upload.catalog_row_at,
            self._was_verified,
        )
        found = self._first("look up what an object was verified for", query.order_by(uploads.id.desc()))
        released = (
            other
            for other in self._receipts_of_key(upload.object_key)
            if other.id != upload.id
            and other.checksum != upload.checksum
            and other.catalog_row_at is not None
            and other.catalog_row_at >= upload.catalog_row_at
        )
        return _newest(found, *released)

    def replaced_by(self, upload: Upload, etag: str) -> Upload | None:
        """The later upload, of any instance, that replaced the upload's object by one with this ETag."""
        uploads = self._uploads
        query = self._select(
            uploads.object_key == upload.object_key,
            uploads.id > upload.id,
            uploads.etag == etag,
            self._was_verified,
        )
        found = self._fetch("look up what replaced an object", query.order_by(uploads.id).limit(1))
        released = self._receipts_of_key(upload.object_key)
        later = _merged(found, (by for by in released if by.id > upload.id and by.etag == etag))
        return next(iter(later), None)

    def latest_verified_ids(self, object_keys: Collection[str]) -> dict[str, int]:
        """The id of the latest upload, of any instance, whose object is verified, by object key."""
        uploads = self._uploads
        verified = [State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query: Any = uploads.select(uploads.object_key, fn.MAX(uploads.id)).where(
            uploads.object_key.in_(list(object_keys)), uploads.state.in_(verified)
        )
        with self.database.operation("look up the uploads of object keys"):
            found = dict(query.group_by(uploads.object_key).tuples())
        for upload in self.receipts.of_keys(list(object_keys)):
            found[upload.object_key] = max(upload.id, found.get(upload.object_key, 0))
        return found

    def known_keys(self, object_keys: Collection[str]) -> set[str]:
        """Those of the object keys that any upload, of any instance, has or had."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.object_key).where(uploads.object_key.in_(list(object_keys)))
        with self.database.operation("look up object keys"):
            found = set(query.distinct().scalars())
        return found | {upload.object_key for upload in self.receipts.of_keys(list(object_keys))}

    def urls_of_path(self, path: str) -> set[str]:
        """Every public URL that an object of this path was ever given."""
        rows = self._urls_of_path.run(path=path, path_hash=hash_text(self.instance, path)).rows
        receipts = self.receipts.of_paths([path]) if rows[0][0] else []
        return {url for _, url in rows if url} | {upload.url for upload in receipts if upload.url}

    def urls_of_paths(self, paths: Collection[str]) -> dict[str, set[str]]:
        """Like `urls_of_path`, for each of the paths that has any."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.path, uploads.url).where(
            self._in_instance, uploads.path.in_(list(paths)), uploads.url.is_null(False)
        )
        found: dict[str, set[str]] = {}
        with self.database.operation("list the URLs of paths"):
            for path, url in query.tuples():
                found.setdefault(path, set()).add(url)
        for upload in self.receipts.of_paths(list(paths)):
            if upload.url:
                found.setdefault(upload.path, set()).add(upload.url)
        return found

    # Instances

    def instance_report(self) -> InstanceReport | None:
        """The latest report of this worker's daemon."""
        reports = self._instance_reports(self.database.tables.instances.instance == self.worker)
        return next(iter(reports), None)

    def instance_reports(self) -> list[InstanceReport]:
        """The latest report of every daemon that uses this database, by name."""
        return self._instance_reports()

    def _instance_reports(self, *conditions: Any) -> list[InstanceReport]:
        instances = self.database.tables.instances
        query: Any = instances.select().order_by(instances.instance)
        if conditions:
            query = query.where(*conditions)
        with self.database.operation("read the daemons' reports"):
            return [InstanceReport(**row | {"report": json.loads(row["report"])}) for row in query.dicts()]

    # Execution

    def _claimable_at(
        self,
        state: State,
        until: datetime | None,
        after: datetime | None,
        now: datetime,
        *,
        awaits_others: bool,
    ) -> datetime | None:
        """When the first of what is due can be claimed: at once, or when a claim ends if all are claimed.

        The claims are read row by row: there are no more of them than all workers can have at a time, and
        every claim would have to write an index of them.
        """
        due: dict[str, Any] = {"state": state, "after": after, "until": until}
        first = self._time(self._first_due.value(True, **due))
        if first is not None:
            return min(first, now)
        ends = self._claim_ends.run(**due, ended_at=None if awaits_others else now).rows
        times = (self._time(end) for (end,) in ends)
        return min((time for time in times if time is not None), default=None)

    def _time(self, value: Any) -> datetime | None:
        """The time that a column of times has."""
        column: Any = self._uploads.due_at
        time: datetime | None = column.python_value(value)
        return time

    def _pages(
        self,
        query: Any,
        receipts: Callable[..., list[Upload]] | None,
        *,
        newest_first: bool = False,
        after: int | None = None,
    ) -> Iterator[Upload]:
        """The uploads of a query and those of `receipts`, which both follow the id `after` in its order."""
        number = self._uploads.id
        query = query.order_by(number.desc() if newest_first else number).limit(PAGE)
        while True:
            is_next: Any = number < after if newest_first else number > after
            rest = query if after is None else query.where(is_next)
            # In this order: an upload that is folded meanwhile is found in the second.
            pages = [self._fetch("list uploads", rest), receipts(after=after) if receipts else []]
            # What follows a full page may belong before the end of the other one.
            ends = [page[-1].id for page in pages if len(page) == PAGE]
            found = _merged(*pages, newest_first=newest_first)
            if not ends:
                yield from found
                return
            after = max(ends) if newest_first else min(ends)
            yield from (
                upload for upload in found if (upload.id >= after if newest_first else upload.id <= after)
            )

    def _receipts_like(
        self,
        all_instances: bool,
        limit: int | None,
        *,
        state: State | None = None,
        video_id: str | None = None,
        path: str | None = None,
        ids: Sequence[int] | None = None,
        after: int | None = None,
        newest_first: bool = False,
    ) -> list[Upload]:
        """The receipts that meet the conditions, in the order of their ids, at most `limit`."""
        if state not in {None, State.RELEASED}:
            return []
        if path is None and ids is None:
            return self.receipts.page(
                limit,
                after=after,
                newest_first=newest_first,
                all_instances=all_instances,
                video_id=video_id,
            )
        of_path = None if path is None else self.receipts.of_paths([path])
        found = [
            upload
            for upload in (self.receipts.by_ids(ids or []) if of_path is None else of_path)
            if (ids is None or upload.id in ids)
            and video_id in {None, upload.video_id}
            and (all_instances or upload.instance == self.instance)
            and (after is None or (upload.id < after if newest_first else upload.id > after))
        ]
        return sorted(found, key=lambda upload: upload.id, reverse=newest_first)[:limit]

    def _receipts_of_key(self, object_key: str, *, all_instances: bool = True) -> list[Upload]:
        return [
            upload
            for upload in self.receipts.of_keys([object_key])
            if all_instances or upload.instance == self.instance
        ]

    def _first(self, operation: str, query: Any) -> Upload | None:
        return next(iter(self._fetch(operation, query.limit(1))), None)

    def _fetch(self, operation: str, query: Any) -> list[Upload]:
        """The uploads that `query` selects with all columns."""
        return list(self.records(self.database.run(operation, *query.sql())[0]))


def _newest(*uploads: Upload | None) -> Upload | None:
    """The upload with the greatest id, the first one of several with the same."""
    return max((upload for upload in uploads if upload), key=lambda upload: upload.id, default=None)


def _age_for_key(upload: Upload) -> tuple[bool, int]:
    """The order of the uploads of a key: those without an object or a claim are the last."""
    return upload.state is State.PENDING and upload.claimed_by is None, upload.id


def _merged(
    present: Iterable[Upload], receipts: Iterable[Upload], *, newest_first: bool = False
) -> list[Upload]:
    """The uploads in the order of their ids; of one that was unfolded, the row."""
    found = {upload.id: upload for upload in receipts} | {upload.id: upload for upload in present}
    return [found[number] for number in sorted(found, reverse=newest_first)]
