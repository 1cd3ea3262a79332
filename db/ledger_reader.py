"""Queries of the ledger. Nothing here changes a row."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any, TypedDict, Unpack

import peewee
from peewee import SQL, fn

from db.database import Database
from db.fields import Dialect
from db.records import UPLOAD_COLUMNS, InstanceReport, Upload, UploadEvent
from db.states import ENDED_STATES, State

PAGE = 500
MAX_ADDED_UP = 10_000
"""How many rows of counts are added up at a time."""
MAX_CLAIMS_READ = 1_000
"""How many claims are read to find the one that ends first."""

_PLAIN = (peewee.TextField, peewee.IntegerField)
"""Columns whose values need no conversion from what either driver returns."""


class Conditions(TypedDict, total=False):
    """Which uploads to list; a condition that is missing or None excludes none."""

    state: State | None
    video_id: str | None
    path: str | None
    ids: Iterable[int] | None
    all_instances: bool
    """Whether the uploads of other instances are listed, too."""


class LedgerReader:
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
        self.instance = instance
        self.worker = worker or instance
        self.database = database
        self._clock = clock or database.now
        self._uploads = database.tables.uploads
        self._upload_events = UploadEvents(database)
        self._state_counts = StateCounts(database)
        self._all_columns = peewee.SQL(", ".join(f'"{name}"' for name in UPLOAD_COLUMNS))
        """The columns of a frequent SELECT, rendered once instead of for every query."""
        columns = {name: getattr(self._uploads, name) for name in UPLOAD_COLUMNS}
        self._conversions: dict[str, Callable[[Any], Any]] = {
            name: column.python_value for name, column in columns.items() if not isinstance(column, _PLAIN)
        }

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
        uploads = self._uploads
        query = self._select(self._in_instance, uploads.path == path).order_by(uploads.id.desc())
        return self._first("look up a path", query)

    def current_many(self, paths: Iterable[str]) -> dict[str, Upload]:
        """The newest upload of each of the paths that has one."""
        uploads = self._uploads
        remaining = iter(paths)
        found: dict[str, Upload] = {}
        while page := list(islice(remaining, PAGE)):
            of_paths = uploads.select(fn.MAX(uploads.id)).where(self._in_instance, uploads.path.in_(page))
            newest = self._select(uploads.id.in_(of_paths.group_by(uploads.path)))
            found.update((upload.path, upload) for upload in self._fetch("look up paths", newest))
        return found

    def uploads(self, *, limit: int | None = None, **conditions: Unpack[Conditions]) -> list[Upload]:
        """The uploads that meet every condition given, oldest first, at most `limit`."""
        matching = self._matching(conditions)
        return self._fetch("list uploads", matching.order_by(self._uploads.id).limit(limit))

    def iter_uploads(
        self, *, newest_first: bool = False, **conditions: Unpack[Conditions]
    ) -> Iterator[Upload]:
        """Like `uploads`, but reads one page at a time, so that memory use is bounded."""
        return self._pages(self._matching(conditions), newest_first=newest_first)

    def iter_in_states(self, states: Collection[State]) -> Iterator[Upload]:
        """The uploads in any of the states, read one page at a time, so that memory use is bounded."""
        uploads = self._uploads
        return self._pages(self._select(self._in_instance, uploads.state.in_(sorted(states))))

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

    def counts_by_instance(self) -> dict[str, dict[State, int]]:
        """The number of uploads in each state, for every instance that has uploads."""
        return self._state_counts.read()

    def events(self, upload_id: int) -> list[UploadEvent]:
        """The upload's events, oldest first."""
        return self._upload_events.read(upload_id)

    # Claims and due times

    def next_due(self, state: State, *, horizon: timedelta, awaits_others: bool = True) -> datetime | None:
        """When the next upload of `state` can be claimed, which may be in the past; None if there is none.

        An upload that is due later than `horizon` from now counts as due now: the clock must have jumped. One
        that another daemon has claimed is due when the claim ends; `awaits_others` says whether it counts.
        """
        uploads = self._uploads
        with self.database.operation("find when the next upload is due"):
            now = self.now()
            later: Any = uploads.select(uploads.due_at).where(self._is_queued(state), uploads.due_at > now)
            times = [
                self._claimable_at(state, uploads.due_at <= now, now, awaits_others=awaits_others),
                later.order_by(uploads.due_at).limit(1).scalar(),
                self._claimable_at(state, uploads.due_at > now + horizon, now, awaits_others=awaits_others),
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
        return self._first("find the last admitted upload", query.order_by(uploads.id.desc()))

    # Object keys: several uploads, of one path or of several, can have the same key.

    def key_conflict(self, upload: Upload) -> Upload | None:
        """An upload of another path that has, or is going to have, the same object key.

        Two files with one key would overwrite each other's object. An upload at the catalog gate has no key
        yet: its row decides about it, and there may never be one. Of several uploads it is the oldest of
        those that have an object or a claim, else the oldest.
        """
        uploads = self._uploads
        query = self._select(
            self._is_of_instance,
            uploads.object_key == upload.object_key,
            uploads.path != upload.path,
            uploads.state.in_([State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]),
            uploads.awaits_row == SQL("FALSE"),
        )
        is_waiting = (uploads.state == State.PENDING) & uploads.claimed_by.is_null()
        return self._first("look for another file of the same key", query.order_by(is_waiting, uploads.id))

    def uploads_of_key(self, object_key: str, *, all_instances: bool = False) -> list[Upload]:
        """Every upload that has or had this object key, oldest first."""
        uploads = self._uploads
        query = self._select(uploads.object_key == object_key).order_by(uploads.id)
        if not all_instances:
            query = query.where(self._is_of_instance)
        return self._fetch("look up an object key", query)

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
        return self._first("check whether an upload replaces an object", query) is not None

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
        return self._first("look up what an object was verified for", query.order_by(uploads.id.desc()))

    def replaced_by(self, upload: Upload, etag: str) -> Upload | None:
        """The later upload, of any instance, that replaced the upload's object by one with this ETag."""
        uploads = self._uploads
        query = self._select(
            uploads.object_key == upload.object_key,
            uploads.id > upload.id,
            uploads.etag == etag,
            self._was_verified,
        )
        return self._first("look up what replaced an object", query)

    def latest_verified_ids(self, object_keys: Collection[str]) -> dict[str, int]:
        """The id of the latest upload, of any instance, whose object is verified, by object key."""
        uploads = self._uploads
        verified = [State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query: Any = uploads.select(uploads.object_key, fn.MAX(uploads.id)).where(
            uploads.object_key.in_(list(object_keys)), uploads.state.in_(verified)
        )
        with self.database.operation("look up the uploads of object keys"):
            return dict(query.group_by(uploads.object_key).tuples())

    def known_keys(self, object_keys: Collection[str]) -> set[str]:
        """Those of the object keys that any upload, of any instance, has or had."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.object_key).where(uploads.object_key.in_(list(object_keys)))
        with self.database.operation("look up object keys"):
            return set(query.distinct().scalars())

    def urls_of_path(self, path: str) -> set[str]:
        """Every public URL that an object of this path was ever given."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.url).where(
            self._in_instance, uploads.path == path, uploads.url.is_null(False)
        )
        with self.database.operation("list the URLs of a path"):
            return set(query.distinct().scalars())

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

    # Conditions

    @property
    def _in_instance(self) -> peewee.Expression:
        return self._uploads.instance == self.instance

    @property
    def _is_of_instance(self) -> Any:
        """`_in_instance` in a form that no index answers, where that of another column is the better one.

        SQLite, without statistics, prefers two columns of an index to the only one that tells rows apart.
        """
        return (self._uploads.instance + "") == self.instance

    @property
    def _is_live(self) -> peewee.Expression:
        return self._uploads.state.not_in(sorted(ENDED_STATES))

    @property
    def _at_gate(self) -> Any:
        """Worded like the conditions of the indexes `uploads_awaiting_row` and `uploads_awaiting_since`."""
        uploads = self._uploads
        return self._in_instance & (uploads.awaits_row == SQL("TRUE")) & (uploads.state == State.PENDING)

    def _is_queued(self, state: State) -> peewee.Expression:
        """True of what a stage may claim once it is due; worded like the condition of `uploads_due`."""
        uploads = self._uploads
        queued: peewee.Expression = (
            self._in_instance & (uploads.state == state) & (uploads.awaits_row == SQL("FALSE"))
        )
        return queued

    @property
    def _was_verified(self) -> Any:
        """True of a row that is verified or was, by its events: a row loses its proof with its object."""
        uploads, events = self._uploads, self.database.tables.events
        verified: Any = events.select(events.id).where(
            events.upload == uploads.id, events.event == State.VERIFIED.value
        )
        return uploads.verified_at.is_null(False) | fn.EXISTS(verified)

    def _matching(self, conditions: Conditions) -> Any:
        uploads = self._uploads
        query: Any = uploads.select(self._all_columns)
        if not conditions.get("all_instances"):
            query = query.where(self._in_instance)
        for name in ("state", "video_id", "path"):
            if (value := conditions.get(name)) is not None:
                query = query.where(getattr(uploads, name) == value)
        if (ids := conditions.get("ids")) is not None:
            query = query.where(uploads.id.in_(list(ids)))
        return query

    # Execution

    def _claimable_at(self, state: State, due: Any, now: datetime, *, awaits_others: bool) -> datetime | None:
        """When the first of what is due can be claimed: at once, or when a claim ends if all are claimed.

        The claims are read row by row: there are no more of them than all workers can have at a time, and
        every claim would have to write an index of them.
        """
        uploads = self._uploads
        queued = (self._is_queued(state), due)
        free: Any = uploads.select(uploads.due_at).where(*queued, uploads.claimed_until.is_null())
        first: datetime | None = free.order_by(uploads.due_at).limit(1).scalar()
        if first is not None:
            return min(first, now)
        # In the order of the index and with a limit, or PostgreSQL may scan the whole table: its statistics
        # do not say that hardly any published row is among those that were due long ago.
        claimed: Any = uploads.select(uploads.claimed_until).where(*queued)
        if not awaits_others:
            claimed = claimed.where((uploads.claimed_by == self.worker) | (uploads.claimed_until <= now))
        ends: list[datetime | None] = list(claimed.order_by(uploads.due_at).limit(MAX_CLAIMS_READ).scalars())
        return min((end for end in ends if end is not None), default=None)

    def _pages(self, query: Any, *, newest_first: bool = False) -> Iterator[Upload]:
        number = self._uploads.id
        query = query.order_by(number.desc() if newest_first else number).limit(PAGE)
        page = self._fetch("list uploads", query)
        while page:
            yield from page
            last = page[-1].id
            rest = query.where(number < last if newest_first else number > last)
            page = self._fetch("list uploads", rest)

    def _select(self, *conditions: Any) -> Any:
        """A query for the uploads, with all columns, that meet all conditions."""
        return self._uploads.select(self._all_columns).where(*conditions)

    def _first(self, operation: str, query: Any) -> Upload | None:
        return next(iter(self._fetch(operation, query.limit(1))), None)

    def _fetch(self, operation: str, query: Any) -> list[Upload]:
        return [Upload(**values) for values in self._fetch_values(operation, query)]

    def _fetch_values(self, operation: str, query: Any) -> list[dict[str, Any]]:
        """The columns of the uploads that `query` selects, by name.

        Converts only the columns that need it; peewee would call a function for every value.
        """
        with self.database.operation(operation) as connected:
            cursor = connected.execute(query)
            names = [column[0] for column in cursor.description]
            found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for name in self._conversions.keys() & names:
            convert = self._conversions[name]
            for values in found:
                if values[name] is not None:
                    values[name] = convert(values[name])
        return found


EVENTS_KEPT = 100
"""How many events of an upload are kept: the first one and the newest."""


class UploadEvents:
    """Writes and reads the events of a database's uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = database.tables.events

    def append(self, upload_id: int, at: datetime, event: str, detail: str) -> None:
        """Append an event and delete the oldest ones beyond `EVENTS_KEPT`, but never the first.

        Raises DatabaseError.
        """
        events = self._events
        of_upload = events.upload == upload_id
        numbers: Any = events.select(events.id).where(of_upload)
        oldest_kept = numbers.order_by(events.id.desc()).offset(EVENTS_KEPT - 2).limit(1)
        first = numbers.order_by(events.id).limit(1)
        surplus = events.delete().where(of_upload, events.id < oldest_kept, events.id > first)
        with self._database.operation("append an upload's event"):
            events.insert(upload=upload_id, at=at, event=event, detail=detail).execute()
            surplus.execute()

    def read(self, upload_id: int) -> list[UploadEvent]:
        """The upload's events, oldest first. Raises DatabaseError."""
        events = self._events
        query: Any = events.select(events.at, events.event, events.detail)
        query = query.where(events.upload == upload_id).order_by(events.id)
        with self._database.operation("read an upload's events"):
            return [UploadEvent(*row) for row in query.tuples()]


class StateCounts:
    """Reads how many uploads are in each state. Every method may raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = database.tables.state_counts

    def read(self, instance: str | None = None) -> dict[str, dict[State, int]]:
        """The number of uploads in each state, of one instance or of all that ever had uploads."""
        rows = self._rows
        query: Any = rows.select(rows.instance, rows.state, fn.SUM(rows.uploads))
        if instance is not None:
            query = query.where(rows.instance == instance)
        counts: dict[str, dict[State, int]] = {}
        with self._database.operation("count the uploads"):
            for name, state, number in query.group_by(rows.instance, rows.state).tuples():
                counts.setdefault(name, dict.fromkeys(State, 0))[State(state)] = int(number)
        return {name: of_states for name, of_states in counts.items() if any(of_states.values())}

    def add_up(self) -> None:
        """Replace the rows by one for each state, so that their number stays small.

        Those of transactions that are not committed yet stay, as do those that another daemon adds up.
        """
        rows = self._rows
        with self._database.transaction("add up the number of uploads"):
            added: Any = rows.select(rows.id, rows.instance, rows.state, rows.uploads).limit(MAX_ADDED_UP)
            if self._database.dialect is Dialect.POSTGRESQL:
                added = added.for_update(skip_locked=True)
            sums: Counter[tuple[str, str]] = Counter()
            ids = []
            for number, instance, state, uploads in added.tuples():
                ids.append(number)
                sums[instance, state] += uploads
            if len(ids) > len(sums):
                rows.delete().where(rows.id.in_(ids)).execute()
                for (instance, state), uploads in sums.items():
                    rows.insert(instance=instance, state=state, uploads=uploads).execute()
