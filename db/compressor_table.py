"""The compressor's table `video_qualities`: its rows are read, and only their `url` is ever changed."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from peewee import SQL, Case, fn

from db.catalog import PAGE, iter_with_url_prefix
from db.database import Database
from db.records import CatalogRow, Upload
from db.states import State

_EPOCH = datetime.fromtimestamp(0, UTC)
_FIRST_TIME, _LAST_TIME = SQL("'0001-01-03'"), SQL("'9999-12-29'")
_TEXTS = ("quality", "url", "status")
_TIMES = ("created_at", "updated_at")
_LOCK_HOLDERS = (
    "SELECT DISTINCT pid, usename, application_name"
    " FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity USING (pid)"
    " WHERE transactionid::text = ANY(%s) AND granted AND pid <> pg_backend_pid()"
)


class CompressorTable:
    """The rows of `video_qualities`, and how they relate to the uploads of one instance in the same database.

    The compressor's times have no time zone; they are read in the server's. No value of a row makes reading
    it fail: see `CatalogRow.oddity`. Every method may raise DatabaseError.
    """

    def __init__(self, database: Database, instance: str) -> None:
        self._database = database
        self._instance = instance
        self._rows = database.tables.compressor_rows
        self._uploads = database.tables.uploads

    def rows_of_video(self, video_id: str) -> list[CatalogRow]:
        """The rows of a video, oldest first."""
        query = self._select().where(self._rows.video_id == video_id)
        with self._database.operation("read the compressor's catalog"):
            return _sorted(_row(values) for values in query.dicts())

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:
        """The rows of all videos whose URL begins with `prefix`, read one page at a time."""
        for values in iter_with_url_prefix(self._database, self._select(), self._rows, prefix):
            yield _row(values)

    def ready_rows(self, videos: Sequence[str]) -> Iterator[CatalogRow]:
        """The ready rows of these videos, one query for every page of videos."""
        for start in range(0, len(videos), PAGE):
            of_page = self._rows.video_id.in_(videos[start : start + PAGE])
            with self._database.operation("read the ready rows of videos"):
                found = list(self._select().where(self._rows.status == "ready", of_page).dicts())
            yield from map(_row, found)

    def unrecorded_rows(self, prefix: str) -> int:
        """How many ready rows with such a URL are not in the ledger, and changed after all that are.

        Scans the whole table.
        """
        rows, shown = self._rows, self._database.tables.publications
        last: Any = shown.select(fn.COALESCE(fn.MAX(shown.published_at), SQL("'-infinity'")))
        recorded: Any = shown.select(shown.row_id).where(shown.row_id == rows.id)
        query: Any = rows.select().where(
            rows.status == "ready",
            fn.SUBSTR(rows.url, 1, len(prefix)) == prefix,
            rows.updated_at.cast("timestamptz") > last,
            ~fn.EXISTS(recorded),
        )
        with self._database.operation("look for publications that are not in the ledger"):
            return int(query.count())

    def rows_of_waiting(
        self, *, since: datetime | None = None, after: int = 0, limit: int
    ) -> list[tuple[Upload, list[CatalogRow]]]:
        """The uploads at the catalog gate, each with all rows of its video: one query that indexes answer.

        Reads at most `limit` uploads with ids above `after`, only those whose wait began at `since` or later.
        """
        uploads, rows = self._uploads, self._rows
        page: Any = uploads.select(uploads.id).where(
            uploads.instance == self._instance,
            uploads.awaits_row == SQL("TRUE"),
            uploads.state == State.PENDING,
            uploads.id > after,
        )
        if since is not None:
            page = page.where(uploads.due_at >= since)
        page = page.order_by(uploads.id).limit(limit)
        columns = [column.alias(f"row_{name}") for name, column in self._columns().items()]
        query: Any = (
            uploads.select(uploads, *columns)
            .left_outer_join(rows, on=rows.video_id == uploads.video_id)
            .where(uploads.id.in_(page))
            .order_by(uploads.id)
        )
        found: dict[int, tuple[Upload, list[CatalogRow]]] = {}
        with self._database.operation("read the catalog rows of waiting uploads"):
            for values in query.dicts():
                of_row = {name: values.pop(f"row_{name}") for name in self._columns()}
                entry = found.setdefault(values["id"], (Upload(**values), []))
                if of_row["id"] is not None:
                    entry[1].append(_row(of_row))
        return [(upload, _sorted(of_video)) for upload, of_video in found.values()]

    def unpublished_rows(self, states: Collection[State]) -> dict[str, list[CatalogRow]]:
        """The ready rows that do not have the URL last published onto them, if any was, by video id.

        Reads only videos that have an upload in one of the states.
        """
        uploads, rows, shown = self._uploads, self._rows, self._database.tables.publications
        videos: Any = uploads.select(uploads.video_id).where(
            uploads.instance == self._instance, uploads.state.in_(sorted(states))
        )
        as_published: Any = shown.select(shown.row_id).where(shown.row_id == rows.id, shown.url == rows.url)
        query = self._select().where(
            rows.status == "ready", rows.video_id.in_(videos), ~fn.EXISTS(as_published)
        )
        found: dict[str, list[CatalogRow]] = {}
        with self._database.operation("compare the catalog with what was published"):
            for values in query.dicts():
                row = _row(values)
                found.setdefault(row.video_id, []).append(row)
        return found

    def reverted_rows(self, since: datetime) -> list[CatalogRow]:
        """The ready rows that were published onto after `since` and have another URL again."""
        rows, shown = self._rows, self._database.tables.publications
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
        with self._database.operation("compare the rows published lately with the catalog"):
            return [_row(values) for values in query.dicts()]

    def set_url(self, read: Iterable[CatalogRow], url: str) -> int:
        """Set the URL of rows, each only if it has not changed since it was read; returns how many.

        Locks these rows until the end of the transaction. Waits for no lock, because only sessions that wait
        take part in a deadlock, and the compressor updates several rows in one transaction. Raises
        LockNotAvailableError.
        """
        rows = self._rows
        changed = 0
        read = sorted(read, key=lambda row: row.id)
        locking: Any = rows.select(rows.id).where(rows.id.in_([row.id for row in read])).order_by(rows.id)
        with self._database.transaction("publish a URL in the compressor's catalog"):
            list(locking.for_update("FOR NO KEY UPDATE", nowait=True).tuples())
            for row in read:
                as_read = (rows.id == row.id, rows.status == row.status, fn.COALESCE(rows.url, "") == row.url)
                changed += int(rows.update(url=url).where(*as_read).execute())
        return changed

    def lock_holders(self, read: Iterable[CatalogRow]) -> list[str]:
        """The other sessions that have locked one of the rows, as phrases; those that can be found.

        A row's `xmax` is the transaction that has locked it (PostgreSQL, "System Columns"), unless several
        share the lock.
        """
        rows = self._rows
        locking: Any = rows.select(SQL("xmax::text")).where(rows.id.in_([row.id for row in read]))
        with self._database.operation("find who has locked a row") as connected:
            found = connected.execute_sql(_LOCK_HOLDERS, ([xmax for (xmax,) in locking.tuples()],)).fetchall()
        return [
            f"process {pid} of the database (user {user}, application {application or 'unnamed'})"
            for pid, user, application in found
        ]

    def any_row_shows(self, urls: Sequence[str]) -> bool:
        """Whether any row of any video has one of the URLs. Scans the whole table."""
        query: Any = self._rows.select(self._rows.id).where(self._rows.url.in_(list(urls))).limit(1)
        with self._database.operation("check whether a row shows an object"):
            return query.scalar() is not None

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
        table = f'"{self._database.catalog_schema}"."video_qualities"'
        with self._database.operation("inspect the compressor's table") as connected:
            (value,) = connected.execute_sql(query.format(table="%s"), (table,)).fetchone()
        return value

    def _select(self) -> Any:
        return self._rows.select(*(column.alias(name) for name, column in self._columns().items()))

    def _columns(self) -> dict[str, Any]:
        rows = self._rows
        plain = (rows.id, rows.video_id, rows.quality, rows.url, rows.status, rows.file_size)
        times = {column.name: _representable(column) for column in (rows.created_at, rows.updated_at)}
        return {column.name: column for column in plain} | times


def _representable(column: Any) -> Any:
    """A time with its zone; NULL if it is infinite or, in any zone, outside of the years 1 to 9999.

    PostgreSQL has such times and Python's `datetime` does not: the driver fails to load them.
    """
    return Case(None, [(column.between(_FIRST_TIME, _LAST_TIME), column.cast("timestamptz"))])


def _row(values: dict[str, Any]) -> CatalogRow:
    times = {name: (values[name] or _EPOCH).astimezone(UTC) for name in _TIMES}
    ids = {name: str(values[name]) for name in ("id", "video_id")}
    texts = {name: values[name] or "" for name in _TEXTS}
    odd = [name for name in (*_TEXTS, *_TIMES) if not values[name]]
    oddity = f"It has no usable value in {', '.join(odd)}." if odd else None
    return CatalogRow(**values | times | ids | texts, oddity=oddity)


def _sorted(rows: Iterable[CatalogRow]) -> list[CatalogRow]:
    return sorted(rows, key=lambda row: row.age_order)
