"""The compressor's table `video_qualities`: its rows are read, and only their `url` is ever changed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import SQL, Case, Entity, NodeList, chunked, fn

from db.catalog.own_catalog import PAGE, iter_with_url_prefix
from db.connection_url import SNAPSHOT
from db.database import Database
from db.errors import LockNotAvailableError
from db.models import SIGHTINGS
from db.receipts import Receipts
from db.records import CatalogRow, Upload
from db.statements import assigned, statement
from db.states import State
from db.upload_queries import UploadQueries

MAX_ZONE_DIFFERENCE = timedelta(hours=26)
"""Between the local times of two places at one moment: UTC+14 and UTC-12."""

_TICK = timedelta(microseconds=1)
_INSERTED_AT_ONCE = 1_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_FIRST_TIME, _LAST_TIME = SQL("'0001-01-03'"), SQL("'9999-12-29'")
_COLUMNS = ("id", "video_id", "quality", "url", "status", "file_size", "created_at", "updated_at")
_TEXTS = ("quality", "url", "status")
_TIMES = ("created_at", "updated_at")
_LOCK_HOLDERS = (
    "SELECT DISTINCT pid, usename, application_name"
    " FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity USING (pid)"
    " WHERE transactionid::text = ANY(%s) AND granted AND pid <> pg_backend_pid()"
)


class CompressorTable:
    """The rows of `video_qualities`, and how they relate to the uploads of one instance in the same database.

    The compressor's times have no time zone; they are read in the server's. So they do not tell which of two
    rows is older if they are close: an hour is repeated when daylight saving time ends, and a compressor may
    be in another zone, or have been. There a row is newer than those that were seen before it existed, and
    has a `CatalogRow.order_time` after theirs.

    No value of a row makes reading it fail: see `CatalogRow.oddity`. Every method may raise DatabaseError.
    """

    def __init__(self, database: Database, instance: str) -> None:
        self.database = database
        self._queries = UploadQueries(database, instance, instance)
        self._receipts = Receipts(self._queries)
        self._instance = instance
        self._rows = database.tables.compressor_rows
        self._uploads = database.tables.uploads
        self._sightings = database.tables.sightings
        self._has_sightings = False

    def rows_of_video(self, video_id: str, *, record: bool = False) -> list[CatalogRow]:
        """The rows of a video, oldest first; `record` says whether to record the order of new ones.

        Before the migration that adds the sightings, which also `doctor` and a dry run may precede, the
        order is that of the clock.
        """
        if not self._has_sightings:
            with self.database.operation("inspect the compressor's catalog") as connected:
                self._has_sightings = connected.table_exists(SIGHTINGS, schema=self.database.schema)
        found = [_row(row) for row in self._of_videos.run(self._has_sightings, videos=[video_id]).rows]
        return _sorted(self._placed(found, record=record)) if self._has_sightings else _sorted(found)

    @statement("read the compressor's catalog")
    def _of_videos(self, has_sightings: bool, *, videos: Any) -> Any:
        rows, seen = self._rows, self._sightings
        columns = list(self._columns().values())
        query: Any = rows.select(*columns)
        if has_sightings:
            query = rows.select(*columns, seen.ordered_at)
            query = query.left_outer_join(seen, on=seen.row_id == rows.id)
        return query.where(rows.video_id.in_(videos))

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:
        """The rows of all videos whose URL begins with `prefix`, read one page at a time."""
        for values in iter_with_url_prefix(self.database, self._select(), self._rows, prefix):
            yield _row(list(values.values()))

    def ready_rows(self, videos: Sequence[str]) -> Iterator[CatalogRow]:
        """The ready rows of these videos, one query for every page of videos."""
        for start in range(0, len(videos), PAGE):
            of_page = self._rows.video_id.in_(videos[start : start + PAGE])
            with self.database.operation("read the ready rows of videos"):
                found = list(self._select().where(self._rows.status == "ready", of_page).tuples())
            yield from map(_row, found)

    def unshown_rows(self, after: str | None) -> tuple[list[CatalogRow], str | None]:
        """The ready rows that nothing was published onto, among the `PAGE` rows with ids above `after`.

        Also returns the id above which the next page begins; None after the last one.
        """
        rows, shown = self._rows, self.database.tables.publications
        page: Any = rows.select(rows.id).order_by(rows.id).limit(PAGE)
        with self.database.operation("read ready rows that show no object"):
            ids = list((page if after is None else page.where(rows.id > after)).scalars())
            if not ids:
                return [], None
            published: Any = shown.select(shown.row_id).where(shown.row_id == rows.id)
            in_page: Any = (rows.id.between(ids[0], ids[-1]), rows.status == "ready")
            found = [_row(row) for row in self._select().where(*in_page, ~fn.EXISTS(published)).tuples()]
        return found, str(ids[-1]) if len(ids) == PAGE else None

    def unrecorded_rows(self, prefix: str) -> int:
        """How many ready rows with such a URL are not in the ledger, and changed after all that are.

        Scans the whole table.
        """
        rows, shown = self._rows, self.database.tables.publications
        last: Any = shown.select(fn.COALESCE(fn.MAX(shown.published_at), SQL("'-infinity'")))
        recorded: Any = shown.select(shown.row_id).where(shown.row_id == rows.id)
        query: Any = rows.select().where(
            rows.status == "ready",
            fn.SUBSTR(rows.url, 1, len(prefix)) == prefix,
            rows.updated_at.cast("timestamptz") > last,
            ~fn.EXISTS(recorded),
        )
        with self.database.operation("look for publications that are not in the ledger"):
            return int(query.count())

    def rows_of_waiting(
        self, *, since: datetime | None = None, before: int | None = None, limit: int
    ) -> list[tuple[Upload, list[CatalogRow]]]:
        """The uploads at the catalog gate, each with all rows of its video: one query that indexes answer.

        Reads the newest `limit` uploads, in the order of their ids, of those with ids below `before` whose
        wait began at `since` or later. Records the order of rows that were not seen before.
        """
        with self.database.operation("read uploads with their catalog rows"):
            found = self._waiting.run(limit, since=since, before=before).rows
            return self._with_rows(found, record=True)

    def rows_of_uploads(self, upload_ids: Collection[int]) -> list[tuple[Upload, list[CatalogRow]]]:
        """The uploads with these ids, each with all rows of its video: one query that indexes answer."""
        with self.database.operation("read uploads with their catalog rows") as connected:
            found = connected.execute(self._uploads_with_rows(list(upload_ids))).fetchall()
            present = self._with_rows(found, record=False)
            missing = set(upload_ids) - {upload.id for upload, _ in present}
            released = self._receipts.by_ids(sorted(missing)) if missing else []
            of_videos: dict[str, list[CatalogRow]] = defaultdict(list)
            if released:
                videos = sorted({upload.video_id for upload in released})
                rows = [_row(values) for values in self._of_videos.run(True, videos=videos).rows]
                for row in _sorted(self._placed(rows, record=False)):
                    of_videos[row.video_id].append(row)
        return present + [(upload, of_videos[upload.video_id]) for upload in released]

    @statement("read uploads with their catalog rows")
    def _waiting(self, limit: int, *, since: Any, before: Any) -> Any:
        uploads = self._uploads
        page: Any = uploads.select(uploads.id).where(
            uploads.instance == self._instance,
            uploads.awaits_row == SQL("TRUE"),
            uploads.state == State.PENDING,
        )
        if since is not None:
            page = page.where(uploads.due_at >= since)
        if before is not None:
            page = page.where(uploads.id < before)
        return self._uploads_with_rows(page.order_by(uploads.id.desc()).limit(limit))

    def _uploads_with_rows(self, upload_ids: Any) -> Any:
        """A query for the uploads that a list or a query of ids selects, each with all rows of its video."""
        uploads, rows, seen = self._uploads, self._rows, self._sightings
        return (
            uploads.select(*self._queries.all_columns, *self._columns().values(), seen.ordered_at)
            .left_outer_join(rows, on=rows.video_id == uploads.video_id)
            .left_outer_join(seen, on=seen.row_id == rows.id)
            .where(uploads.id.in_(upload_ids))
            .order_by(uploads.id)
        )

    def _with_rows(
        self, found: Iterable[tuple[Any, ...]], *, record: bool
    ) -> list[tuple[Upload, list[CatalogRow]]]:
        """The uploads and rows that `_uploads_with_rows` has found."""
        width = len(self._queries.all_columns)
        of_uploads: dict[int, tuple[Upload, list[CatalogRow]]] = {}
        for values in found:
            number = values[0]
            if number not in of_uploads:
                of_uploads[number] = (next(self._queries.records([values[:width]])), [])
            if values[width] is not None:
                of_uploads[number][1].append(_row(values[width:]))
        every = {row.id: row for _, of_video in of_uploads.values() for row in of_video}
        placed = {row.id: row for row in self._placed(every.values(), record=record)}
        return [(upload, _sorted(placed[row.id] for row in rows)) for upload, rows in of_uploads.values()]

    def known_videos(self, states: Collection[State], *, after: str | None, limit: int) -> list[str]:
        """The ids of at most `limit` videos that have an upload in one of the states, in order.

        An index answers it. `after` is the last id of the previous page.
        """
        found = set[str]()
        with self.database.operation("list the known videos"):
            for table, query in self._video_queries(states):
                following = query if after is None else query.where(table.video_id > after)
                found.update(following.distinct().order_by(table.video_id).limit(limit).scalars())
        return sorted(found)[:limit]

    def unpublished_rows(
        self, states: Collection[State], videos: Collection[str] | None = None
    ) -> dict[str, list[CatalogRow]]:
        """The ready rows that do not have the URL last published onto them, if any was, by video id.

        Reads the rows of `videos`, by the compressor's index of `video_id`; by default those of all videos
        that have an upload in one of the states, which reads the whole table.
        """
        found: dict[str, list[CatalogRow]] = {}
        of_videos = None if videos is None else list(videos)
        for values in self._unpublished.run(frozenset(states), videos=of_videos).rows:
            row = _row(values)
            found.setdefault(row.video_id, []).append(row)
        return found

    @statement("compare the catalog with what was published")
    def _unpublished(self, states: Collection[State], *, videos: Any) -> Any:
        rows, shown = self._rows, self.database.tables.publications
        of_videos = rows.video_id.in_(self._videos(states) if videos is None else videos)
        as_published: Any = shown.select(shown.row_id).where(shown.row_id == rows.id, shown.url == rows.url)
        return self._select().where(rows.status == "ready", of_videos, ~fn.EXISTS(as_published))

    def reverted_rows(self, since: datetime) -> list[CatalogRow]:
        """The ready rows that were published onto after `since` and have another URL again."""
        rows, shown = self._rows, self.database.tables.publications
        query = (
            self._select()
            .join(shown, on=shown.row_id == rows.id)
            .where(
                shown.instance == self._instance,
                shown.published_at >= since,
                rows.status == "ready",
                rows.url.is_null() | (rows.url != shown.url),
            )
        )
        with self.database.operation("compare the rows published lately with the catalog"):
            return [_row(values) for values in query.tuples()]

    def set_url(self, read: Iterable[CatalogRow], url: str) -> int:
        """Set the URL of rows, each only if it has not changed since it was read; returns how many.

        Locks these rows until the end of the transaction. Waits for no lock, because only sessions that wait
        take part in a deadlock, and the compressor updates several rows in one transaction. Raises
        LockNotAvailableError.
        """
        changed = 0
        read = sorted(read, key=lambda row: row.id)
        if not read:
            return 0
        with self.database.transaction("publish a URL in the compressor's catalog"):
            self._lock.run(ids=[row.id for row in read])
            for row in read:
                changed += self._set_one.run(
                    number=row.id, status=row.status, present_url=row.url, url=url
                ).changed
        return changed

    @statement("publish a URL in the compressor's catalog")
    def _lock(self, *, ids: Any) -> Any:
        rows = self._rows
        locking: Any = rows.select(rows.id).where(rows.id.in_(ids)).order_by(rows.id)
        return locking.for_update("FOR NO KEY UPDATE", nowait=True)

    @statement("publish a URL in the compressor's catalog")
    def _set_one(self, *, number: Any, status: Any, present_url: Any, url: Any) -> Any:
        rows = self._rows
        as_read = (rows.id == number, rows.status == status, fn.COALESCE(rows.url, "") == present_url)
        return rows.update(assigned(rows, {"url": url})).where(*as_read)

    def lock_holders(self, read: Iterable[CatalogRow]) -> list[str]:
        """The other sessions that have locked one of the rows, as phrases; those that can be found.

        A row's `xmax` is the transaction that has locked it (PostgreSQL, "System Columns"), unless several
        share the lock.
        """
        rows = self._rows
        locking: Any = rows.select(SQL("xmax::text")).where(rows.id.in_([row.id for row in read]))
        with self.database.operation("find who has locked a row") as connected:
            found = connected.execute_sql(_LOCK_HOLDERS, ([xmax for (xmax,) in locking.tuples()],)).fetchall()
        return [
            f"process {pid} of the database (user {user}, application {application or 'unnamed'})"
            for pid, user, application in found
        ]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction in which every query sees the table as it was at the first one."""
        operation = "read the compressor's catalog at one moment"
        with self.database.transaction(operation, isolation=SNAPSHOT):
            yield

    def count(self) -> int:
        """The number of all rows. Scans the whole table."""
        with self.database.operation("count the compressor's rows"):
            return int(self._rows.select().count())

    def shown_urls(self, urls: Collection[str]) -> set[str]:
        """Those of the URLs that any row of any video has. Scans the whole table, once for all URLs."""
        query = NodeList(
            (
                SQL("SELECT DISTINCT shown.url FROM"),
                Entity(self.database.catalog_schema, "video_qualities"),
                SQL(
                    "AS shown JOIN unnest(%s::text[]) AS asked (url) ON asked.url = shown.url", [sorted(urls)]
                ),
            )
        )
        with self.database.operation("check which URLs rows show") as connected:
            return {url for (url,) in connected.execute(query).fetchall()}

    def can_set_url(self) -> bool:
        """Whether the database user has the privilege to update `url`."""
        return bool(self._inspect("SELECT has_column_privilege({table}::regclass, 'url', 'UPDATE')"))

    def has_video_index(self) -> bool:
        """Whether a valid, not partial index has `video_id` as its first column."""
        return bool(
            self._inspect(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a"
                " ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
                " WHERE i.indrelid = {table}::regclass AND a.attname = 'video_id'"
                " AND i.indisvalid AND i.indpred IS NULL)"
            )
        )

    def _inspect(self, query: str) -> object:
        """The result of a query, of one value, about the table itself."""
        table = f'"{self.database.catalog_schema}"."video_qualities"'
        with self.database.operation("inspect the compressor's table") as connected:
            (value,) = connected.execute_sql(query.format(table="%s"), (table,)).fetchone()
        return value

    def _placed(self, rows: Collection[CatalogRow], *, record: bool) -> list[CatalogRow]:
        """These rows, which are all of one or several videos, each with its `ordered_at`."""
        new = sorted((row for row in rows if row.ordered_at is None), key=lambda row: row.age_order)
        if not new:
            return list(rows)
        placed = _order_times(new, self._order_times_of_videos({row.video_id for row in new}))
        if record:
            # A session that has locked such a row records it, too.
            with (
                suppress(LockNotAvailableError),
                self.database.transaction("record the order of catalog rows"),
            ):
                for some in chunked(sorted(new, key=lambda row: row.id), _INSERTED_AT_ONCE):
                    self._record_sightings.run(
                        row_id=[row.id for row in some],
                        video_id=[row.video_id for row in some],
                        ordered_at=[placed[row.id] for row in some],
                    )
        return [replace(row, ordered_at=placed.get(row.id, row.ordered_at)) for row in rows]

    def _order_times_of_videos(self, videos: Collection[str]) -> dict[str, list[datetime]]:
        """The order times of all rows of the videos that were ever seen; some may have been deleted."""
        found: dict[str, list[datetime]] = defaultdict(list)
        for video_id, ordered_at in self._sightings_of.run(videos=list(videos)).rows:
            found[str(video_id)].append(ordered_at.astimezone(UTC))
        return found

    @statement("record the order of catalog rows")
    def _record_sightings(self, **columns: Any) -> Any:
        seen = self._sightings
        rows = [
            assigned(seen, dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]
        return seen.insert_many(rows).on_conflict_ignore()

    @statement("read the order of catalog rows")
    def _sightings_of(self, *, videos: Any) -> Any:
        seen = self._sightings
        return seen.select(seen.video_id, seen.ordered_at).where(seen.video_id.in_(videos))

    def _videos(self, states: Collection[State]) -> Any:
        """A query for the ids of the videos that have an upload in one of the states."""
        (_, first), *others = self._video_queries(states)
        return first if not others else first | others[0][1]

    def _video_queries(self, states: Collection[State]) -> list[tuple[Any, Any]]:
        """The tables with uploads in the states, and a query of each for the ids of their videos."""
        uploads, receipts = self._uploads, self.database.tables.receipts
        query: Any = uploads.select(uploads.video_id)
        query = query.where(uploads.instance == self._instance, uploads.state.in_(sorted(states)))
        if State.RELEASED not in states:
            return [(uploads, query)]
        released: Any = receipts.select(receipts.video_id).where(receipts.instance == self._instance)
        return [(uploads, query), (receipts, released)]

    def _select(self) -> Any:
        return self._rows.select(*(column.alias(name) for name, column in self._columns().items()))

    def _columns(self) -> dict[str, Any]:
        rows = self._rows
        columns = {name: getattr(rows, name) for name in _COLUMNS}
        return columns | {name: _representable(columns[name]) for name in _TIMES}


def _representable(column: Any) -> Any:
    """A time with its zone; NULL if it is infinite or, in any zone, outside of the years 1 to 9999.

    PostgreSQL has such times and Python's `datetime` does not: the driver fails to load them.
    """
    return Case(None, [(column.between(_FIRST_TIME, _LAST_TIME), column.cast("timestamptz"))])


def _order_times(new: Sequence[CatalogRow], seen: Mapping[str, Sequence[datetime]]) -> dict[str, datetime]:
    """The order times of rows that have none yet, sorted by their clock, by id.

    `seen` are those of the rows seen earlier, by video id. Of several new rows the clock decides.
    """
    placed: dict[str, datetime] = {}
    before: dict[str, CatalogRow] = {}
    for row in new:
        near = [time for time in seen.get(row.video_id, ()) if time <= row.created_at + MAX_ZONE_DIFFERENCE]
        time = max([row.created_at, *(earlier + _TICK for earlier in near)])
        previous = before.get(row.video_id)
        if previous is not None and previous.created_at < row.created_at:
            time = max(time, placed[previous.id] + _TICK)
        placed[row.id] = time
        before[row.video_id] = row
    return placed


def _row(values: Sequence[Any]) -> CatalogRow:
    """The row of the values of `CompressorTable._columns`, and of its `ordered_at` if that was read."""
    found = dict(zip((*_COLUMNS, "ordered_at"), values, strict=False))
    times = {name: (found[name] or _EPOCH).astimezone(UTC) for name in _TIMES}
    ids = {name: str(found[name]) for name in ("id", "video_id")}
    texts = {name: found[name] or "" for name in _TEXTS}
    odd = [name for name in (*_TEXTS, *_TIMES) if not found[name]]
    oddity = f"It has no usable value in {', '.join(odd)}." if odd else None
    if ordered_at := found.get("ordered_at"):
        found["ordered_at"] = ordered_at.astimezone(UTC)
    return CatalogRow(**found | times | ids | texts, oddity=oddity)


def _sorted(rows: Iterable[CatalogRow]) -> list[CatalogRow]:
    return sorted(rows, key=lambda row: row.age_order)
