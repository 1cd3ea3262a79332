"""Publishes into the compressor's table: reads its rows and changes nothing in them but `url`."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import unquote

from db import (
    MAX_ZONE_DIFFERENCE,
    CatalogRow,
    CompressorTable,
    Database,
    Ledger,
    LockNotAvailableError,
    Publications,
    Upload,
)
from watcher.catalog.row_matching import is_newer, rows_of_file
from watcher.renditions import ORIGINAL, Naming
from watcher.telemetry import human_time

ENCODER_ACTIVE = timedelta(seconds=5)
"""How long after a change of any row of a video the compressor may still open its original."""

LONGEST_ENCODE = timedelta(days=1)
"""A row that has been `processing` for longer belongs to a compressor that died."""

ZONE_STEP = timedelta(minutes=15)
"""The offsets of all time zones from UTC are multiples of this."""

LOCK_PATIENCE_SECONDS = 1.0
"""How long a publication retries while another session has locked one of its rows."""
LOCK_RETRY_SECONDS = 0.02

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Published:
    """How many rows show an object, and how many of them were changed for it."""

    rows: int
    changed: int


class CompressorCatalog:
    """`Catalog` over the compressor's table.

    With `local_fallback`, a row whose earlier URL is unknown is reverted to the `local_url` of the upload.
    """

    creates_rows = False

    def __init__(self, database: Database, ledger: Ledger, naming: Naming, *, local_fallback: bool) -> None:
        self._database = database
        self._ledger = ledger
        self._naming = naming
        self._local_fallback = local_fallback
        self.table = CompressorTable(database, ledger.instance)
        self.publications = Publications(database, ledger.instance)

    def announce(self, upload: Upload, *, local_url: str, public_url: str) -> None:
        """Do nothing: the compressor inserts its rows itself."""

    def publish(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """Give every ready row of the file the public URL; return how many have it."""
        del local_url
        return self.publish_url(upload, public_url, is_current=is_current).rows

    def publish_url(
        self,
        upload: Upload,
        public_url: str,
        *,
        is_current: bool,
        patience_seconds: float = LOCK_PATIENCE_SECONDS,
    ) -> Published:
        """Like `publish`, and also return how many rows were changed.

        A row newer than the one that the upload was admitted for waits for a file of its own, unless the
        file has not changed since (`is_current`): the compressor does not copy a second original.

        Raises `db.LockNotAvailableError` if another session keeps one of the rows locked for longer than
        `patience_seconds`.
        """
        operation = f"publish {upload.path} in the compressor's catalog"

        def publish_once() -> Published:
            ready = self._publishable(upload, is_current=is_current, record=True)
            stale = [row for row in ready if row.url != public_url]
            now = self._ledger.now()
            for row in ready:
                self.publications.record(row, upload, public_url, now)
            if ready:
                self._ledger.note_newer_row(upload, ready[-1])
            # Last, so that the compressor's rows are locked for as short a time as possible.
            self._set_url(operation, stale, public_url)
            return Published(len(ready), len(stale))

        return self._retry_locks(operation, publish_once, patience_seconds)

    def stale_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool = True) -> int:
        """How many rows `publish` would change."""
        del local_url
        return sum(row.url != public_url for row in self._publishable(upload, is_current=is_current))

    def revert_to_local_url(self, upload: Upload, *, public_url: str, local_url: str) -> int:
        """Restore the earlier URL of the rows that show the object; return how many.

        A row whose earlier URL is unknown keeps the public URL, where the object will be again.
        """
        operation = f"revert {upload.path} to its local URL in the compressor's catalog"

        def revert_once() -> int:
            showing = [row for row in self._rows_of(upload) if row.url == public_url]
            before = self.publications.by_row_id([row.id for row in showing])
            fallback = local_url if self._local_fallback else None
            changed = 0
            for row in showing:
                earlier = before[row.id].local_url if row.id in before else None
                if (url := earlier or fallback) is not None:
                    self.publications.delete([row.id])
                    self._set_url(operation, [row], url)
                    changed += 1
            return changed

        return self._retry_locks(operation, revert_once, LOCK_PATIENCE_SECONDS)

    def rows_deleted(self, upload: Upload) -> bool:
        """Whether no row of the file exists any more."""
        return not self._rows_of(upload)

    def reason_to_keep_copy(self, upload: Upload) -> str | None:
        """Why the compressor may need the file, or that a row does not show the object; else None.

        A `processing` row does not count if a newer row of its file is ready, or if it is older than
        `LONGEST_ENCODE`: a compressor that is killed leaves such rows, and does not clear them.
        """
        with self._database.operation("see whether the catalog needs the local copy"):
            rows = self.table.rows_of_video(upload.video_id)
            of_file = self._matching(upload, rows)
            now = self._ledger.now()
        for row in of_file:
            if _is_being_encoded(row, of_file, now):
                since = f"catalog row {row.id} has been processing since {human_time(row.created_at)}."
                return f"The compressor is encoding to this path: {since}"
        for row in of_file:
            if row.status == "ready" and row.url != upload.url:
                return f"Catalog row {row.id} of the file does not show the object yet."
        if upload.quality == ORIGINAL:
            for row in rows:
                of_same_file = [other for other in rows if _names_same_file(row, other)]
                if _is_being_encoded(row, of_same_file, now) or _has_just_changed(row, now):
                    return (
                        "The compressor is encoding this video and may open its original: catalog row "
                        f"{row.id} is {row.status}, last changed at {human_time(row.updated_at)}."
                    )
        return None

    def rows_with_url_prefix(self, prefix: str) -> Iterator[CatalogRow]:
        """The rows of all videos whose URL begins with `prefix`, read one page at a time."""
        return self.table.rows_with_url_prefix(prefix)

    def rows(self, video_id: str) -> list[CatalogRow]:
        """The rows of a video, oldest first."""
        return self.table.rows_of_video(video_id)

    def _retry_locks(self, operation: str, attempt: Callable[[], _T], patience_seconds: float) -> _T:
        """Call `attempt` in a transaction, again for some time while it raises LockNotAvailableError."""
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                with self._database.transaction(operation):
                    return attempt()
            except LockNotAvailableError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(LOCK_RETRY_SECONDS)

    def _set_url(self, operation: str, read: Sequence[CatalogRow], url: str) -> None:
        """Set the URL of all these rows, or raise `db.LockNotAvailableError`."""
        try:
            changed = self.table.set_url(read, url)
        except LockNotAvailableError as exc:
            holders = " and ".join(self.table.lock_holders(read)) or "another session of the database"
            raise LockNotAvailableError(operation, f"a catalog row is locked by {holders}") from exc
        if changed < len(read):
            raise LockNotAvailableError(operation, "another session has just changed a catalog row")

    def _publishable(self, upload: Upload, *, is_current: bool, record: bool = False) -> list[CatalogRow]:
        """The rows that must show the object: see `publish_url`."""
        return [
            row
            for row in self._rows_of(upload, record=record)
            if row.status == "ready" and (is_current or not is_newer(row, upload))
        ]

    def _rows_of(self, upload: Upload, *, record: bool = False) -> list[CatalogRow]:
        rows = self.table.rows_of_video(upload.video_id, record=record)
        return self._matching(upload, rows)

    def _matching(self, upload: Upload, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        known = self._known_urls(upload)
        return rows_of_file(upload, rows, self._naming, known_urls=known, ledger=self._ledger)

    def _known_urls(self, upload: Upload) -> Collection[str]:
        return self._ledger.urls_of_path(upload.path)


def _is_being_encoded(row: CatalogRow, of_file: Sequence[CatalogRow], now: datetime) -> bool:
    """Whether a row's encode may still be in progress; `of_file` are all rows of its file.

    A time that is less than a day in the future comes from a compressor in another time zone.
    """
    if row.status != "processing" or abs(now - row.created_at) >= LONGEST_ENCODE:
        return False
    return not any(other.status == "ready" and other.order_time > row.order_time for other in of_file)


def _has_just_changed(row: CatalogRow, now: datetime) -> bool:
    """Whether a row was changed moments ago, by the clock of any time zone."""
    ago = now - row.updated_at
    is_recent = abs(ago) <= MAX_ZONE_DIFFERENCE and ago % ZONE_STEP < ENCODER_ACTIVE
    return row.status != "processing" and is_recent


def _names_same_file(row: CatalogRow, other: CatalogRow) -> bool:
    """Whether two rows of a video are of one file: their URLs, local or public, end in the same name."""
    return row.quality == other.quality and _name_of(row.url) == _name_of(other.url)


def _name_of(url: str) -> str:
    return unquote(posixpath.basename(url), errors="surrogateescape")
