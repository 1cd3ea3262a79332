"""Which rows of the compressor's catalog show which objects, and the local URLs that they had before.

The compressor's table has no room for either. A local URL cannot be derived, because each request chooses its
base, and it is needed again when an object is lost.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db.database import Database
from db.records import CatalogRow, Upload, hash_text
from db.statements import assigned, statement
from db.states import State

WINDOW = 2_000
"""How many uploads are compared with the catalog in one query."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One catalog row onto which the public URL of an upload's object was published."""

    row_id: str
    upload_id: int
    url: str
    local_url: str | None
    """The URL it had before; None if it had the object's already."""
    published_at: datetime


class Publications:
    """The publications of one instance. Every method may raise DatabaseError."""

    def __init__(self, database: Database, instance: str) -> None:
        self.database = database
        self._instance = instance
        self._shown = database.tables.publications
        self._rows = database.tables.compressor_rows

    def record(self, row: CatalogRow, upload: Upload, url: str, at: datetime) -> None:
        """Record that a row, passed as it was read, has the URL `url` from now on."""
        local_url = None if row.url == url else row.url
        values: dict[str, Any] = {"upload": upload.id, "url": url, "published_at": at}
        if local_url is not None:
            values["local_url"] = local_url
        with self.database.transaction("record a publication"):
            self._upsert.run(row_id=row.id, **values)

    @statement("record a publication")
    def _upsert(self, *, row_id: Any, **given: Any) -> Any:
        shown = self._shown
        values = assigned(shown, {"instance": self._instance, **given})
        insert: Any = shown.insert(values | assigned(shown, {"row_id": row_id}))
        return insert.on_conflict(conflict_target=[shown.row_id], update=values)

    def by_row_id(self, row_ids: list[str]) -> dict[str, Publication]:
        """The publications onto the rows with these ids, by row id."""
        query = self._select().where(self._shown.row_id.in_(row_ids))
        return {publication.row_id: publication for publication in self._fetch(query)}

    def delete(self, row_ids: list[str]) -> None:
        """Delete the publications onto rows that show no object of ours any more, or do not exist."""
        with self.database.transaction("delete publications"):
            self._shown.delete().where(self._shown.row_id.in_(row_ids)).execute()

    def delete_of_upload(self, upload: Upload) -> None:
        """Delete the publications of an upload whose object no row shows any more."""
        with self.database.transaction("delete an upload's publications"):
            self._shown.delete().where(self._shown.upload == upload.id).execute()

    def of_deleted_rows(self, after: int, *, gone_code: str) -> tuple[set[int], int | None]:
        """The uploads that may show in no row any more, among the `WINDOW` uploads with ids above `after`.

        These were published onto rows that no longer exist, or have become `gone` with the error code
        `gone_code` after they were verified. Also returns the id at which the next window begins; None after
        the last one.
        """
        uploads, shown, rows = self.database.tables.uploads, self._shown, self._rows
        with self.database.operation("look for publications onto deleted rows"):
            ids: list[int] = []
            for table in (uploads, self.database.tables.receipts):
                ids += (
                    table.select(table.id).where(table.id > after).order_by(table.id).limit(WINDOW).scalars()
                )
            page = sorted(set(ids))[:WINDOW]
            last, number = max(page, default=after), len(page)
            deleted: Any = shown.select(shown.upload).left_outer_join(rows, on=rows.id == shown.row_id)
            deleted = deleted.where(
                shown.instance == self._instance, shown.upload.between(after + 1, last), rows.id.is_null()
            )
            gone: Any = uploads.select(uploads.id).where(
                uploads.instance == self._instance,
                uploads.id.between(after + 1, last),
                uploads.state == State.GONE,
                uploads.error_code == gone_code,
                uploads.verified_at.is_null(False),
            )
            found = {row[0] for query in (deleted, gone) for row in query.tuples()} if number else set()
        return found, last if number == WINDOW else None

    def _select(self) -> Any:
        shown = self._shown
        return shown.select(
            shown.row_id, shown.upload.alias("upload_id"), shown.url, shown.local_url, shown.published_at
        )

    def _fetch(self, query: Any) -> list[Publication]:
        with self.database.operation("read the publications"):
            return [Publication(**values) for values in query.dicts()]


