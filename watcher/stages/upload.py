"""The upload stage: hashes a finished file, sends it to S3 and confirms the object."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import structlog

from db import Admission, DatabaseError, ErrorKind, State, Upload
from storage import (
    Confirmation,
    Multipart,
    Receipt,
    SourceFile,
    StorageError,
    Target,
    Verdict,
    WriteCondition,
)
from watcher.catalog.gate import Admitted, Rejected, Waiting
from watcher.errors import Code, DecidedError, DeferError, FailureKind, ReexamineError, StageError
from watcher.failpoints import Point, failpoint
from watcher.filesystem import leases
from watcher.filesystem.openat import owned
from watcher.stages.context import StageContext
from watcher.stages.runner import Stage, Work
from watcher.stages.upload_progress import UploadProgress
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

RIVAL_SECONDS = 1.0
"""How soon a row is tried again whose object key a missing file still holds."""

MAX_HASHED = 1024
"""How many of the files that were hashed last and are not confirmed yet are remembered."""

COMMIT_BACKOFF = Backoff(base=0.5, factor=2.0, cap=10.0)


class UploadStage(Stage):
    """Hashes, sends and confirms pending uploads. `clock` returns monotonic seconds."""

    name = "upload"
    state = State.PENDING
    patience_seconds = 180.0

    def __init__(self, context: StageContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._hashed: dict[int, tuple[str | None, _Stamp]] = {}
        """By upload, the checksum of what this process has hashed: a retry need not read it again."""

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance each upload from `pending` to `verified`, or reject it, or return it to the gate."""
        for upload in uploads:
            with work.error_policy.handling(upload):
                if work.asks_first:
                    with work.error_policy.breaker.asking():
                        self._ask(upload)
                self._advance(upload, work)

    def _ask(self, upload: Upload) -> None:
        """Raise `storage.StorageError` unless S3 answers, before the file is read for nothing."""
        try:
            self._context.store.head(upload.object_key)
        except StorageError as exc:
            if exc.code != Code.OBJECT_UNKNOWN:
                raise

    def _advance(self, upload: Upload, work: Work) -> None:
        with owned(self._context.tree.open(upload.path)) as fd:
            self._require_as_settled(upload, fd)
            admitted = self._pass_gate(upload)
            if admitted is None:
                raise DecidedError
            upload = admitted
            self._require_own_key(upload)
            source = SourceFile(fd)
            stamp = _stamp(fd)
            if (upload.checksum, stamp) != self._hashed.get(upload.id):
                with_checksum = self._ensure_checksum(upload, source, work)
                if with_checksum is None:
                    raise DecidedError
                upload = with_checksum
                self._note_hashed(upload, stamp)
            failpoint(Point.HASHED)
            attempt = _Attempt(self._context, upload, work, self._clock)
            try:
                receipt = self._context.store.ensure(
                    source,
                    self._target(upload),
                    checksum=_known(upload.checksum),
                    steps=attempt,
                    resume=attempt.unfinished_multipart,
                    part_size=upload.part_size,
                )
            except _NewerRowRequiredError as exc:
                log.info("upload_awaits_row", code=Code.ROW_NOT_NEWER, reason=str(exc))
                self._context.ledger.await_row(upload, reason=str(exc), code=Code.ROW_NOT_NEWER)
                return
            if attempt.started_at is not None:
                self._context.metrics.upload_seconds.observe(self._clock() - attempt.started_at)
            self._require_same_path(upload)
        self._hashed.pop(upload.id, None)
        failpoint(Point.CONFIRMED)
        retry_until_committed(lambda: self._record_verified(upload, receipt), work)
        failpoint(Point.VERIFIED)
        self._context.metrics.confirmed.labels(by=receipt.confirmed_by).inc()
        log.info("upload_verified", confirmed_by=receipt.confirmed_by, etag=receipt.etag, size=upload.size)
        self._context.signals.wake_stage(State.VERIFIED)

    def _record_verified(self, upload: Upload, receipt: Receipt) -> None:
        """Record the receipt and, in the same transaction, request the invalidation of a replaced object."""
        with self._context.database.transaction("record a confirmation"):
            self._context.ledger.advance(
                upload,
                State.VERIFIED,
                detail=f"confirmed by {receipt.confirmed_by}",
                etag=receipt.etag,
                version_id=receipt.version_id,
                confirmed_by=receipt.confirmed_by,
                url=self._context.naming.public_url(upload),
            )
            if self._context.invalidator is None or not self._context.ledger.replaces_other_content(upload):
                return
            self._context.invalidator.request(upload.object_key)
            self._context.ledger.append_event(
                upload.id, "replaced", "the CDN is asked to invalidate the object of the earlier content"
            )
        self._context.invalidator.wake()

    def _require_as_settled(self, upload: Upload, fd: int) -> None:
        """Raise ReexamineError unless the file is unchanged since it was settled, which may be hours ago."""
        if leases.check_writers(fd) is leases.Writers.SOME:
            raise ReexamineError("A process has it open for writing again.")
        if self._context.tree.identity(os.fstat(fd)) != upload.identity:
            raise ReexamineError("Its size, time or inode is not what it was when it was finished.")

    def _require_same_path(self, upload: Upload) -> None:
        """Raise ReexamineError unless the file at the path is still the one that was hashed and sent."""
        if self._context.tree.stat(upload.path) != upload.identity:
            raise ReexamineError("It changed while it was sent, or another file stands at its path now.")

    def _require_own_key(self, upload: Upload) -> None:
        rival = self._context.ledger.key_conflict(upload)
        if rival is None or (rival.state is State.PENDING and rival.id > upload.id):
            return
        if rival.state is State.PENDING and self._context.tree.stat(rival.path) is None:
            reason = f"{rival.path}, which has the same object key, no longer exists."
            raise DeferError(Code.KEY_TAKEN, reason, RIVAL_SECONDS)
        raise StageError(
            FailureKind.OBJECT,
            Code.KEY_TAKEN,
            f"{rival.path} already has the object key {upload.object_key}; rename or remove one of the two, "
            f"then retry {upload.id}.",
        )

    def _pass_gate(self, upload: Upload) -> Upload | None:
        """Ask the gate again, because the row may have changed; None if the upload must not be sent now."""
        if self._context.gate is None:
            return upload
        match self._context.gate.admit(upload):
            case Admitted(admission):
                return self._apply_admission(upload, admission)
            case Waiting(code, reason):
                self._context.ledger.await_row(upload, reason=reason, code=code)
                log.info("upload_awaits_row", code=code, reason=reason)
                self._context.signals.check_gate()
            case Rejected(code, reason):
                log.warning("upload_rejected", code=code, reason=reason)
                self._context.ledger.advance(upload, State.REJECTED, error=reason, error_code=code)
        return None

    def _apply_admission(self, upload: Upload, admission: Admission) -> Upload:
        """Record the names that the row gives the upload; parts sent under another key are aborted."""
        if upload.finding is not None:
            log.warning("container_doubtful", finding=upload.finding)
        has_other_key = admission["object_key"] != upload.object_key
        if not has_other_key and admission["catalog_row_id"] == upload.catalog_row_id:
            return upload
        if has_other_key and upload.multipart_id is not None:
            abort_multipart(self._context, upload)
            upload = self._context.ledger.record(upload, multipart_id=None, part_size=None)
        return self._context.ledger.record(upload, **admission)

    def _ensure_checksum(self, upload: Upload, source: SourceFile, work: Work) -> Upload | None:
        """Hash the file, once a process; return the upload with its checksum, or None if the file is damaged.

        Other content under the same size, time and inode was not written by an encoder: a power cut or a
        failing disk leaves it, after the ledger recorded the checksum. Such an upload fails.
        """

        def stopped() -> bool:
            work.beat()
            return work.stopped()

        checksum = source.checksum(stopped)
        if checksum == upload.checksum:
            return upload
        if upload.checksum is None:
            return self._record_checksum(upload, checksum)
        reason = (
            "Its content differs from what was hashed before, although size, time and inode are the same: a "
            f"power cut or a failing disk leaves that. Restore it, or retry {upload.id} to upload it as is."
        )
        with self._context.database.transaction("record that a file is damaged"):
            # A retry uploads the present content: the operator has checked it.
            rehashed = self._record_checksum(upload, checksum)
            self._context.ledger.advance(rehashed, State.FAILED, error=reason, error_code=Code.LOCAL_DAMAGED)
        log.error("upload_failed", code=Code.LOCAL_DAMAGED, reason=reason)
        return None

    def _note_hashed(self, upload: Upload, stamp: _Stamp) -> None:
        self._hashed[upload.id] = upload.checksum, stamp
        for oldest in list(self._hashed)[:-MAX_HASHED]:
            self._hashed.pop(oldest, None)

    def _record_checksum(self, upload: Upload, checksum: str) -> Upload:
        abort_multipart(self._context, upload)
        return self._context.ledger.record(upload, checksum=checksum, multipart_id=None, part_size=None)

    def _target(self, upload: Upload) -> Target:
        metadata = {
            "video-id": upload.video_id,
            "quality": upload.quality,
            "source-mtime": str(upload.mtime_ns),
        }
        return Target(upload.object_key, self._context.naming.content_type(upload), metadata)


