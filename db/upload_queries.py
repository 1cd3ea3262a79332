"""The queries of the uploads, of which the frequent ones are rendered once, and the records of their rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import peewee
from peewee import SQL, fn

from db.database import Database
from db.fields import Dialect
from db.models import SMALL_BYTES
from db.records import (
    UPLOAD_COLUMNS,
    Turn,
    Upload,
    UploadEvent,
    hash_text,
    pack_receipt,
    receipt_events,
    unpack_receipt,
)
from db.statements import assigned, statement
from db.states import ENDED_STATES, State

EVENTS_KEPT = 100
"""How many events of an upload are kept: the first one and the newest."""
_EPOCH_DAY = date(1970, 1, 1).toordinal()

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
    def _newest_of_path(self, *, path: Any) -> Any:
        uploads = self._uploads
        return self._select(self._in_instance, uploads.path == path).order_by(uploads.id.desc()).limit(1)

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
    def _others_of_key(self, *, object_key: Any, path: Any) -> Any:
        uploads = self._uploads
        is_waiting = (uploads.state == State.PENDING) & uploads.claimed_by.is_null()
        query = self._select(
            self._is_of_instance,
            uploads.object_key == object_key,
            uploads.path != path,
            uploads.state.in_([State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]),
            uploads.awaits_row == SQL("FALSE"),
        )
        return query.order_by(is_waiting, uploads.id).limit(1)

    @statement("list the URLs of a path")
    def _urls_of_path(self, *, path: Any) -> Any:
        uploads = self._uploads
        query: Any = uploads.select(uploads.url).where(
            self._in_instance, uploads.path == path, uploads.url.is_null(False)
        )
        return query.distinct()

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
        uploads = self._uploads
        counted = [State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query: Any = uploads.select(uploads.id, uploads.quality, uploads.state, uploads.turn)
        return query.where(uploads.video_id == video_id, uploads.state.in_(counted))

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


class Receipts:
    """The released uploads that were folded: each is one packed row without events, of any instance.

    `uploads` is asked first, and what is found there comes first: an upload that is in both was unfolded to
    be changed, and one that is folded meanwhile is found here. Every method may raise DatabaseError.
    """

    def __init__(self, queries: UploadQueries) -> None:
        self.database = queries.database
        self.instance = queries.instance
        self._queries = queries
        self._uploads = self.database.tables.uploads
        self._rows = self.database.tables.receipts
        columns = self._rows.id, self._rows.instance, self._rows.video_id, self._rows.content
        self._columns = columns
        self._video: Callable[[Any], Any] = columns[2].python_value

    # Read

    def of_paths(self, paths: Sequence[str]) -> list[Upload]:
        """The receipts of these paths, oldest first."""
        found = self._of_paths.run(hashes=[hash_text(self.instance, path) for path in paths])
        wanted = set(paths)
        return [upload for upload in self._unpacked(found.rows, own=True) if upload.path in wanted]

    def of_keys(self, object_keys: Sequence[str]) -> list[Upload]:
        """The receipts of these object keys, of all instances, oldest first."""
        found = self._of_keys.run(hashes=[hash_text(key) for key in object_keys])
        wanted = set(object_keys)
        return [upload for upload in self._unpacked(found.rows) if upload.object_key in wanted]

    def by_ids(self, ids: Sequence[int]) -> list[Upload]:
        """The receipts with these ids, of all instances, oldest first."""
        return list(self._unpacked(self._by_ids.run(ids=list(ids)).rows))

    def page(
        self,
        limit: int | None,
        *,
        after: int | None = None,
        newest_first: bool = False,
        all_instances: bool = False,
        video_id: str | None = None,
    ) -> list[Upload]:
        """The receipts that follow the id `after`, in the order of their ids."""
        found = self._page.run(newest_first, all_instances, limit, after=after, video_id=video_id)
        return list(self._unpacked(found.rows))

    def events(self, upload_id: int) -> list[UploadEvent]:
        """The events from before the upload was folded."""
        for row in self._by_ids.run(ids=[upload_id]).rows:
            return receipt_events(*self._unpack(row))
        return []

    @statement("look up the receipts of paths")
    def _of_paths(self, *, hashes: Any) -> Any:
        rows = self._rows
        return rows.select(*self._columns).where(rows.path_hash.in_(hashes)).order_by(rows.id)

    @statement("look up the receipts of object keys")
    def _of_keys(self, *, hashes: Any) -> Any:
        rows = self._rows
        return rows.select(*self._columns).where(rows.key_hash.in_(hashes)).order_by(rows.id)

    @statement("read receipts")
    def _by_ids(self, *, ids: Any) -> Any:
        rows = self._rows
        return rows.select(*self._columns).where(rows.id.in_(ids)).order_by(rows.id)

    @statement("list receipts")
    def _page(
        self, newest_first: bool, all_instances: bool, limit: int | None, *, after: Any, video_id: Any
    ) -> Any:
        rows = self._rows
        query: Any = rows.select(*self._columns)
        if not all_instances:
            query = query.where(rows.instance == self.instance)
        if video_id is not None:
            query = query.where(rows.video_id == video_id)
        if after is not None:
            query = query.where(rows.id < after if newest_first else rows.id > after)
        return query.order_by(rows.id.desc() if newest_first else rows.id).limit(limit)

    def _unpacked(self, rows: Iterable[Sequence[Any]], *, own: bool = False) -> Iterator[Upload]:
        return (self._unpack(row)[0] for row in rows if not own or row[1] == self.instance)

    def _unpack(self, row: Sequence[Any]) -> tuple[Upload, list[Any]]:
        number, instance, video_id, content = row
        return unpack_receipt(number, instance, self._video(video_id), content)

    # Written

    def fold(self, limit: int) -> int:
        """Replace at most `limit` released uploads by receipts, in one transaction; returns how many.

        None that is claimed or has a multipart upload, and never the newest upload of the table: SQLite
        numbers the next one from it.
        """
        uploads, rows, events = self._uploads, self._rows, self.database.tables.events
        is_done = (
            (uploads.instance == self.instance)
            & (uploads.state == State.RELEASED)
            & (uploads.awaits_row == SQL("FALSE"))
            & uploads.claimed_until.is_null()
            & uploads.multipart_id.is_null()
            & (uploads.id < uploads.select(fn.MAX(uploads.id)))
        )
        with self.database.transaction("fold uploads"), self.database.operation("fold uploads") as db:
            query: Any = self._uploads.select(*self._queries.all_columns).where(is_done).limit(limit)
            if self.database.dialect is Dialect.POSTGRESQL:
                query = query.for_update(skip_locked=True)
            folded = list(self._queries.records(db.execute(query).fetchall()))
            if not folded:
                return 0
            ids = [upload.id for upload in folded]
            told: dict[int, list[UploadEvent]] = {upload.id: [] for upload in folded}
            earlier = self._by_ids.run(ids=ids).rows
            for row in earlier:
                told[row[0]] += receipt_events(*self._unpack(row))
            of_folded: Any = events.select(events.upload, events.at, events.event, events.detail)
            for number, *event in of_folded.where(events.upload.in_(ids)).order_by(events.id).tuples():
                told[number].append(UploadEvent(*event))
            if earlier:
                rows.delete().where(rows.id.in_([row[0] for row in earlier])).execute()
            rows.insert_many([self._row_of(upload, told[upload.id]) for upload in folded]).execute()
            events.delete().where(events.upload.in_(ids)).execute()
            uploads.delete().where(uploads.id.in_(ids)).execute()
            self._count(len(ids), sum(upload.size for upload in folded))
        return len(ids)

    def unfold(self, upload_id: int) -> None:
        """Make a folded upload of this instance a row of `uploads` again, to be changed.

        The receipt stays, so that one who reads both tables finds the upload at any time. To be called in a
        transaction.
        """
        # Locked, because another daemon of a shared directory may fold or unfold it.
        if self._lock_upload.run(number=upload_id).rows:
            return
        for row in self._lock_receipt.run(number=upload_id).rows:
            upload, _ = self._unpack(row)
            if upload.instance == self.instance and not self._lock_upload.run(number=upload_id).rows:
                self._restore(upload)

    def keep_numbers(self) -> None:
        """Make the newest receipt a row of `uploads` again if no row there is newer.

        For after rows were deleted: SQLite numbers new ones from the newest, whatever receipts there are.
        """
        rows = self._rows
        newest: Any = rows.select(*self._columns).order_by(rows.id.desc()).limit(1)
        for row in newest.tuples():
            last = self._uploads.select(fn.MAX(self._uploads.id)).scalar()
            if last is None or last < row[0]:
                self._restore(self._unpack(row)[0])

    def _restore(self, upload: Upload) -> None:
        self._uploads.insert({name: getattr(upload, name) for name in UPLOAD_COLUMNS}).execute()
        self._count(-1, -upload.size, instance=upload.instance)

    @statement("lock an upload")
    def _lock_upload(self, *, number: Any) -> Any:
        return self._locked(self._uploads.select(self._uploads.id).where(self._uploads.id == number))

    @statement("lock a receipt")
    def _lock_receipt(self, *, number: Any) -> Any:
        return self._locked(self._rows.select(*self._columns).where(self._rows.id == number))

    def _locked(self, query: Any) -> Any:
        return query.for_update() if self.database.dialect is Dialect.POSTGRESQL else query

    def expired(self, before: datetime, *, after: int, limit: int) -> list[Upload]:
        """The receipts of this instance of files released before that day, from the one that follows `after`.

        None of an upload that a row of the compressor's catalog shows or has shown: the object is deleted
        some time after the row.
        """
        rows = self._rows
        query: Any = rows.select(*self._columns).where(
            rows.instance == self.instance,
            rows.id > after,
            rows.released_day < _day(before),
            self._is_unneeded,
        )
        with self.database.operation("find receipts that have expired"):
            return list(self._unpacked(query.order_by(rows.id).limit(limit).tuples()))

    def delete(self, expired: Iterable[Upload]) -> int:
        """Delete receipts that are needed no longer; returns how many. Leaves what was unfolded meanwhile."""
        rows, uploads = self._rows, self._uploads
        sizes = {upload.id: upload.size for upload in expired}
        with self.database.transaction("delete receipts"):
            # Locked by one statement and looked at by the next, which sees what was committed in between.
            locked = self._locked(rows.select(rows.id).where(rows.id.in_(list(sizes))))
            ids = [number for (number,) in locked.tuples()]
            unfolded: Any = uploads.select(uploads.id).where(uploads.id == rows.id)
            deletable: Any = rows.select(rows.id).where(
                rows.id.in_(ids), self._is_unneeded, ~fn.EXISTS(unfolded)
            )
            deleted = [number for (number,) in deletable.tuples()]
            rows.delete().where(rows.id.in_(deleted)).execute()
            self._count(-len(deleted), -sum(sizes[number] for number in deleted))
        return len(deleted)

    @property
    def _is_unneeded(self) -> Any:
        shown, orphans = self.database.tables.publications, self.database.tables.orphans
        of_row = [
            table.select(table.upload).where(table.upload == self._rows.id) for table in (shown, orphans)
        ]
        return ~fn.EXISTS(of_row[0]) & ~fn.EXISTS(of_row[1])

    def _count(self, number: int, size: int, *, instance: str | None = None) -> None:
        """Count receipts and the bytes of their files, as triggers do the uploads."""
        counts, state = self.database.tables.state_counts, State.RELEASED.value
        counts.insert(instance=instance or self.instance, state=state, uploads=number, size=size).execute()

    @staticmethod
    def _row_of(upload: Upload, events: Sequence[UploadEvent]) -> dict[str, Any]:
        kept = [*events[:1], *events[1:][-(EVENTS_KEPT - 1) :]]
        return {
            "id": upload.id,
            "instance": upload.instance,
            "video_id": upload.video_id,
            "path_hash": hash_text(upload.instance, upload.path),
            "key_hash": hash_text(upload.object_key),
            "released_day": _day(upload.released_at or upload.changed_at),
            "content": pack_receipt(upload, kept),
        }


def _day(time: datetime) -> int:
    """The day of a time, in UTC, in days since the epoch."""
    return time.toordinal() - _EPOCH_DAY