@dataclass(frozen=True, slots=True)
class Look:
    """A look for deleted rows: how many rows the compressor's table had, and when."""

    rows: int
    at: datetime


class MissingRows:
    """What the looks for deleted rows have found, for one instance. Every method may raise DatabaseError.

    It is kept in the ledger, because an object is deleted only after two looks far apart.
    """

    def __init__(self, database: Database, instance: str) -> None:
        self._database = database
        self._instance = instance
        self._orphans = database.tables.orphans
        self._looks = database.tables.orphan_looks
        self._rounds = database.tables.orphan_rounds

    def last_look(self) -> Look | None:
        """The last complete look."""
        query: Any = self._looks.select().where(self._looks.instance == self._instance)
        with self._database.operation("read the last look for deleted rows"):
            return next((Look(row.rows, row.looked_at) for row in query), None)

    def record_look(self, look: Look) -> None:
        """Record a complete look."""
        looks, values = self._looks, {"rows": look.rows, "looked_at": look.at}
        with self._database.transaction("record a look for deleted rows"):
            insert = looks.insert(instance=self._instance, **values)
            insert.on_conflict(conflict_target=[looks.instance], update=values).execute()

    def next_round(self) -> int | None:
        """The upload after which an unfinished look continues; None if there is no such look."""
        query: Any = self._rounds.select(self._rounds.after_id).where(self._rounds.instance == self._instance)
        with self._database.operation("read where a look for deleted rows continues"):
            found: int | None = query.scalar()
            return found

    def set_next_round(self, after: int | None) -> None:
        """Record where the look continues; None if it has ended."""
        rounds = self._rounds
        with self._database.transaction("record where a look for deleted rows continues"):
            if after is None:
                rounds.delete().where(rounds.instance == self._instance).execute()
                return
            insert = rounds.insert(instance=self._instance, after_id=after)
            insert.on_conflict(conflict_target=[rounds.instance], update={"after_id": after}).execute()

    def since(self, upload_ids: Collection[int]) -> dict[int, datetime]:
        """Since when the rows of these uploads have been missing, by id; others are left out."""
        orphans = self._orphans
        query: Any = orphans.select(orphans.upload, orphans.missing_since)
        with self._database.operation("read since when rows have been missing"):
            return dict(query.where(orphans.upload.in_(list(upload_ids))).tuples())

    def record(self, missing: Collection[int], at: datetime, *, after: int, last: int | None) -> None:
        """Record which of the uploads with ids from above `after` to `last` (None: any) miss their rows.

        The next round begins after `last`; None ends the look.
        """
        orphans = self._orphans
        present: Any = (orphans.instance == self._instance) & (orphans.upload > after)
        if last is not None:
            present &= orphans.upload <= last
        with self._database.transaction("record which rows are missing"):
            orphans.delete().where(present, orphans.upload.not_in(list(missing))).execute()
            rows = [
                {"upload": upload_id, "instance": self._instance, "missing_since": at}
                for upload_id in sorted(missing)
            ]
            if rows:
                orphans.insert_many(rows).on_conflict_ignore().execute()
            self.set_next_round(last)

    def forget(self, upload_ids: Collection[int]) -> None:
        """Forget that the rows of these uploads are missing, because their objects were deleted."""
        with self._database.transaction("forget that rows were missing"):
            self._orphans.delete().where(self._orphans.upload.in_(list(upload_ids))).execute()

    def forget_all(self) -> None:
        """Forget which rows were missing: every object needs two new looks."""
        with self._database.transaction("forget which rows were missing"):
            self._orphans.delete().where(self._orphans.instance == self._instance).execute()

    def count(self) -> int:
        """How many objects have no rows."""
        orphans, tables = self._orphans, self._database.tables
        hashes = set[int]()
        with self._database.operation("count the objects without rows"):
            for table, column in (
                (tables.uploads, tables.uploads.object_key),
                (tables.receipts, tables.receipts.key_hash),
            ):
                query: Any = orphans.select(column).join(table, on=table.id == orphans.upload).distinct()
                keys = query.where(orphans.instance == self._instance).scalars()
                hashes.update(hash_text(key) if isinstance(key, str) else key for key in keys)
        return len(hashes)
