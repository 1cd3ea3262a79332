"""Enqueues finished files: decides whether a file is new, known, or known content with a new identity."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import structlog

from db import ClaimLostError, Identity, IllegalTransitionError, State, Upload
from storage import KeyTooLongError, SourceChangedError, SourceFile, StorageError, UploadCancelledError
from watcher.detection import FileStatus, Reading, ReadRequired
from watcher.detection.completeness import Busy, Finished, Missing, Refused, Unreadable, Unrecordable
from watcher.detection.scanner import is_resolved_by_file
from watcher.errors import Code, incomplete_reason
from watcher.failpoints import Point, failpoint
from watcher.filesystem import FileMissingError, NotOursError, UnreadableError
from watcher.filesystem.hashing import Rank
from watcher.filesystem.openat import Owned
from watcher.renditions import Ignored, PathTemplate, Rendition
from watcher.stages.context import StageContext
from watcher.telemetry import RepeatFilter, row_context

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why an upload is rejected or fails before anything is sent."""

    state: State
    code: str
    reason: str


class _ReadRequiredError(Exception):
    """The file has to be read, and may not be read in this thread."""

    def __init__(self, required: ReadRequired) -> None:
        super().__init__()
        self.required = required


@dataclass(slots=True)
class _FinishedFile:
    """A finished file as it was examined. `reading` is None where it may not be read."""

    path: str
    identity: Identity
    finding: str | None
    reading: Reading | None
    checksum: str | None = None
    """Set when the file is read."""


