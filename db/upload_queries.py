"""The queries of the uploads, of which the frequent ones are rendered once, and the records of their rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import peewee
from peewee import SQL, fn

from db.database import Database
from db.fields import Dialect
from db.models import SMALL_BYTES
from db.records import UPLOAD_COLUMNS, Turn, Upload, UploadEvent
from db.statements import Result, assigned, statement
from db.states import ENDED_STATES, State

EVENTS_KEPT = 100
"""How many events of an upload are kept: the first one and the newest."""

MAX_CLAIMS_READ = 1_000
"""How many claims are read to find the one that ends first."""

LONGEST_LEASE = timedelta(hours=1)
"""The upper limit of a claim's lease, whatever the configuration of a daemon."""

_PLAIN = (peewee.TextField, peewee.IntegerField)
"""Columns whose values need no conversion from what either driver returns."""


class UploadQueries:
    """Queries of the uploads of one instance for one worker; a condition is true of the rows it names."""

    def __init__(self, database: Database, instance: str, worker: str) -> None:
        self.database = database
        self.instance = instance
        self.worker = worker
        self._uploads = database.tables.uploads
        columns = [getattr(self._uploads, name) for name in UPLOAD_COLUMNS]
        self._conversions: list[tuple[int, Callable[[Any], Any]]] = [
            (place, column.python_value)
            for place, column in enumerate(columns)
            if not isinstance(column, _PLAIN)
        ]

    # Read

    @statement("look up a path")
    def _newest_of_path(self, *, path: Any, path_hash: Any) -> Any:
        uploads, receipts = self._uploads, self.database.tables.receipts
        is_of_path = self._in_instance & (uploads.path == path)
        query = self._select_beside(receipts.path_hash == path_hash, self.all_columns, is_of_path)
        return query.order_by(uploads.id.desc()).limit(1)

    @statement("look up paths")
    def _newest_of_paths(self, *, paths: Any) -> Any:
        uploads = self._uploads
        of_paths: Any = uploads.select(fn.MAX(uploads.id)).where(self._in_instance, uploads.path.in_(paths))
        return self._select(uploads.id.in_(of_paths.group_by(uploads.path)))

    @statement("read an upload")
    def _by_id(self, *, number: Any) -> Any:
        return self._select(self._in_instance, self._uploads.id == number)

    @statement("list uploads")
    def _matching(self, all_instances: bool, limit: int | None, **conditions: Any) -> Any:
        uploads = self._uploads
        query: Any = uploads.select(*self.all_columns)
        if not all_instances:
            query = query.where(self._in_instance)
        for name in ("state", "video_id", "path"):
            if (value := conditions.get(name)) is not None:
                query = query.where(getattr(uploads, name) == value)
        if (ids := conditions.get("ids")) is not None:
            query = query.where(uploads.id.in_(list(ids)))
        return query.order_by(uploads.id).limit(limit)

    @statement("look for another file of the same key")
    def _others_of_key(self, *, object_key: Any, path: Any, key_hash: Any) -> Any:
        uploads, receipts = self._uploads, self.database.tables.receipts
        is_waiting = (uploads.state == State.PENDING) & uploads.claimed_by.is_null()
        is_other = (
            self._is_of_instance
            & (uploads.object_key == object_key)
            & (uploads.path != path)
            & uploads.state.in_([State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED])
            & (uploads.awaits_row == SQL("FALSE"))
        )
        query = self._select_beside(receipts.key_hash == key_hash, self.all_columns, is_other)
        return query.order_by(is_waiting, uploads.id).limit(1)

    @statement("list the URLs of a path")
    def _urls_of_path(self, *, path: Any, path_hash: Any) -> Any:
        uploads, receipts = self._uploads, self.database.tables.receipts
        has_url = self._in_instance & (uploads.path == path) & uploads.url.is_null(False)
        return self._select_beside(receipts.path_hash == path_hash, [uploads.url], has_url).distinct()

    @statement("find when the next upload is due")
    def _first_due(self, is_free: bool, *, state: Any, after: Any, until: Any) -> Any:
        uploads = self._uploads
        query: Any = uploads.select(uploads.due_at).where(*self._due_between(state, after, until))
        if is_free:
            query = query.where(uploads.claimed_until.is_null())
        return query.order_by(uploads.due_at).limit(1)

    @statement("find when a claim ends")
    def _claim_ends(self, *, state: Any, after: Any, until: Any, ended_at: Any) -> Any:
        uploads = self._uploads
        query: Any = uploads.select(uploads.claimed_until).where(*self._due_between(state, after, until))
        if ended_at is not None:
            query = query.where((uploads.claimed_by == self.worker) | (uploads.claimed_until <= ended_at))
        # In the order of the index and with a limit, or PostgreSQL may scan the whole table: its statistics
        # do not say that hardly any published row is among those that were due long ago.
        return query.order_by(uploads.due_at).limit(MAX_CLAIMS_READ)

    # Written

    @statement("look up a path")
    def _live_of_path(self, *, path: Any) -> Any:
        query = self._select(self._in_instance, self._is_live, self._uploads.path == path)
        # Waits for a concurrent transaction that releases the live upload, and sees its result.
        return query.for_update() if self.database.dialect is Dialect.POSTGRESQL else query

    @statement("look up the uploads of a video")
    def _others_of_video(self, *, video_id: Any) -> Any:
        uploads, receipts = self._uploads, self.database.tables.receipts
        counted = [State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]
        is_other = (uploads.video_id == video_id) & uploads.state.in_(counted)
        columns = [uploads.id, uploads.quality, uploads.state, uploads.turn]
        return self._select_beside(receipts.video_id == video_id, columns, is_other)

    @statement("add an upload")
    def _insert(self, **values: Any) -> Any:
        uploads = self._uploads
        query: Any = uploads.insert(assigned(uploads, {"instance": self.instance, **values}))
        return query.returning(*self.all_columns) if self.database.returns_rows else query

    @statement("read what can be claimed")
    def _select_claimable(
        self,
        limit: int,
        small_only: bool,
        turn: int | None,
        *,
        state: Any,
        after: Any,
        until: Any,
        other_than: Any,
        **limits: Any,
    ) -> Any:
        uploads = self._uploads
        query = self._select(*self._due_between(state, after, until), self._is_free(**limits))
        order: Sequence[Any] = (uploads.due_at, uploads.id)
        if small_only:
            # A literal, or SQLite would not find the partial index `uploads_due_small`.
            query = query.where(uploads.size <= SQL(str(SMALL_BYTES)))
        if turn is not None:
            query = query.where(uploads.turn < SQL(str(Turn.LATER.value)), uploads.turn == SQL(str(turn)))
        if other_than is not None:
            query = query.where(uploads.id.not_in(other_than))
            order = (uploads.due_at.desc(), uploads.id.desc())
        query = query.order_by(*order).limit(limit)
        if self.database.dialect is Dialect.POSTGRESQL:
            query = query.for_update(skip_locked=True)
        return query

    @statement("claim uploads")
    def _take(self, *, ids: Any, until: Any) -> Any:
        uploads = self._uploads
        values = {"claim": uploads.claim + 1, "claimed_by": self.worker, "claimed_until": until}
        return uploads.update(assigned(uploads, values)).where(uploads.id.in_(ids))

    @statement("renew claims")
    def _renew(self, *, ids: Any, state: Any, claim: Any, until: Any) -> Any:
        uploads = self._uploads
        is_valid = uploads.id.in_(ids) & (uploads.state == state) & (uploads.claim == claim)
        return uploads.update(assigned(uploads, {"claimed_until": until})).where(self._unlocked(is_valid))

    @statement("check a claim")
    def _fenced(self, *, number: Any, in_state: Any, at_claim: Any) -> Any:
        return self._uploads.select(self._uploads.id).where(*self._fence(number, in_state, at_claim))

    @statement("change an upload")
    def _update(
        self, ends_claim: bool, returns: bool, *, number: Any, in_state: Any, at_claim: Any, **values: Any
    ) -> Any:
        uploads = self._uploads
        query: Any = uploads.update(assigned(uploads, values | (self._end_of_claim if ends_claim else {})))
        query = query.where(*self._fence(number, in_state, at_claim))
        return query.returning(*self.all_columns) if returns else query

    @statement("record a newer catalog row")
    def _note_row(self, *, number: Any, row_id: Any, row_at: Any) -> Any:
        uploads = self._uploads
        is_older = uploads.catalog_row_at.is_null() | (uploads.catalog_row_at < row_at)
        values = assigned(uploads, {"catalog_row_id": row_id, "catalog_row_at": row_at})
        return uploads.update(values).where(self._in_instance, uploads.id == number, is_older)

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

    def _is_queued(self, state: Any) -> peewee.Expression:
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

    def _due_between(self, state: Any, after: Any, until: Any) -> tuple[Any, ...]:
        """True of what a stage may claim, and is due later than `after`, or at `until` or before."""
        due_at = self._uploads.due_at
        return self._is_queued(state), due_at <= until if after is None else due_at > after

    def _unlocked(self, condition: Any) -> Any:
        """True of the rows for which `condition` is, except those that another session has locked."""
        if self.database.dialect is Dialect.SQLITE:
            return condition
        uploads = self._uploads
        query: Any = uploads.select(uploads.id).where(condition)
        return uploads.id.in_(query.for_update(skip_locked=True))

    @staticmethod
    def _limits_of_claims(now: datetime, lease: timedelta) -> tuple[datetime, datetime, datetime]:
        """The arguments of `_is_free`: now, and after what times no claim, or none of this worker, can end.

        No claim lasts for more than `LONGEST_LEASE`, and none of this worker for more than `lease`. Twice
        that is allowed, because a claim that another thread made since `now` was read ends a moment after
        `now + lease`.
        """
        return now, now + max(lease, LONGEST_LEASE), now + 2 * lease

    def _is_free(self, now: Any, far: Any, own_far: Any) -> Any:
        """True of a row without a claim, or whose claim has expired.

        Also true if the claim was made before the clock was set back (`_limits_of_claims`).
        """
        claimed_by, until = self._uploads.claimed_by, self._uploads.claimed_until
        is_own = (claimed_by == self.worker) & (until > own_far)
        return until.is_null() | (until <= now) | (until > far) | is_own

    @property
    def _end_of_claim(self) -> dict[str, Any]:
        """Ends a claim and fences its holder off."""
        return {"claimed_by": None, "claimed_until": None, "claim": self._uploads.claim + 1}

    def _fence(self, number: Any, in_state: Any, at_claim: Any) -> tuple[Any, ...]:
        """True of the row only while it has the state and the claim number of an `Upload` (`fence_of`)."""
        uploads = self._uploads
        return uploads.id == number, uploads.state == in_state, uploads.claim == at_claim

    # Selected

    @property
    def all_columns(self) -> list[Any]:
        """The columns of `records`."""
        return [getattr(self._uploads, name) for name in UPLOAD_COLUMNS]

    def _select(self, *conditions: Any) -> Any:
        """A query for the uploads, with all columns, that meet all conditions."""
        return self._uploads.select(*self.all_columns).where(*conditions)

    def _select_beside(self, of_receipts: Any, columns: Sequence[Any], condition: Any) -> Any:
        """A query for whether any receipt meets a condition, and beside that the uploads that meet another.

        One statement sees an upload or its receipt. Without such an upload there is a row of NULLs.
        """
        receipts: Any = self.database.tables.receipts
        exists = fn.EXISTS(receipts.select(SQL("1")).where(of_receipts)).alias("has_receipts")
        known = peewee.Select(columns=[exists]).alias("known")
        beside: Any = peewee.Join(known, self._uploads, peewee.JOIN.LEFT_OUTER, condition)
        return self._uploads.select(known.c.has_receipts, *columns).from_(beside)

    def _beside_receipts(self, result: Result) -> tuple[Upload | None, bool]:
        """The first upload that `_select_beside` found, if any, and whether there are receipts."""
        has_receipts, *row = result.rows[0]
        return None if row[0] is None else next(self.records([row])), bool(has_receipts)

    def records(self, rows: Iterable[Sequence[Any]]) -> Iterator[Upload]:
        """The uploads of rows with all columns, in their order.

        Converts only the columns that need it; peewee would call a function for every value.
        """
        for row in rows:
            values = list(row)
            for place, convert in self._conversions:
                if values[place] is not None:
                    values[place] = convert(values[place])
            yield Upload(*values)


