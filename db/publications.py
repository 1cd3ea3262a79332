"""Which rows of the compressor's catalog show which objects, and the local URLs that they had before.

The compressor's table has no room for either. A local URL cannot be derived, because each request chooses its
base, and it is needed again when an object is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db.database import Database
from db.records import CatalogRow, Upload

PAGE = 500


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
        self._database = database
        self._instance = instance
        self._shown = database.tables.publications
        self._rows = database.tables.compressor_rows

    def record(self, row: CatalogRow, upload: Upload, url: str, at: datetime) -> None:
        """Record that a row, passed as it was read, has the URL `url` from now on."""
        shown = self._shown
        local_url = None if row.url == url else row.url
        values = {"upload": upload.id, "instance": self._instance, "url": url, "published_at": at}
        if local_url is not None:
            values["local_url"] = local_url
        with self._database.transaction("record a publication"):
            insert = shown.insert(row_id=row.id, **values)
            insert.on_conflict(conflict_target=[shown.row_id], update=values).execute()

    def by_row_id(self, row_ids: list[str]) -> dict[str, Publication]:
        """The publications onto the rows with these ids, by row id."""
        query = self._select().where(self._shown.row_id.in_(row_ids))
        return {publication.row_id: publication for publication in self._fetch(query)}

    def delete(self, row_ids: list[str]) -> None:
        """Delete the publications onto rows that show no object of ours any more, or do not exist."""
        with self._database.transaction("delete publications"):
            self._shown.delete().where(self._shown.row_id.in_(row_ids)).execute()

    def delete_of_upload(self, upload: Upload) -> None:
        """Delete the publications of an upload whose object no row shows any more."""
        with self._database.transaction("delete an upload's publications"):
            self._shown.delete().where(self._shown.upload == upload.id).execute()

    def of_deleted_rows(self) -> Iterator[Publication]:
        """The publications whose rows no longer exist, read one page at a time."""
        shown, rows = self._shown, self._rows
        query = self._select().left_outer_join(rows, on=rows.id == shown.row_id)
        return self._pages(query.where(shown.instance == self._instance, rows.id.is_null()))

    def _pages(self, query: Any) -> Iterator[Publication]:
        shown = self._shown
        query = query.order_by(shown.row_id).limit(PAGE)
        page = self._fetch(query)
        while page:
            yield from page
            page = self._fetch(query.where(shown.row_id > page[-1].row_id))

    def _select(self) -> Any:
        shown = self._shown
        return shown.select(
            shown.row_id, shown.upload.alias("upload_id"), shown.url, shown.local_url, shown.published_at
        )

    def _fetch(self, query: Any) -> list[Publication]:
        with self._database.operation("read the publications"):
            return [Publication(**values) for values in query.dicts()]