class Enqueuer:
    """Brings the ledger up to date with the files that the settler examined. Every method may be repeated."""

    def __init__(self, context: StageContext, template: PathTemplate) -> None:
        self._context = context
        self._template = template
        self._reported = RepeatFilter()

    def handle(
        self, path: str, file_status: FileStatus, reading: Reading | None = None
    ) -> ReadRequired | bool:
        """Act on the status of the file at a path. Returns whether a row was added for it.

        A file whose content decides is hashed as `reading` allows; without one, nothing is done and
        `ReadRequired` returned. Raises `db.DatabaseError`, `RootUnavailableError`, and `UploadCancelledError`
        if the reading is interrupted.
        """
        rendition = self._template.classify(path)
        if isinstance(rendition, Ignored):
            return False
        fields = {"video_id": rendition.video_id, "quality": rendition.quality, "path": path}
        match file_status:
            case Finished(identity, finding):
                failpoint(Point.SETTLED)
                file = _FinishedFile(path, identity, finding, reading)
                return self._handle_finished(rendition, file)
            case Busy(reason):
                log.debug("file_busy", reason=reason, **fields)
            case Refused(reason):
                if self._reported.is_news(path, reason):
                    log.warning("file_refused", reason=reason, **fields)
                self._fail_pending(path, Code.NOT_OURS, reason)
            case Unreadable(reason):
                return self._handle_unusable(path, rendition, Code.UNREADABLE, reason)
            case Unrecordable(reason):
                return self._handle_unusable(path, rendition, Code.UNRECORDABLE, reason)
            case Missing():
                log.debug("file_vanished", **fields)
        return False

    def handle_missing(self, upload: Upload) -> None:
        """Make an upload due whose file is missing; the upload stage decides whether it is `gone`."""
        if upload.state.is_stopped:
            self._reopen(upload, "the local file no longer exists")
        elif upload.awaits_row:
            with suppress(ClaimLostError):
                self._context.ledger.leave_gate(upload)
        self._context.signals.wake_stage(State.PENDING)

    def _handle_finished(self, rendition: Rendition, file: _FinishedFile) -> ReadRequired | bool:
        try:
            return self._record(rendition, file)
        except _ReadRequiredError as exc:
            return exc.required
        except SourceChangedError:
            self._context.signals.check_file(file.path)
            return False

    def _record(self, rendition: Rendition, file: _FinishedFile) -> bool:
        known = self._context.ledger.current(file.path)
        if known is not None and known.state.is_live:
            if known.holds(file.identity):
                self._handle_unchanged(known, file.finding)
                self._context.signals.check_rows(rendition.video_id)
                return False
            if self._has_same_content(known, file):
                refreshed = self._context.ledger.update_identity(known, file.identity)
                self._handle_unchanged(refreshed, file.finding)
                self._context.signals.check_rows(rendition.video_id)
                return False
        stop = self._stop_reason(file, known) if self._context.gate is None else None
        return self._record_new(file.path, rendition, file.identity, stop, file.finding)

    def _handle_unchanged(self, known: Upload, finding: str | None) -> None:
        """Reopen a row that stopped because its file was missing or unreadable.

        Its container may not have been checked before, because an unreadable file is recorded unchecked.
        """
        if is_resolved_by_file(known):
            with self._context.database.transaction():
                reopened = self._reopen(known, "the file exists and can be read", finding)
                if reopened is not None and finding is not None and self._context.gate is None:
                    self._stop(reopened, _incomplete(finding))
                elif reopened is not None:
                    self._announce(reopened)
            self._context.signals.wake_stage(State.PENDING)
            return
        if known.error_code == Code.LOCAL_CHANGED:
            self._context.ledger.make_due([known.id])
        self._context.signals.wake_stage(known.state)

    def _reopen(self, upload: Upload, reason: str, finding: str | None = None) -> Upload | None:
        """Make a stopped row pending; None if it has been reopened or claimed already."""
        try:
            return self._context.ledger.reopen(upload.id, reason=reason, finding=finding)
        except (IllegalTransitionError, ClaimLostError):
            return None

    def _has_same_content(self, known: Upload, file: _FinishedFile) -> bool:
        """Whether only the identity is new.

        A row without a checksum follows any content of its size, unless it was admitted for a catalog row.
        """
        if known.size != file.identity.size:
            return False
        if known.checksum is None:
            is_admitted = known.catalog_row_id is not None
            return known.state is State.PENDING and file.finding == known.finding and not is_admitted
        if file.checksum is None:
            try:
                file.checksum = self._hash(file, Rank.of(known, file.identity))
            except (UploadCancelledError, SourceChangedError):
                raise
            except (FileMissingError, NotOursError, UnreadableError, StorageError):
                # Treating the file as new content loses nothing; the next check decides again.
                return False
        return file.checksum == known.checksum

    def _hash(self, file: _FinishedFile, rank: Rank) -> str:
        """The checksum of a file. Raises SourceChangedError if it is no longer the one that was examined."""
        if file.reading is None:
            raise _ReadRequiredError(ReadRequired(rank, file.identity.size))
        tree, reading = self._context.tree, file.reading
        with Owned(tree.open(file.path)) as fd:
            pace = self._context.hashing.pace(rank, file.identity.size, reading)
            if tree.identity(os.fstat(fd)).is_exactly(file.identity):
                checksum = SourceFile(fd, pace).checksum(reading.progress(file.identity))
                if tree.identity(os.fstat(fd)).is_exactly(file.identity):
                    return checksum
            raise SourceChangedError("it is not the file that was examined any more")

    def _stop_reason(self, file: _FinishedFile, known: Upload | None) -> StopReason | None:
        """What is wrong with new content at a path whose newest upload is `known`.

        With a catalog gate the gate decides instead.
        """
        if file.finding is not None:
            return _incomplete(file.finding)
        proven = None if known is None else self._rolled_back_from(file)
        if proven is None:
            return None
        return StopReason(
            State.REJECTED,
            Code.ROLLED_BACK,
            f"Its content differs from the object of upload {proven.id}, although it was not written since: "
            "a power cut or a failing disk leaves that. The object is kept. Restore the file from it, or "
            "retry this upload to replace the object.",
        )

    def _rolled_back_from(self, file: _FinishedFile) -> Upload | None:
        """The confirmed upload of which this file is a damaged copy; None if it may be newer content.

        Writing to a file changes its time, or its ctime where the time is set back; replacing it changes its
        inode.
        """
        path, identity = file.path, file.identity
        confirmed = [
            upload for upload in self._context.ledger.uploads(path=path) if upload.verified_at is not None
        ]
        if not confirmed or confirmed[-1].state is State.RELEASED:
            return None
        proven = confirmed[-1]
        if identity.inode != proven.identity.inode or identity.mtime_ns > proven.identity.mtime_ns:
            return None
        if identity == proven.identity and identity.was_touched_after(proven.identity):
            return None
        return None if self._has_same_content(proven, file) else proven

    def _record_new(
        self,
        path: str,
        rendition: Rendition,
        identity: Identity,
        stop: StopReason | None,
        finding: str | None = None,
    ) -> bool:
        try:
            key = self._context.naming.key(rendition)
        except KeyTooLongError as exc:
            key, stop = exc.key or "", StopReason(State.FAILED, exc.code, str(exc))
        with self._context.database.transaction():
            if not self._is_still_there(path, identity):
                return False
            upload = self._context.ledger.enqueue(
                path,
                video_id=rendition.video_id,
                filename=rendition.filename,
                quality=rendition.quality,
                object_key=key,
                identity=identity,
                finding=finding,
                awaits_row=self._context.gate is not None and stop is None,
            )
            if upload is None:
                return False
            if stop is not None:
                self._stop(upload, stop)
            else:
                self._announce(upload)
        failpoint(Point.ENQUEUED)
        if stop is None:
            log.info("file_finished", size=identity.size, key=key, **row_context(upload))
            self._context.signals.wake_stage(State.PENDING)
            self._context.signals.check_rows(rendition.video_id)
        else:
            self._context.signals.wake_notifications()
        return True

    def _is_still_there(self, path: str, identity: Identity) -> bool:
        """Whether the file is unchanged since it was examined; other daemons may have released it."""
        if not self._context.tree.is_shared:
            return True
        self._context.ledger.lock_path(path)
        try:
            present = self._context.tree.stat(path)
            return present is not None and present.clamped() == identity
        except (NotOursError, UnreadableError):
            return True

    def _stop(self, upload: Upload, stop: StopReason) -> None:
        self._context.ledger.advance(upload, stop.state, error=stop.reason, error_code=stop.code)
        if stop.state is State.REJECTED:
            log.warning("upload_rejected", code=stop.code, reason=stop.reason, **row_context(upload))
        else:
            log.error("upload_failed", code=stop.code, reason=stop.reason, **row_context(upload))

    def _announce(self, upload: Upload) -> None:
        self._context.catalog.announce(
            upload,
            local_url=self._context.naming.local_url(upload),
            public_url=self._context.naming.public_url(upload),
        )

    def _handle_unusable(self, path: str, rendition: Rendition, code: str, reason: str) -> bool:
        """Record a file that cannot be uploaded as a failed row, so that it is visible to the operator."""
        if self._fail_pending(path, code, reason):
            return False
        known = self._context.ledger.current(path)
        try:
            present = self._context.tree.stat(path)
        except (NotOursError, UnreadableError):
            # Without its size there is no row to write. The scan reports the directory.
            return False
        identity = present and present.clamped()
        if identity is None or (known is not None and known.state.is_live and known.identity == identity):
            return False
        return self._record_new(path, rendition, identity, StopReason(State.FAILED, code, reason))

    def _fail_pending(self, path: str, code: str, reason: str) -> bool:
        """Make the path's pending row fail, unless a worker has claimed it; return whether there is one."""
        known = self._context.ledger.current(path)
        if known is None or known.state is not State.PENDING:
            return False
        if known.claimed_by is None:
            with suppress(ClaimLostError):
                self._stop(known, StopReason(State.FAILED, code, reason))
        return True


def _incomplete(finding: str) -> StopReason:
    return StopReason(State.REJECTED, Code.INCOMPLETE, incomplete_reason(finding))
