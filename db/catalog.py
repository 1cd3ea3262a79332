"""The catalog: the rows that players' URLs come from, as one interface over whoever owns them.

The words `local_url` and `public_url` are a rendition's two addresses: where it can be played until the
upload is confirmed, and from then on. Calls may be repeated at will, and may share a `Database.transaction`
with the ledger. Every method may raise DatabaseError.
"""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol
from uuid import uuid4

from db.database import Database
from db.records import CatalogRow, Upload


class Catalog(Protocol):
    """What the daemon asks of a catalog."""

    @property
    def creates_rows(self) -> bool:
        """Whether `announce` makes rows, or somebody else does."""

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """See to it that the rendition has a row, which players can use before anything is uploaded."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """Point the rendition's rows at the object and say how many do now; 0 means look again later.

        `is_current` says whether the file at the path still is what was uploaded.
        """

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """How many rows `publish` would have to change, or to make, for players to find the object."""

    def rows_deleted(self, upload: Upload) -> bool:
        """Whether the rendition had rows and has none any more: it was deleted."""

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Point the rendition's rows back at the local copy, for the object is lost; say how many changed."""

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """Why the local copy must not be given up yet, as a sentence; None if nothing speaks against it."""

    def rows(self, video_id: str) -> Sequence[CatalogRow]:
        """The rows of a video, oldest first."""


class OwnCatalog:
    """A catalog of our own, for where there is no compressor's: `video_qualities` in our own database.

    Its rows are `ready` from the start.
    """

    creates_rows = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._qualities = database.tables.qualities

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Insert a ready row with the local URL, unless a row of the rendition has one of the two already.

        A row that shows the object of earlier content stays as it is until `publish`.
        """
        with self._database.transaction(f"announce {upload.path} in the catalog"):
            if self._count(upload, local_url, public_url):
                return
            now = self._database.now()
            self._qualities.insert(
                id=uuid4(),
                video_id=upload.video_id,
                quality=upload.quality,
                url=local_url,
                file_size=upload.size,
                container=_container(upload),
                status="ready",
                created_at=now,
                updated_at=now,
            ).execute()

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """Give the rendition's rows the public URL and the object's size; say how many have it now."""
        with self._database.transaction(f"publish {upload.path} in the catalog"):
            self._rewrite(upload, local_url, public_url)
            self._rewrite(upload, public_url, public_url)
            return self._count(upload, public_url)

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """The rows that still have the local URL; a row that is missing is one, too."""
        with self._database.operation("look for rows that do not show an object"):
            return self._count(upload, local_url) or int(not self._count(upload, public_url))

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Give the rendition's rows that have the public URL the local one again; say how many."""
        with self._database.transaction(f"withdraw {upload.path} from the catalog"):
            return self._rewrite(upload, public_url, local_url)

    def rows_deleted(self, upload: Upload) -> bool:  # noqa: ARG002
        """Never: a row that is missing is made."""
        return False

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """Unless a row shows the object, players need the local copy."""
        with self._database.operation("see whether the catalog needs the local copy"):
            if upload.url is not None and self._count(upload, upload.url):
                return None
        return "No catalog row shows the object: players need the local copy."

    def rows(self, video_id: str) -> list[CatalogRow]:
        """The rows of a video, oldest first."""
        qualities = self._qualities
        columns = [getattr(qualities, field.name) for field in fields(CatalogRow)]
        query: Any = qualities.select(*columns).where(qualities.video_id == video_id)
        with self._database.operation("read the catalog"):
            return [CatalogRow(*row) for row in query.order_by(qualities.created_at, qualities.id).tuples()]

    def _rewrite(self, upload: Upload, present_url: str, url: str) -> int:
        """Change the rows that have `present_url`, and only those that are not yet as they should be."""
        qualities = self._qualities
        due = (qualities.url != url) | qualities.file_size.is_null() | (qualities.file_size != upload.size)
        change = qualities.update(url=url, file_size=upload.size, updated_at=self._database.now())
        return int(change.where(*self._of(upload, present_url), due).execute())

    def _count(self, upload: Upload, *urls: str) -> int:
        query: Any = self._qualities.select().where(*self._of(upload, *urls))
        return int(query.count())

    def _of(self, upload: Upload, *urls: str) -> tuple[Any, ...]:
        """Which rows are this rendition's: several files of one video and quality differ in their URLs."""
        qualities = self._qualities
        return (
            qualities.video_id == upload.video_id,
            qualities.quality == upload.quality,
            qualities.url.in_(urls),
        )


class NoCatalog:
    """For where nobody keeps a catalog: every file may be sent, and publishing writes nothing."""

    creates_rows = False

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Write nothing."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """1, as if there were a row: the upload goes on."""
        return 1

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:  # noqa: ARG002
        """0: there is no row that could be amiss."""
        return 0

    def rows_deleted(self, upload: Upload) -> bool:  # noqa: ARG002
        """Never: there is nothing that could be deleted."""
        return False

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:  # noqa: ARG002
        """0: there is no row to change."""
        return 0

    def reason_to_keep_copy(self, upload: Upload) -> str | None:  # noqa: ARG002
        """None: no row needs the local copy."""
        return None

    def rows(self, video_id: str) -> list[CatalogRow]:  # noqa: ARG002
        """None."""
        return []


def _container(upload: Upload) -> str:
    return os.path.splitext(upload.path)[1].removeprefix(".").lower()
