"""The catalog: the rows that hold the URLs players are given, as one interface over its implementations.

`local_url` and `public_url` are a rendition's two addresses: before its upload is verified, and after. Every
method is idempotent, may share a `Database.transaction` with the ledger and may raise DatabaseError.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, Protocol
from uuid import uuid4

import peewee
from peewee import fn

from db.database import Database
from db.records import CatalogRow, Upload
from db.statements import assigned, statement

PAGE = 500


class Catalog(Protocol):
    """The interface of a catalog."""

    @property
    def creates_rows(self) -> bool:
        """Whether `announce` creates rows; otherwise the catalog's owner does."""

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Make sure that the rendition has a row, so that it can be played before it is uploaded."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """Set the public URL in the rendition's rows; returns how many have it now. After 0, retry later.

        `is_current` says whether the path still holds the content that was uploaded.
        """

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """How many rows `publish` would have to change or create so that players find the object."""

    def rows_deleted(self, upload: Upload) -> bool:
        """Whether the rendition had rows that were all deleted."""

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Set the local URL again, because the object is lost; returns how many rows changed."""

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """Why the local copy must not be deleted yet, as a sentence; None if it may be."""

    def rows(self, video_id: str) -> Sequence[CatalogRow]:
        """The rows of a video, oldest first."""

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:
        """The rows of all videos whose URL begins with `prefix`, read one page at a time."""


class OwnCatalog:
    """The catalog that the uploader keeps where there is no compressor's: its own `video_qualities`.

    Its rows are `ready` from the start.
    """

    creates_rows = True

    def __init__(self, database: Database) -> None:
        self.database = database
        self._qualities = database.tables.qualities

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Insert a ready row with the local URL, unless a row of the rendition has one of the two URLs.

        A row that shows the object of earlier content stays unchanged until `publish`.
        """
        with self.database.transaction(f"announce {upload.path} in the catalog"):
            if self._count(upload, local_url, public_url):
                return
            now = self.database.now()
            self._insert.run(
                id=uuid4(),
                video_id=upload.video_id,
                quality=upload.quality,
                url=local_url,
                file_size=upload.size,
                container=_container(upload),
                status="ready",
                created_at=now,
                updated_at=now,
            )

    @statement("announce an upload in the catalog")
    def _insert(self, **values: Any) -> Any:
        return self._qualities.insert(assigned(self._qualities, values))

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """Set the public URL and the object's size in the rendition's rows; returns how many have them."""
        with self.database.transaction(f"publish {upload.path} in the catalog"):
            self._rewrite(upload, [local_url, public_url], public_url)
            return self._count(upload, public_url)

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """The number of rows that have the local URL; 1 if no row has either URL."""
        with self.database.operation("count the rows that do not show an object"):
            return self._count(upload, local_url) or int(not self._count(upload, public_url))

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Set the local URL in the rendition's rows that have the public one; returns how many."""
        with self.database.transaction(f"revert {upload.path} to its local URL in the catalog"):
            return self._rewrite(upload, [public_url], local_url)

    def rows_deleted(self, upload: Upload) -> bool:  # noqa: ARG002
        """Always False: a missing row is created."""
        return False

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """A sentence unless a row has the URL of the object."""
        with self.database.operation("check whether the catalog needs the local copy"):
            if upload.url is not None and self._count(upload, upload.url):
                return None
        return "No catalog row shows the object: players need the local copy."

    def rows(self, video_id: str) -> list[CatalogRow]:
        """The rows of a video, oldest first."""
        query = self._select().where(self._qualities.video_id == video_id)
        query = query.order_by(self._qualities.created_at, self._qualities.id)
        with self.database.operation("read the catalog"):
            return [CatalogRow(*row) for row in query.tuples()]

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:
        """The rows of all videos whose URL begins with `prefix`, read one page at a time."""
        for values in iter_with_url_prefix(self.database, self._select(), self._qualities, prefix):
            yield CatalogRow(**values)

    def _select(self) -> Any:
        names = [field.name for field in fields(CatalogRow) if hasattr(self._qualities, field.name)]
        return self._qualities.select(*(getattr(self._qualities, name) for name in names))

    def _rewrite(self, upload: Upload, present_urls: list[str], url: str) -> int:
        """Update the rows that have one of `present_urls` and differ from the wanted values."""
        of = {"video_id": upload.video_id, "quality": upload.quality, "urls": present_urls}
        return self._update.run(**of, url=url, file_size=upload.size, updated_at=self.database.now()).changed

    @statement("rewrite a URL in the catalog")
    def _update(self, *, video_id: Any, quality: Any, urls: Any, **values: Any) -> Any:
        qualities, size = self._qualities, values["file_size"]
        due = (qualities.url != values["url"]) | qualities.file_size.is_null() | (qualities.file_size != size)
        change = qualities.update(assigned(qualities, values))
        return change.where(*self._of(video_id, quality, urls), due)

    def _count(self, upload: Upload, *urls: str) -> int:
        of = {"video_id": upload.video_id, "quality": upload.quality, "urls": list(urls)}
        return int(self._counted.value(**of))

    @statement("count the rows of a file in the catalog")
    def _counted(self, *, video_id: Any, quality: Any, urls: Any) -> Any:
        qualities = self._qualities
        return qualities.select(fn.COUNT(qualities.id)).where(*self._of(video_id, quality, urls))

    def _of(self, video_id: Any, quality: Any, urls: Any) -> tuple[Any, ...]:
        """True of a rendition's rows: several files of one video and quality differ in their URLs."""
        qualities = self._qualities
        return qualities.video_id == video_id, qualities.quality == quality, qualities.url.in_(urls)


class NoCatalog:
    """For deployments without a catalog: every file may be sent, and publishing writes nothing."""

    creates_rows = False

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Write nothing."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """1, as if there were a row, so that the upload proceeds."""
        return 1

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """0: there are no rows."""
        return 0

    def rows_deleted(self, upload: Upload) -> bool:  # noqa: ARG002
        """Always False: there are no rows."""
        return False

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:  # noqa: ARG002
        """0: there are no rows."""
        return 0

    def reason_to_keep_copy(self, upload: Upload) -> str | None:  # noqa: ARG002
        """None: there are no rows that need the local copy."""
        return None

    def rows(self, video_id: str) -> list[CatalogRow]:  # noqa: ARG002
        """An empty list."""
        return []

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:  # noqa: ARG002
        """No rows."""
        return iter(())


def _container(upload: Upload) -> str:
    return os.path.splitext(upload.path)[1].removeprefix(".").lower()


def iter_with_url_prefix(
    database: Database, query: Any, rows: type[peewee.Model], prefix: str
) -> Iterator[dict[str, Any]]:
    """What `query` selects of the rows whose URL begins with `prefix`, in the order of their ids.

    Reads one page at a time; together they scan the whole table.
    """
    columns: Any = rows
    matching = query.where(fn.SUBSTR(columns.url, 1, len(prefix)) == prefix).order_by(columns.id)
    page = matching
    while True:
        with database.operation("read the catalog rows of a bucket"):
            found = list(page.limit(PAGE).dicts())
        yield from found
        if len(found) < PAGE:
            return
        page = matching.where(columns.id > found[-1]["id"])