class _NewerRowRequiredError(Exception):
    """The object was verified for the upload's catalog row, and has other content."""


class _Attempt(UploadProgress):
    """An attempt to make an object hold a file: what it may replace, and what is recorded."""

    @property
    def unfinished_multipart(self) -> Multipart | None:
        """The multipart upload that an earlier attempt left."""
        upload = self.upload
        if upload.multipart_id is None or upload.part_size is None:
            return None
        return Multipart(upload.multipart_id, upload.part_size)

    def adopted(self, found: Confirmation) -> None:
        """Record that the object is already in S3; it must be public, and needs no multipart upload."""
        upload = self.upload
        self.context.store.ensure_public(upload.object_key)
        abort_multipart(self.context, upload)
        self.context.ledger.append_event(upload.id, "adopted", found.detail)
        self.context.metrics.adopted.inc()
        log.info("object_adopted", key=upload.object_key)

    def condition(self, found: Confirmation) -> WriteCondition:
        """The precondition of the write, which keeps it from replacing an object of unknown origin.

        Raises StageError, and _NewerRowRequiredError if the file must not be sent for its present row.
        """
        match found.verdict:
            case Verdict.MISSING:
                return WriteCondition.if_absent()
            case Verdict.UNKNOWN if self.upload.etag is not None:
                # It was sent once. An unknown result is no reason to send it again.
                detail = f"After sending: {found.detail}"
                raise StageError(FailureKind.ENVIRONMENT, Code.OBJECT_UNKNOWN, detail)
            case Verdict.DIFFERS:
                self._require_newer_row()
                if found.etag:
                    self._require_replaceable(found)
                    return WriteCondition.if_match(found.etag)
        return WriteCondition.unconditional()

    def _require_newer_row(self) -> None:
        proven = self.context.ledger.other_content_for_row(self.upload)
        if proven is not None:
            raise _NewerRowRequiredError(
                f"The object {self.upload.object_key} was verified for catalog row {proven.catalog_row_id} "
                f"(upload {proven.id}) and has other content: it is replaced only for a newer row."
            )

    def _require_replaceable(self, found: Confirmation) -> None:
        """Raise StageError if the object is not in the ledger and newer than the file's upload."""
        upload = self.upload
        if found.etag is not None and self.context.ledger.is_known_etag(upload.object_key, found.etag):
            return
        appeared_at = upload.catalog_row_at or upload.discovered_at
        if found.last_modified is not None and found.last_modified >= appeared_at:
            raise StageError(
                FailureKind.OBJECT,
                Code.FOREIGN_OBJECT,
                f"S3 has an object {upload.object_key!r} with other content that is not in this ledger and "
                f"is newer than this file. Remove the wrong one of the two, then retry {upload.id}.",
            )


def abort_multipart(context: StageContext, upload: Upload) -> None:
    """Abort the multipart upload of an earlier attempt, unless the claim is lost."""
    if upload.multipart_id is not None:
        context.ledger.require_claim(upload)
        context.store.abort(upload.object_key, upload.multipart_id)


_Stamp = tuple[int, int, int, int, int]


def _stamp(fd: int) -> _Stamp:
    """What changes with every edit of a file that does not set back the clock, the ctime included."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _known(checksum: str | None) -> str:
    if checksum is None:
        raise ValueError("the checksum must be known before an object is sent or confirmed")
    return checksum


def retry_until_committed(record: Callable[[], None], work: Work) -> None:
    """Retry committing a confirmed upload until the database answers, so that S3 need not be asked again.

    Raises what `record` raises: ClaimLostError; DatabaseError if a retry cannot help or the stage stops, in
    which case the next attempt adopts the object.
    """
    failures = 0
    while True:
        try:
            record()
        except DatabaseError as exc:
            if exc.kind is not ErrorKind.TRANSIENT or work.wait(
                COMMIT_BACKOFF.delay(failures).total_seconds()
            ):
                raise
            if not failures:
                log.warning("record_waits", reason=str(exc))
            failures += 1
            work.beat()
        else:
            return
