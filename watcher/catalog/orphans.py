"""Orphans: objects whose catalog rows were deleted. They are reported, or deleted with DELETE_ORPHANS."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from db import ClaimLostError, Ledger, State, Upload
from storage import ObjectStore
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.errors import Code
from watcher.settings import Policy
from watcher.supervision.isolation import Isolation
from watcher.telemetry import RepeatFilter, row_context

log = structlog.get_logger()


class Orphans:
    """Finds orphans; with `deletes`, deletes each one after its local copy is released."""

    def __init__(
        self,
        catalog: CompressorCatalog,
        ledger: Ledger,
        store: ObjectStore,
        policy: Policy,
        *,
        deletes: bool,
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._store = store
        self._policy = policy
        self._deletes = deletes
        self._reported = RepeatFilter()
        self.kept = 0
        self.isolation = Isolation("orphans")

    def process_all(self) -> int:
        """Report or delete every orphan; return how many objects were deleted.

        Raises `db.DatabaseError` and `storage.StorageError`; the next call processes the rest.
        """
        kept = deleted = 0
        for upload in self.find():
            if self._deletes:
                is_deleted = False
                with self.isolation.item(upload.object_key, **row_context(upload)):
                    is_deleted = self.delete(upload)
                if is_deleted:
                    deleted += 1
                    continue
            kept += 1
            if self._reported.is_news(upload.object_key, "kept"):
                log.debug("orphan_kept", key=upload.object_key, **row_context(upload))
        if kept != self.kept:
            log.info("orphans_kept", objects=kept)
        self.kept = kept
        return deleted

    def find(self) -> Iterator[Upload]:
        """The uploads whose object no row references any more, one for each object."""
        keys: set[str] = set()
        for upload in self._candidates():
            if upload.object_key in keys or self.isolation.seconds_left(upload.object_key):
                continue
            is_referenced = True
            with self.isolation.item(upload.object_key, **row_context(upload)):
                is_referenced = self._catalog.references(upload)
            if not is_referenced:
                keys.add(upload.object_key)
                yield upload

    def _candidates(self) -> Iterator[Upload]:
        last = 0
        for publication in self._catalog.publications.of_deleted_rows():
            if publication.upload_id != last:
                last = publication.upload_id
                yield from self._ledger.uploads(ids=[last])
        for upload in self._ledger.iter_uploads(state=State.GONE):
            if upload.error_code == Code.ROW_GONE and upload.verified_at is not None:
                yield upload

    def delete(self, upload: Upload) -> bool:
        """Delete an orphan's object; False if an upload of its key is in progress."""
        if any(self._is_in_progress(other) for other in self._ledger.uploads_of_key(upload.object_key)):
            return False
        try:
            if upload.state is State.PUBLISHED:
                # KEEP_LOCAL is set: if a row is added, the local copy is uploaded again.
                self._ledger.advance(upload, State.PENDING, detail="its catalog rows were deleted")
        except ClaimLostError:
            return False
        self._store.delete(upload.object_key)
        self._catalog.publications.delete_of_upload(upload)
        self._ledger.mark_object_deleted(
            upload, f"deleted {upload.object_key}, which no catalog row references"
        )
        log.info("orphan_deleted", key=upload.object_key, **row_context(upload))
        return True

    def _is_in_progress(self, other: Upload) -> bool:
        match other.state:
            case State.PENDING:
                return not other.awaits_row
            case State.PUBLISHED:
                return other.claimed_by is not None or not self._policy.keep_local
            case state:
                return state is State.VERIFIED
