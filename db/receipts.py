"""Receipts: the released uploads that were folded into one packed row each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

from peewee import SQL, fn

from db.fields import Dialect
from db.records import (
    UPLOAD_COLUMNS,
    Upload,
    UploadEvent,
    hash_text,
    pack_receipt,
    receipt_events,
    unpack_receipt,
)
from db.statements import statement
from db.states import State
from db.upload_queries import EVENTS_KEPT, UploadQueries

_EPOCH_DAY = date(1970, 1, 1).toordinal()


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
