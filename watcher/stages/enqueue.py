"""From a finished file to a ledger row: it is new, or known, or known content under a new identity."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import structlog

from db import ClaimLostError, Identity, IllegalTransitionError, State, Upload
from storage import KeyTooLongError, SourceFile, StorageError
from watcher.detection.completeness import Busy, FileStatus, Finished, Missing, Refused, Unreadable
from watcher.detection.scanner import is_mended_by_file
from watcher.errors import Code
from watcher.failpoints import Point, failpoint
from watcher.filesystem.openat import FileMissingError, NotOursError, UnreadableError, owned
from watcher.renditions import Ignored, PathTemplate, Rendition
from watcher.stages.context import StageContext
from watcher.telemetry.logging import RepeatFilter, row_context

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a row ends before anything was sent."""

    state: State
    code: str
    reason: str


class Enqueuer:
    """Takes what the settler found and brings the ledger up to it; every method is safe to repeat."""

    def __init__(self, context: StageContext, template: PathTemplate) -> None:
        self._context = context
        self._template = template
        self._refusals = RepeatFilter()

    def take(self, path: str, file_status: FileStatus) -> bool:
        """Act on a finding about a path. Returns whether it is a new file, which has a row now.

        Raises `db.DatabaseError` and `RootUnavailableError`.
        """
        rendition = self._template.classify(path)
        if isinstance(rendition, Ignored):
            return False
        context = {"video_id": rendition.video_id, "quality": rendition.quality, "path": path}
        match file_status:
            case Finished(identity, finding):
                failpoint(Point.SETTLED)
                return self._take_finished(path, rendition, identity, finding)
            case Busy(reason):
                log.debug("file_busy", reason=reason, **context)
            case Refused(reason):
                if self._refusals.is_news(path, reason):
                    log.warning("file_refused", reason=reason, **context)
                self._fail_waiting(path, Code.NOT_OURS, reason)
            case Unreadable(reason):
                return self._take_unreadable(path, rendition, reason)
            case Missing():
                log.debug("file_vanished", **context)
        return False

    def reconsider_missing(self, upload: Upload) -> None:
        """Have the first stage look at a row whose file is not there; it decides whether that is `gone`."""
        if upload.state.is_stopped:
            self._reopen(upload, "the local file is no longer there")
        elif upload.awaits_row:
            with suppress(ClaimLostError):
                self._context.ledger.leave_gate(upload)
        self._context.signals.wake_stage(State.PENDING)

    def _take_finished(
        self, path: str, rendition: Rendition, identity: Identity, finding: str | None
    ) -> bool:
        known = self._context.ledger.current(path)
        if known is not None and known.state.is_live:
            if known.identity == identity:
                self._take_unchanged(known, finding)
                return False
            if self._has_same_content(known, identity, finding):
                refreshed = self._context.ledger.adopt_identity(known, identity)
                self._take_unchanged(refreshed, finding)
                return False
        return self._take_new(path, rendition, identity, finding)

    def _take_unchanged(self, known: Upload, finding: str | None) -> None:
        """The file is there and readable, so a row that ended for want of that goes on.

        Its container may never have been looked into before: a file that cannot be read is recorded unseen.
        """
        if is_mended_by_file(known):
            with self._context.database.transaction():
                reopened = self._reopen(known, "the file is there and can be read", finding)
                if reopened is not None and finding is not None and self._context.gate is None:
                    self._end(reopened, Ending(State.REJECTED, Code.INCOMPLETE, finding))
                elif reopened is not None:
                    self._announce(reopened)
            self._context.signals.wake_stage(State.PENDING)
            return
        if known.error_code == Code.LOCAL_CHANGED:
            self._context.ledger.make_due([known.id])
        self._context.signals.wake_stage(known.state)

    def _reopen(self, upload: Upload, reason: str, finding: str | None = None) -> Upload | None:
        """Make a stopped row pending; None if a person or another daemon did so a moment ago."""
        try:
            return self._context.ledger.reopen(upload.id, reason=reason, finding=finding)
        except (IllegalTransitionError, ClaimLostError):
            return None

    def _has_same_content(self, known: Upload, identity: Identity, finding: str | None) -> bool:
        """Whether only the identity is new.

        A row without a checksum makes no claim about its content, unless a catalog row has vouched for it.
        """
        if known.size != identity.size:
            return False
        if known.checksum is None:
            is_vouched_for = known.catalog_row_id is not None
            return known.state is State.PENDING and finding == known.finding and not is_vouched_for
        try:
            with owned(self._context.tree.open(known.path)) as fd:
                return SourceFile(fd).checksum() == known.checksum
        except (FileMissingError, NotOursError, UnreadableError, StorageError):
            # The next look finds out; until then it is taken for new content, which loses nothing.
            return False

    def _take_new(self, path: str, rendition: Rendition, identity: Identity, finding: str | None) -> bool:
        """A catalog that has a say tells whether a doubtful container matters: people upload odd files."""
        ending = self._ending(path, identity, finding) if self._context.gate is None else None
        return self._record_new(path, rendition, identity, ending, finding)

    def _ending(self, path: str, identity: Identity, finding: str | None) -> Ending | None:
        """What is wrong with new content, where nobody but the file itself can tell."""
        if finding is not None:
            return Ending(State.REJECTED, Code.INCOMPLETE, finding)
        proven = self._rolled_back_from(path, identity)
        if proven is None:
            return None
        return Ending(
            State.REJECTED,
            Code.ROLLED_BACK,
            f"Its content is not what upload {proven.id} confirmed in S3, and yet it was not written since:"
            " a power cut or a broken disk leaves that. The good object stays. Restore the file from it, or"
            " retry this upload if it is meant to replace the object.",
        )

    def _rolled_back_from(self, path: str, identity: Identity) -> Upload | None:
        """The confirmed upload of which this very file is a damaged copy; None if it may be newer content.

        Whoever writes a file gives it a later time, and whoever replaces it another inode.
        """
        confirmed = [
            upload for upload in self._context.ledger.uploads(path=path) if upload.verified_at is not None
        ]
        if not confirmed or confirmed[-1].state is State.RELEASED:
            return None
        proven = confirmed[-1]
        if identity.inode != proven.identity.inode or identity.mtime_ns > proven.identity.mtime_ns:
            return None
        return None if self._has_same_content(proven, identity, None) else proven

    def _record_new(
        self,
        path: str,
        rendition: Rendition,
        identity: Identity,
        ending: Ending | None,
        finding: str | None = None,
    ) -> bool:
        try:
            key = self._context.naming.key(rendition)
        except KeyTooLongError as exc:
            key, ending = exc.key or "", Ending(State.FAILED, exc.code, str(exc))
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
                awaits_row=self._context.gate is not None and ending is None,
            )
            if upload is None:
                return False
            if ending is not None:
                self._end(upload, ending)
            else:
                self._announce(upload)
        failpoint(Point.ENQUEUED)
        if ending is None:
            log.info("file_finished", size=identity.size, key=key, **row_context(upload))
            self._context.signals.wake_stage(State.PENDING)
            self._context.signals.check_gate()
        return True

    def _is_still_there(self, path: str, identity: Identity) -> bool:
        """Whether a finding is still true, where others may have finished with the file since it was made."""
        if not self._context.tree.is_shared:
            return True
        self._context.ledger.lock_path(path)
        try:
            return self._context.tree.stat(path) == identity
        except (NotOursError, UnreadableError):
            return True

    def _end(self, upload: Upload, ending: Ending) -> None:
        self._context.ledger.advance(upload, ending.state, error=ending.reason, error_code=ending.code)
        if ending.state is State.REJECTED:
            log.warning("upload_rejected", code=ending.code, reason=ending.reason, **row_context(upload))
        else:
            log.error("upload_failed", code=ending.code, reason=ending.reason, **row_context(upload))

    def _announce(self, upload: Upload) -> None:
        self._context.catalog.announce(
            upload,
            local_url=self._context.naming.local_url(upload),
            public_url=self._context.naming.public_url(upload),
        )

    def _take_unreadable(self, path: str, rendition: Rendition, reason: str) -> bool:
        """Keep an unreadable file in view as a failed row, for there is nothing else that would show it."""
        if self._fail_waiting(path, Code.UNREADABLE, reason):
            return False
        known = self._context.ledger.current(path)
        try:
            identity = self._context.tree.stat(path)
        except (NotOursError, UnreadableError):
            # Not even its size can be told, so there is no row to write; the scan names the directory.
            return False
        if identity is None or (known is not None and known.state.is_live and known.identity == identity):
            return False
        return self._record_new(path, rendition, identity, Ending(State.FAILED, Code.UNREADABLE, reason))

    def _fail_waiting(self, path: str, code: str, reason: str) -> bool:
        """Make the path's waiting row fail, if there is one; a worker that claimed it finds out itself."""
        known = self._context.ledger.current(path)
        if known is None or known.state is not State.PENDING:
            return False
        if known.claimed_by is None:
            with suppress(ClaimLostError):
                self._end(known, Ending(State.FAILED, code, reason))
        return True
