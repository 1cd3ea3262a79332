"""The first stage: a finished file becomes a confirmed object."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import CatalogRow, GateVerdict, State, Upload
from storage import (
    Confirmation,
    Multipart,
    Receipt,
    Sent,
    SourceFile,
    Target,
    Verdict,
    WriteCondition,
    part_size_for,
)
from watcher.catalog.row_matching import admission
from watcher.errors import Code, DeferError, Kind, ReexamineError, StageError
from watcher.failpoints import Point, failpoint
from watcher.filesystem import leases
from watcher.filesystem.openat import owned
from watcher.stages.context import StageContext
from watcher.stages.hashing import abort_multipart, ensure_checksum
from watcher.stages.recording import retry_until_committed
from watcher.stages.runner import Work
from watcher.stages.upload_progress import UploadProgress

log = structlog.get_logger()

RIVAL_SECONDS = 1.0
"""How soon to ask again whether the file that has the same key is gone."""


class UploadStage:
    """Hashes, sends and confirms pending rows. `clock` gives monotonic seconds."""

    name = "upload"
    state = State.PENDING
    patience_seconds = 180.0

    def __init__(self, context: StageContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._tree = context.tree
        self._database = context.database
        self._ledger = context.ledger
        self._catalog = context.catalog
        self._store = context.store
        self._acl_fallback = context.acl_fallback
        self._naming = context.naming
        self._metrics = context.metrics
        self._invalidator = context.invalidator
        self._longest_backoff = context.backoff.longest
        self._wake = context.wake
        self._check_gate = context.check_gate
        self._clock = clock

    def is_enabled(self) -> bool:
        """Always: what is finished is uploaded."""
        return True

    @property
    def horizon(self) -> timedelta:
        """Rows wait for their backoff and nothing else."""
        return self._longest_backoff

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Take each row from `pending` to `verified`, or to where it belongs instead."""
        for upload in uploads:
            with work.error_policy.handling(upload):
                self._advance(upload, work)

    def _advance(self, upload: Upload, work: Work) -> None:
        with owned(self._tree.open(upload.path)) as fd:
            self._require_as_settled(upload, fd)
            admitted = self._pass_gate(upload)
            if admitted is None:
                return
            upload = admitted
            self._require_own_key(upload)
            source = SourceFile(fd)
            with_checksum = ensure_checksum(self._context, upload, source, work)
            if with_checksum is None:
                return
            upload = with_checksum
            failpoint(Point.HASHED)
            there = self._confirm(upload, source, upload.part_size or part_size_for(source.size))
            if there.verdict is Verdict.UNKNOWN and upload.etag is not None:
                # It was sent once: that nobody can tell what became of it is no reason to send it again.
                raise _unconfirmed(there)
            if there.verdict is Verdict.DIFFERS and (proven := self._ledger.proof_for_row(upload)):
                self._await_newer_row(upload, proven)
                return
            receipt = self._adopt(upload, there)
            if receipt is None:
                receipt = self._send(upload, source, work, self._condition(upload, there))
            self._require_same_path(upload)
        failpoint(Point.CONFIRMED)
        retry_until_committed(lambda: self._record_verified(upload, receipt), work)
        failpoint(Point.VERIFIED)
        self._metrics.confirmed.labels(by=receipt.confirmed_by).inc()
        log.info("upload_verified", confirmed_by=receipt.confirmed_by, etag=receipt.etag, size=upload.size)
        self._wake(State.VERIFIED)

    def _record_verified(self, upload: Upload, receipt: Receipt) -> None:
        """Write the receipt down and, with it or not at all, that caches hold what was replaced."""
        with self._database.transaction("record a confirmation"):
            self._ledger.advance(
                upload,
                State.VERIFIED,
                detail=f"confirmed by {receipt.confirmed_by}",
                etag=receipt.etag,
                version_id=receipt.version_id,
                confirmed_by=receipt.confirmed_by,
                url=self._naming.public_url(upload),
            )
            if self._invalidator is None or not self._ledger.replaces(upload):
                return
            self._invalidator.request(upload.object_key)
            self._ledger.note(
                upload.id, "replaced", "the CDN is told to forget the object of earlier content"
            )
        self._invalidator.wake()

    def _require_as_settled(self, upload: Upload, fd: int) -> None:
        """The row may have waited for hours: the file must still be the one that was finished."""
        if leases.check_writers(fd) is leases.Writers.SOME:
            raise ReexamineError("A process has it open for writing again.")
        if self._tree.identity(os.fstat(fd)) != upload.identity:
            raise ReexamineError("Its size, time or inode is not what it was when it was finished.")

    def _require_same_path(self, upload: Upload) -> None:
        """What was read and what was hashed before is the file that stands there now, and has not changed."""
        if self._tree.stat(upload.path) != upload.identity:
            raise ReexamineError("It changed while it was sent, or another file stands at its path now.")

    def _require_own_key(self, upload: Upload) -> None:
        rival = self._ledger.same_key(upload)
        if rival is None or (rival.state is State.PENDING and rival.id > upload.id):
            return
        if rival.state is State.PENDING and self._tree.stat(rival.path) is None:
            reason = f"{rival.path}, which had the same object key, is being given up."
            raise DeferError(Code.KEY_TAKEN, reason, RIVAL_SECONDS)
        raise StageError(
            Kind.OBJECT,
            Code.KEY_TAKEN,
            f"{rival.path} already has the object key {upload.object_key}; rename or remove one of the two, "
            f"then retry {upload.id}.",
        )

    def _pass_gate(self, upload: Upload) -> Upload | None:
        """Ask the gate once more, for the row may have changed; None if the upload does not go on."""
        gate = self._catalog.gate(upload)
        match gate.verdict:
            case GateVerdict.WAIT:
                self._ledger.await_row(upload, reason=gate.reason, code=gate.code)
                log.info("upload_awaits_row", code=gate.code, reason=gate.reason)
                self._check_gate()
                return None
            case GateVerdict.REJECTED:
                log.warning("upload_rejected", code=gate.code, reason=gate.reason)
                self._ledger.advance(upload, State.REJECTED, error=gate.reason, error_code=gate.code)
                return None
        return upload if gate.row is None else self._named_by(upload, gate.row)

    def _named_by(self, upload: Upload, row: CatalogRow) -> Upload:
        """The upload under the names that its row gives it; parts sent under another key are given up."""
        settled = admission(upload, row, self._naming)
        if upload.finding is not None:
            log.warning("container_doubtful", finding=upload.finding)
        if settled["object_key"] == upload.object_key and row.id == upload.catalog_row_id:
            return upload
        if settled["object_key"] != upload.object_key and upload.multipart_id is not None:
            abort_multipart(self._context, upload)
            upload = self._ledger.record(upload, multipart_id=None, part_size=None)
        return self._ledger.record(upload, **settled)

    def _await_newer_row(self, upload: Upload, proven: Upload) -> None:
        reason = (
            f"The object {upload.object_key} was verified for catalog row {proven.catalog_row_id} (upload "
            f"{proven.id}) and has other content: it is replaced only for a newer row."
        )
        log.warning("upload_awaits_row", code=Code.ROW_NOT_NEWER, reason=reason)
        self._ledger.await_row(upload, reason=reason, code=Code.ROW_NOT_NEWER)

    def _adopt(self, upload: Upload, there: Confirmation) -> Receipt | None:
        """The receipt of an object that is in place already: an earlier life, or somebody else, sent it."""
        if there.receipt is None:
            return None
        self._acl_fallback.ensure(upload.object_key)
        abort_multipart(self._context, upload)
        self._ledger.note(upload.id, "adopted", there.detail)
        self._metrics.adopted.inc()
        log.info("object_adopted", key=upload.object_key)
        return there.receipt

    def _condition(self, upload: Upload, there: Confirmation) -> WriteCondition:
        """Under which condition the object may be written: never over what is not ours to replace."""
        match there.verdict:
            case Verdict.MISSING:
                return WriteCondition.if_absent()
            case Verdict.DIFFERS if there.etag:
                self._require_replaceable(upload, there)
                return WriteCondition.if_match(there.etag)
            case _:
                return WriteCondition.unconditional()

    def _require_replaceable(self, upload: Upload, there: Confirmation) -> None:
        """An object that no row of ours knows is replaced only if it is older than the file's row."""
        if there.etag is not None and self._ledger.known_etag(upload.object_key, there.etag):
            return
        appeared_at = upload.catalog_row_at or upload.discovered_at
        if there.last_modified is not None and there.last_modified >= appeared_at:
            raise StageError(
                Kind.OBJECT,
                Code.FOREIGN_OBJECT,
                f"An object {upload.object_key!r} of other content is there which this ledger does not know, "
                f"and it is newer than this file; remove the one that is wrong, then retry {upload.id}.",
            )

    def _send(self, upload: Upload, source: SourceFile, work: Work, condition: WriteCondition) -> Receipt:
        started = self._clock()
        log.info("upload_started", key=upload.object_key, size=upload.size)
        progress = UploadProgress(self._context, upload, work, self._clock)
        resume = None
        if upload.multipart_id is not None and upload.part_size is not None:
            resume = Multipart(upload.multipart_id, upload.part_size)

        def send(with_acl: bool) -> Sent:
            return self._store.upload(
                source,
                self._target(upload, condition, with_acl=with_acl),
                checksum=_known(upload.checksum),
                progress=progress,
                cancelled=lambda: work.stopped() or progress.claim_is_lost,
                resume=resume,
                on_multipart=progress.begin,
            )

        with progress.shown(is_resumed=resume is not None):
            sent = self._acl_fallback.upload(upload.object_key, send)
            failpoint(Point.COMPLETED)
        progress.finish(sent)
        confirmation = self._confirm(upload, source, sent.part_size)
        self._metrics.upload_seconds.observe(self._clock() - started)
        if confirmation.receipt is None:
            raise _unconfirmed(confirmation)
        return confirmation.receipt

    def _target(self, upload: Upload, condition: WriteCondition, *, with_acl: bool) -> Target:
        metadata = {
            "video-id": upload.video_id,
            "quality": upload.quality,
            "source-mtime": str(upload.mtime_ns),
        }
        content_type = self._naming.content_type(upload)
        return Target(upload.object_key, content_type, metadata, only_if=condition, with_acl=with_acl)

    def _confirm(self, upload: Upload, source: SourceFile, part_size: int | None) -> Confirmation:
        return self._store.confirm(
            upload.object_key,
            size=source.size,
            checksum=_known(upload.checksum),
            expected_etag=lambda: source.etag(part_size),
        )


def _known(checksum: str | None) -> str:
    if checksum is None:
        raise ValueError("the checksum is taken before anything is sent or confirmed")
    return checksum


def _unconfirmed(confirmation: Confirmation) -> StageError:
    after = f"After it was sent: {confirmation.detail}"
    match confirmation.verdict:
        case Verdict.MISSING:
            return StageError(Kind.TRANSIENT, Code.OBJECT_MISSING, f"{after} It is sent again.")
        case Verdict.DIFFERS:
            return StageError(Kind.TRANSIENT, Code.OBJECT_DIFFERS, f"{after} It is sent again.")
        case _:
            return StageError(Kind.ENVIRONMENT, Code.OBJECT_UNKNOWN, after)