def fence_of(upload: Upload) -> dict[str, Any]:
    """The arguments of `Ledger._fence` for the row as it was when it was read."""
    return {"number": upload.id, "in_state": upload.state, "at_claim": upload.claim}


class UploadEvents:
    """Writes and reads the events of a database's uploads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._events = database.tables.events

    def append(
        self, upload_id: int, at: datetime, event: str, detail: str, *, may_repeat: bool = True
    ) -> None:
        """Append an event and delete the oldest ones beyond `EVENTS_KEPT`, but never the first.

        Deletes none for an event that cannot occur again without another one between. Raises DatabaseError.
        """
        with self.database.operation("append an upload's event"):
            self._insert.run(upload=upload_id, at=at, event=event, detail=detail)
            if may_repeat:
                self._delete_surplus.run(upload=upload_id)

    @statement("append an upload's event")
    def _insert(self, **values: Any) -> Any:
        return self._events.insert(assigned(self._events, values))

    @statement("delete an upload's oldest events")
    def _delete_surplus(self, *, upload: Any) -> Any:
        events = self._events
        of_upload = events.upload == upload
        numbers: Any = events.select(events.id).where(of_upload)
        oldest_kept = numbers.order_by(events.id.desc()).offset(EVENTS_KEPT - 2).limit(1)
        first = numbers.order_by(events.id).limit(1)
        return events.delete().where(of_upload, events.id < oldest_kept, events.id > first)

    def read(self, upload_id: int) -> list[UploadEvent]:
        """The upload's events, oldest first. Raises DatabaseError."""
        events = self._events
        query: Any = events.select(events.at, events.event, events.detail)
        query = query.where(events.upload == upload_id).order_by(events.id)
        with self.database.operation("read an upload's events"):
            return [UploadEvent(*row) for row in query.tuples()]
