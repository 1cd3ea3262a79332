"""The compressor's catalog, as the stages see it: who may pass, and where the URL goes.

The compressor writes its rows as it likes; this side reads them, decides, and changes `url` alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from db import CatalogRow, CompressorTable, Database, Ledger, Publications, Upload
from watcher.catalog.row_matching import is_newer, rows_of_file
from watcher.renditions import ORIGINAL, Naming

AT_WORK = timedelta(seconds=5)
"""So long after a row of a video was changed the compressor may still look for the original's file."""

LONGEST_ENCODE = timedelta(days=1)
"""A row that has been `processing` for longer is one of a compressor that died."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How many rows show an object now, and how many of them were changed to."""

    rows: int
    changed: int


class CompressorCatalog:
    """`Catalog` over the compressor's table. `local_fallback` is whether `local_url` may stand in a row."""

    creates_rows = False

    def __init__(self, database: Database, ledger: Ledger, naming: Naming, *, local_fallback: bool) -> None:
        self._database = database
        self._ledger = ledger
        self._naming = naming
        self._local_fallback = local_fallback
        self.table = CompressorTable(database, ledger.instance)
        self.publications = Publications(database, ledger.instance)

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Nothing: the compressor makes its rows itself."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """Give every ready row of the file the public URL; say how many show it now."""
        del local_url
        return self.show(upload, public_url, is_current=is_current).rows

    def show(self, upload: Upload, public_url: str, *, is_current: bool) -> Shown:
        """Like `publish`, but tell what was changed from what was as it should be.

        Rows that are newer than the one which the upload was let through for wait for a file of their own,
        unless the file has not changed since (`is_current`): a second original is never copied.
        """
        with self._database.transaction(f"publish {upload.path} in the compressor's catalog"):
            ready = self._ready(upload, is_current=is_current, locked=True)
            stale = [row for row in ready if row.url != public_url]
            changed = self.table.set_url(stale, public_url)
            now = self._ledger.now()
            for row in ready:
                self.publications.record(row, upload, public_url, now)
            if ready:
                self._ledger.note_newer_row(upload, ready[-1])
            return Shown(len(ready) - len(stale) + changed, changed)

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """How many rows `show` would change."""
        del local_url
        return sum(row.url != public_url for row in self._ready(upload, is_current=is_current))

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Give the rows that show the object what they showed before; say how many.

        Where that is not known a row keeps the public URL, under which the object will be again.
        """
        with self._database.transaction(f"withdraw {upload.path} from the compressor's catalog"):
            showing = [row for row in self._rows_of(upload, locked=True) if row.url == public_url]
            before = self.publications.of_rows([row.id for row in showing])
            fallback = local_url if self._local_fallback else None
            changed = 0
            for row in showing:
                earlier = before[row.id].local_url if row.id in before else None
                if (url := earlier or fallback) is not None:
                    changed += self.table.set_url([row], url)
                    self.publications.forget([row.id])
            return changed

    def rows_deleted(self, upload: Upload) -> bool:
        """Whether none of the file's rows is there any more."""
        return not self._rows_of(upload)

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """Whether the compressor may still look at the file, or a row does not show the object."""
        with self._database.operation("see whether the catalog needs the local copy"):
            rows = self.table.of_video(upload.video_id)
            of_file = rows_of_file(upload, rows, self._naming, known_urls=self._known_urls(upload))
            now = self._ledger.now()
        if any(row.status == "processing" for row in of_file):
            return "The compressor is about to write this path."
        if any(row.status == "ready" and row.url != upload.url for row in of_file):
            return "A row of it does not show the object yet."
        if upload.quality == ORIGINAL and any(_is_at_work(row, now) for row in rows):
            return "The compressor is at work on this video, and may look for its original."
        return None

    def rows(self, video_id: str) -> list[CatalogRow]:
        """The rows of a video, oldest first."""
        return self.table.of_video(video_id)

    def needs(self, upload: Upload) -> bool:
        """Whether any row at all leads to the upload's object, or would be given its URL."""
        if self._rows_of(upload):
            return True
        urls = {self._naming.public_url(upload), *self._known_urls(upload)}
        return self.table.any_shows(sorted(urls))

    def _ready(self, upload: Upload, *, is_current: bool, locked: bool = False) -> list[CatalogRow]:
        """The rows that are to show the object: see `show`."""
        return [
            row
            for row in self._rows_of(upload, locked=locked)
            if row.status == "ready" and (is_current or not is_newer(row, upload))
        ]

    def _rows_of(self, upload: Upload, *, locked: bool = False) -> list[CatalogRow]:
        rows = self.table.of_video(upload.video_id, locked=locked)
        return rows_of_file(upload, rows, self._naming, known_urls=self._known_urls(upload))

    def _known_urls(self, upload: Upload) -> Collection[str]:
        return self._ledger.urls_of(upload.path)


def _is_at_work(row: CatalogRow, now: datetime) -> bool:
    """By the age of a row; one from the future is of a compressor with another idea of the time zone."""
    if row.status == "processing":
        return now - row.created_at < LONGEST_ENCODE
    return timedelta(0) <= now - row.updated_at < AT_WORK
