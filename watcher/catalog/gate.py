"""The catalog gate: the compressor's rows decide whether an upload may be sent, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import (
    Admission,
    CatalogRow,
    ClaimLostError,
    CompressorTable,
    Ledger,
    LockNotAvailableError,
    State,
    Upload,
)
from storage import KeyTooLongError, StorageError
from watcher.catalog.row_matching import is_newer, rows_of_file
from watcher.errors import Code, incomplete_reason
from watcher.renditions import ORIGINAL, Naming, rendition_of
from watcher.supervision.isolation import Isolation
from watcher.telemetry import RepeatFilter, human_duration, row_context

log = structlog.get_logger()

PAGE = 100
"""How many uploads one query reads the rows of; the last is decided by what was read before the first."""

STATUSES = frozenset({"processing", "ready", "failed"})

FRESH = timedelta(seconds=10)
"""Uploads that have waited no longer than this are checked often."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The upload may be sent under the quality, file name and key that its row gives it."""

    admission: Admission


@dataclass(frozen=True, slots=True)
class Waiting:
    """The compressor's rows do not decide yet; `code` is a stable error code."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The upload must not be sent; `code` is a stable error code."""

    code: str
    reason: str


Decision = Admitted | Waiting | Rejected


class CatalogGate:
    """Admits, holds or rejects uploads by the rows of the compressor's catalog.

    An upload whose video has no row for `row_timeout` is `gone`; a ready row reopens it (`Republisher`).
    """

    def __init__(
        self,
        table: CompressorTable,
        ledger: Ledger,
        naming: Naming,
        *,
        row_timeout: timedelta,
        wake: Callable[[State], None],
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._naming = naming
        self._row_timeout = row_timeout
        self._wake = wake
        self._reported = RepeatFilter()
        self.isolation = Isolation("uploads at the catalog gate")

    def admit(
        self, upload: Upload, rows: Sequence[CatalogRow] | None = None, *, record: bool = True
    ) -> Decision:
        """Decide by the newest row of the upload's file.

        `rows` are all rows of the upload's video, where they have been read already. Else the order of new
        rows is recorded, unless `record` is False. Raises `db.DatabaseError`, and `storage.KeyTooLongError`
        if no object can have the names that the row gives.
        """
        if rows is None:
            rows = self._table.rows_of_video(upload.video_id, record=record)
        of_file = rows_of_file(upload, rows, self._naming)
        if not of_file:
            return Waiting(Code.NO_ROW, "The compressor's catalog has no row for it yet.")
        row = of_file[-1]
        if row.status not in STATUSES:
            return Waiting(Code.NO_ROW, f"Its catalog row {row.id} has no valid status: correct the row.")
        if row.status == "failed":
            # A second encode that fails before it opens the file leaves the content of an earlier row.
            earlier = [one for one in of_file if one.id == upload.catalog_row_id and one.status == "ready"]
            if not earlier:
                return Rejected(Code.ENCODE_FAILED, "The compressor reports that the encode failed.")
            row = earlier[0]
        elif row.status != "ready":
            return Waiting(
                Code.ROW_PROCESSING, "The compressor is still encoding: its newest row is processing."
            )
        if upload.error_code == Code.ROW_NOT_NEWER and not is_newer(row, upload):
            reason = "Its object was verified for this same row; only content of a newer row may replace it."
            return Waiting(Code.ROW_NOT_NEWER, reason)
        if upload.finding is not None and row.quality != ORIGINAL:
            return Rejected(Code.INCOMPLETE, incomplete_reason(upload.finding))
        return self._admitted(upload, row)

    def _admitted(self, upload: Upload, row: CatalogRow) -> Decision:
        """Admit an upload for a ready row, unless that names no object."""
        rendition = rendition_of(upload.video_id, upload.path, row.quality)
        try:
            key = self._naming.key(rendition)
        except KeyTooLongError:
            raise
        except StorageError as exc:
            return Waiting(Code.NO_ROW, f"Its catalog row {row.id} names no object: correct the row. {exc}")
        return Admitted(
            Admission(
                catalog_row_id=row.id,
                catalog_row_at=row.order_time,
                filename=rendition.filename,
                quality=rendition.quality,
                object_key=key,
            )
        )

    def admit_waiting(self, *, fresh_only: bool = False) -> int:
        """Decide about every waiting upload, or about those that began to wait in the last seconds.

        Goes from the newest page to the oldest: a pass that went on to newer ones would not end while files
        arrive, and rows that become ready meanwhile would wait for its end. Returns how many no longer wait.
        Raises `db.DatabaseError`.
        """
        since = self._ledger.now() - FRESH if fresh_only else None
        decided = 0
        before: int | None = None
        while page := self._table.rows_of_waiting(since=since, before=before, limit=PAGE):
            for upload, rows in page:
                if self.isolation.seconds_left(upload.id):
                    continue
                with self.isolation.item(upload.id, **row_context(upload)):
                    decided += self._settle(upload, rows)
            before = page[0][0].id
        if decided:
            self._wake(State.PENDING)
        return decided

    def _abandon_overdue(self, upload: Upload) -> bool:
        """Make an upload `gone` whose video has no row, if its wait is over; return whether it was."""
        if self._ledger.now() - upload.due_at <= self._row_timeout:
            return False
        reason = (
            f"Its video has had no catalog row for {human_duration(self._row_timeout)}: the video was "
            "probably deleted. The local file is kept; delete it, or add a row: it is uploaded once one is "
            "ready."
        )
        self._ledger.advance(upload, State.GONE, error=reason, error_code=Code.ROW_GONE)
        log.warning("upload_gone", reason=reason, **row_context(upload))
        return True

    def _settle(self, upload: Upload, rows: Sequence[CatalogRow]) -> bool:
        """Decide and record the decision; False if the upload waits on, or was claimed meanwhile."""
        for row in rows:
            if row.oddity is not None and self._reported.is_news(row.id, row.oddity):
                log.warning("catalog_row_odd", row=row.id, reason=row.oddity, video_id=row.video_id)
        decision: Decision | KeyTooLongError
        try:
            decision = self.admit(upload, rows)
        except KeyTooLongError as exc:
            decision = exc
        try:
            match decision:
                case Waiting():
                    return not rows and self._abandon_overdue(upload)
                case Admitted(admission):
                    admitted = self._ledger.admit(upload, admission)
                    waited = round((admitted.due_at - upload.due_at).total_seconds(), 3)
                    row_id = admission["catalog_row_id"]
                    log.info("upload_admitted", row=row_id, waited_seconds=waited, **row_context(admitted))
                case Rejected(code, reason):
                    self._ledger.advance(upload, State.REJECTED, error=reason, error_code=code)
                    log.warning("upload_rejected", code=code, reason=reason, **row_context(upload))
                case KeyTooLongError(code=code):
                    self._ledger.advance(upload, State.FAILED, error=str(decision), error_code=code)
                    log.error("upload_failed", code=code, reason=str(decision), **row_context(upload))
        except ClaimLostError:
            return False
        except LockNotAvailableError as exc:
            log.warning("admission_waits", reason=str(exc), **row_context(upload))
            return False
        return True
