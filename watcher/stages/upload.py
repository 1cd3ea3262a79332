"""The upload stage: hashes a finished file, sends it to S3 and confirms the object."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from db import Admission, DatabaseError, ErrorKind, Identity, Ledger, Progress, Proof, State, Upload
from storage import (
    Confirmation,
    Multipart,
    Receipt,
    SourceChangedError,
    SourceFile,
    StorageError,
    Target,
    Verdict,
    WriteCondition,
    part_size_for,
)
from watcher.catalog.gate import Admitted, Rejected, Waiting
from watcher.errors import Code, DecidedError, DeferError, FailureKind, ReexamineError, StageError
from watcher.failpoints import Point, failpoint
from watcher.filesystem import FileMissingError, leases
from watcher.filesystem.hashing import Rank
from watcher.filesystem.openat import Owned, birth_time_ns
from watcher.filesystem.removal import is_present_or_quarantined
from watcher.renditions import ORIGINAL
from watcher.stages.context import StageContext
from watcher.stages.object_origin import confirm_without_copy, is_own, metadata_of
from watcher.stages.runner import Stage, Work
from watcher.stages.upload_progress import UploadProgress
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

PATH_SECONDS = 0.5
"""How often the path of a file is compared with the open file while that is sent."""

RIVAL_SECONDS = 1.0
"""How soon a row is tried again whose object key a missing file, or one being uploaded, still holds."""

PATIENCE_SECONDS = 180.0
"""How long an attempt may take between two beats, at least."""
STALL_MARGIN_SECONDS = 120.0
"""By how much that exceeds the time that a request may stall."""

REHASH_SECONDS = 30.0
"""How soon an upload is tried again at the latest whose file has to be hashed again first."""

MAX_HASHED = 1024
"""How many of the files that were hashed last and are not confirmed yet are remembered."""

ZONE_STEP = timedelta(minutes=15)
"""The offset of every time zone from UTC is a multiple of this."""

COMMIT_BACKOFF = Backoff(base=0.5, factor=2.0, cap=10.0)


class UploadStage(Stage):
    """Hashes, sends and confirms pending uploads. `clock` returns monotonic seconds."""

    name = "upload"
    state = State.PENDING

    def __init__(self, context: StageContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_seconds = max(PATIENCE_SECONDS, context.store.stall_seconds + STALL_MARGIN_SECONDS)
        self._context = context
        self._clock = clock
        self._hashed: dict[int, tuple[str | None, _Stamp]] = {}
        """By upload, the checksum of what this process has hashed: a retry need not read it again."""

    def is_enabled(self) -> bool:
        """False while an operator has paused the uploads."""
        return self._context.orders.pause is None

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance each upload from `pending` to `verified`, or reject it, or return it to the gate."""
        for upload in uploads:
            with work.error_policy.handling(upload):
                steering = self._context.orders.steering
                if steering.is_held(upload.path) and steering.defer_if_held(upload):
                    raise DecidedError
                if work.asks_first:
                    with work.error_policy.breaker.asking():
                        self._ask(upload)
                self._advance(upload, work)

    def _advance(self, upload: Upload, work: Work) -> None:
        opened_at = self._clock()
        try:
            opened = self._context.tree.open(upload.path)
        except FileMissingError:
            if not self._recover(upload, work):
                raise
            return
        with Owned(opened) as fd:
            ctime_ns = self._require_as_settled(upload, fd).ctime_ns
            self._require_no_package(upload)
            admitted = self._pass_gate(upload)
            if admitted is None:
                raise DecidedError
            upload = admitted
            self._require_own_key(upload)
            rank = Rank.NEW if upload.checksum is None else Rank.AGAIN
            source = SourceFile(fd, self._context.hashing.pace(rank, upload.size, work), work.waiting)
            stamp = _stamp(fd)
            hash_first = partial(self._hash_first, source, ctime_ns, stamp)
            if upload.checksum is None and part_size_for(upload.size) is not None:
                # It is hashed as its parts go out, unless an object is there that has to be compared with it.
                source.write_back()
            else:
                upload = hash_first(upload)
            attempt = _Attempt(self._context, upload, work, self._clock)
            attempt.ctime_ns = ctime_ns
            attempt.hash_file = hash_first
            attempt.note_content = partial(self._note_content, source, fd, ctime_ns, stamp, work)
            attempt.doubt = partial(self._fail_if_damaged, source, ctime_ns)
            attempt.is_first = rank is Rank.NEW
            attempt.watch_path = partial(self._require_same_path, upload)
            attempt.watched_at = opened_at
            attempt.appeared_at = partial(_appeared_at, self._context.ledger, upload, fd)
            try:
                receipt = self._context.store.ensure(
                    source,
                    self._target(upload),
                    checksum=upload.checksum,
                    steps=attempt,
                    resume=attempt.unfinished_multipart,
                    part_size=upload.part_size,
                )
            except _NewerRowRequiredError as exc:
                log.info("upload_awaits_row", code=Code.ROW_NOT_NEWER, reason=str(exc))
                self._context.ledger.await_row(upload, reason=str(exc), code=Code.ROW_NOT_NEWER)
                return
            except Exception:
                attempt.record_unconfirmed()
                raise
            if attempt.started_at is not None:
                self._context.metrics.upload_seconds.observe(self._clock() - attempt.started_at)
            self._require_same_path(upload)
        self._conclude(attempt.upload, receipt, work, attempt)

    def _ask(self, upload: Upload) -> None:
        """Raise `storage.StorageError` unless S3 answers, before the file is read for nothing."""
        try:
            self._context.store.head(upload.object_key)
        except StorageError as exc:
            if exc.code != Code.OBJECT_UNKNOWN:
                raise

    def _recover(self, upload: Upload, work: Work) -> bool:
        """Verify the upload of a missing file by its object; return whether that proves the content.

        The ledger may have been restored from a backup: the file was uploaded and released since.
        """
        context = self._context
        if is_present_or_quarantined(context.tree, upload, context.ledger.token):
            return False
        context.tree.ensure_mounted()
        if context.gate is not None and isinstance(decision := context.gate.admit(upload), Admitted):
            upload = self._apply_admission(upload, decision.admission)
        if context.ledger.key_conflict(upload) is not None:
            return False
        try:
            found = confirm_without_copy(context.store, upload)
        except StorageError as exc:
            if exc.code != Code.OBJECT_UNKNOWN:
                raise
            # It concerns this upload only: others are sent without such an answer.
            reason = f"The local file is missing, and its object may be in S3: {exc}"
            raise StageError(FailureKind.TRANSIENT, Code.OBJECT_UNKNOWN, reason) from exc
        receipt = found.receipt
        if receipt is None:
            return False
        if upload.checksum is None:
            upload = context.ledger.record(upload, checksum=receipt.checksum)
        attempt = _Attempt(context, upload, work, self._clock)
        attempt.adopted(found)
        self._conclude(upload, receipt, work, attempt)
        return True

    def _conclude(self, upload: Upload, receipt: Receipt, work: Work, attempt: _Attempt) -> None:
        self._hashed.pop(upload.id, None)
        failpoint(Point.CONFIRMED)
        url = retry_until_committed(lambda: self._record_verified(upload, receipt, work, attempt), work)
        failpoint(Point.VERIFIED)
        self._context.metrics.confirmed.labels(by=receipt.confirmed_by).inc()
        log.info("upload_verified", confirmed_by=receipt.confirmed_by, etag=receipt.etag, size=upload.size)
        if url is None or work.publisher is None:
            self._context.signals.wake_stage(State.VERIFIED)
        else:
            work.publisher.announce(upload, url)

    def _record_verified(self, upload: Upload, receipt: Receipt, work: Work, attempt: _Attempt) -> str | None:
        """Record the receipt and, in the same transaction, publish the object if nothing stands between.

        Returns the URL if it was published. Requests the invalidation of a replaced object, too.
        """
        proof: Proof = {
            "etag": receipt.etag,
            "version_id": receipt.version_id,
            "confirmed_by": receipt.confirmed_by,
            "url": self._context.naming.public_url(upload),
        }
        if attempt.unrecorded:
            proof["bytes_sent"] = attempt.unrecorded["bytes_sent"]
        detail = f"confirmed by {receipt.confirmed_by}"
        publisher, url = work.publisher, None
        is_current = None if publisher is None else publisher.is_ready(upload)
        with self._context.database.transaction("record a confirmation"):
            verified = self._context.ledger.advance(upload, State.VERIFIED, detail=detail, **proof)
            invalidator = self._context.invalidator
            if invalidator is not None and not self._context.ledger.replaces_other_content(upload):
                invalidator = None
            if invalidator is not None:
                invalidator.request(upload.object_key)
                self._context.ledger.append_event(
                    upload.id, "replaced", "the CDN is asked to invalidate the object of the earlier content"
                )
            if publisher is not None and is_current is not None:
                url = publisher.publish_verified(verified, is_current=is_current)
        if invalidator is not None:
            invalidator.wake()
        return url

    def _require_no_package(self, upload: Upload) -> None:
        """Reject the upload if a playlist names its file, which may have appeared after it was enqueued."""
        if reason := self._context.packages.reason(upload.path):
            reason = f"It is not sent because {reason}. Once the playlist is gone, retry {upload.id}."
            log.warning("upload_rejected", code=Code.IN_PACKAGE, reason=reason)
            self._context.ledger.advance(upload, State.REJECTED, error=reason, error_code=Code.IN_PACKAGE)
            raise DecidedError

    def _require_as_settled(self, upload: Upload, fd: int) -> Identity:
        """Raise ReexamineError unless the file is unchanged since it was settled, which may be hours ago.

        Returns its identity. Another ctime does not matter, because the file is hashed next.
        """
        identity = self._context.tree.identity(os.fstat(fd))
        if leases.check_writers(fd) is leases.Writers.SOME:
            raise ReexamineError("A process has it open for writing again.")
        if identity != upload.identity:
            reason = "Its size, time or inode is not what it was when it was finished."
            if upload.checksum is None:
                raise ReexamineError(reason)
            raise ReexamineError(reason, REHASH_SECONDS)
        return identity

    def _require_same_path(self, upload: Upload) -> None:
        """Raise ReexamineError unless the file at the path is still the one that was hashed and sent."""
        if self._context.tree.stat(upload.path) != upload.identity:
            raise ReexamineError("It changed while it was sent, or another file stands at its path now.")

    def _require_own_key(self, upload: Upload) -> None:
        rival = self._context.ledger.key_conflict(upload)
        if rival is None:
            return
        if rival.state is State.PENDING and rival.id > upload.id:
            # It may have passed the gate, and this check, while the older one still waited there.
            if rival.checksum is None or not self._context.ledger.is_claimed(rival):
                return
            reason = f"{rival.path}, which has the same object key, is being uploaded."
            raise DeferError(Code.KEY_TAKEN, reason, RIVAL_SECONDS)
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

    def _hash_first(self, source: SourceFile, ctime_ns: int | None, stamp: _Stamp, upload: Upload) -> Upload:
        """Hash the file, once a process; return the upload with its checksum, and raise as `_hash`."""
        if (upload.checksum, stamp) != self._hashed.get(upload.id):
            upload = self._hash(upload, source, ctime_ns)
            self._note_hashed(upload, stamp)
        failpoint(Point.HASHED)
        # Again: another file of the key may have passed the gate since.
        self._require_own_key(upload)
        return upload

    def _note_content(
        self,
        source: SourceFile,
        fd: int,
        ctime_ns: int | None,
        stamp: _Stamp,
        work: Work,
        upload: Upload,
        checksum: str,
    ) -> Upload:
        """Record the checksum of what was read and sent, before an object is made of it.

        A database that is away is waited for. `ctime_ns` and `stamp` are from before. If they have changed,
        the file is read again as a whole: an edit may have come between two parts. Raises SourceChangedError
        for one.
        """
        record = partial(self._context.ledger.record, upload, checksum=checksum, ctime_ns=ctime_ns)
        upload = retry_until_committed(record, work)
        failpoint(Point.HASHED)
        retry_until_committed(partial(self._require_own_key, upload), work)
        if (now := _stamp(fd)) != stamp:
            try:
                upload = self._hash(upload, source, self._context.tree.identity(os.fstat(fd)).ctime_ns)
            except ReexamineError as exc:
                raise SourceChangedError(str(exc)) from exc
        self._note_hashed(upload, now)
        return upload

    def _fail_if_damaged(self, source: SourceFile, ctime_ns: int | None, upload: Upload) -> None:
        """Let the upload fail whose file is not what an earlier attempt sent of it, unless it was edited."""
        if upload.ctime_ns is not None and upload.ctime_ns == ctime_ns:
            raise self._failed_as_damaged(upload, source, source.checksum(), ctime_ns)

    def _hash(self, upload: Upload, source: SourceFile, ctime_ns: int | None) -> Upload:
        """Hash the file; return the upload with its checksum.

        `ctime_ns` is the file's from before, so that no edit during the hashing can be overlooked. Other
        content under the same size, times and inode was not written by any process: a power cut or a failing
        disk leaves it, after the ledger recorded the checksum. Such an upload fails: raises DecidedError.
        With another ctime it was edited in place: raises ReexamineError.
        """
        is_new = upload.checksum is None
        # Where the server compares the checksum, that tells all that the ETag of a single PUT would.
        needs_etag = part_size_for(upload.size) is None and not self._context.store.is_known_to_compare
        md5 = hashlib.md5(usedforsecurity=False) if is_new and needs_etag else None
        checksum = source.checksum(copy_to=None if md5 is None else md5.update)
        if checksum == upload.checksum:
            if ctime_ns == upload.ctime_ns:
                return upload
            return self._context.ledger.record(upload, ctime_ns=ctime_ns)
        if is_new:
            etag = None if md5 is None else md5.hexdigest()
            return self._context.ledger.record(upload, **self._content(upload, checksum, ctime_ns, etag))
        if upload.ctime_ns not in {None, ctime_ns}:
            raise ReexamineError("Its content is not what was hashed before: it was edited in place since.")
        raise self._failed_as_damaged(upload, source, checksum, ctime_ns)

    def _failed_as_damaged(
        self, upload: Upload, source: SourceFile, checksum: str, ctime_ns: int | None
    ) -> DecidedError:
        reason = (
            "Its content differs from what was hashed before, although size, time and inode are the same: a "
            f"power cut or a failing disk leaves that. Restore it, or retry {upload.id} to upload it as is."
        )
        # A retry uploads the present content: the operator has checked it.
        etag = source.etags(None)[0] if part_size_for(upload.size) is None else None
        content = self._content(upload, checksum, ctime_ns, etag)
        with self._context.database.transaction("record that a file is damaged"):
            rehashed = self._context.ledger.record(upload, **content)
            self._context.ledger.advance(rehashed, State.FAILED, error=reason, error_code=Code.LOCAL_DAMAGED)
        log.error("upload_failed", code=Code.LOCAL_DAMAGED, reason=reason)
        return DecidedError()

    def _note_hashed(self, upload: Upload, stamp: _Stamp) -> None:
        self._hashed[upload.id] = upload.checksum, stamp
        for oldest in list(self._hashed)[:-MAX_HASHED]:
            self._hashed.pop(oldest, None)

    def _content(self, upload: Upload, checksum: str, ctime_ns: int | None, etag: str | None) -> Progress:
        """What the object is recognized by; `etag` is that of a single PUT, None where the checksum does.

        Aborts the multipart upload of earlier content: outside of a transaction, which others wait for.
        """
        abort_multipart(self._context, upload)
        return Progress(
            checksum=checksum,
            ctime_ns=ctime_ns,
            expected_etag=etag,
            multipart_id=None,
            part_size=None,
        )

    def _target(self, upload: Upload) -> Target:
        metadata = metadata_of(self._context.ledger, upload)
        return Target(upload.object_key, self._context.naming.content_type(upload), metadata)


class _NewerRowRequiredError(Exception):
    """The object was verified for the upload's catalog row, and has other content."""


class _Attempt(UploadProgress):
    """An attempt to make an object hold a file: what it may replace, and what is recorded.

    `appeared_at` returns the time from which on an object of unknown origin may be newer than the file.
    """

    appeared_at: Callable[[], datetime]

    watch_path: Callable[[], None] = staticmethod(lambda: None)
    """Raises ReexamineError once another file stands at the path."""
    watched_at = float("-inf")
    """When it was called last, or the path was opened."""

    hash_file: Callable[[Upload], Upload]
    """Hashes the file and records that."""
    note_content: Callable[[Upload, str], Upload]
    """Records the checksum of a file that was hashed as it was sent."""
    doubt: Callable[[Upload], None]
    """Decides what becomes of a file that is not what an earlier attempt sent of it."""

    def hash_first(self, source: SourceFile) -> str:  # noqa: ARG002 - `hash_file` knows it
        """Hash the file, because the server has an object."""
        self.upload = self.hash_file(self.upload)
        return _known(self.upload.checksum)

    def hashed(self, checksum: str) -> None:
        """Record what the object will be recognized by, and that the file was not edited meanwhile."""
        self.upload = self.note_content(self.upload, checksum)

    def part_differs(self) -> None:
        """Raise DecidedError if the file is damaged; of one that was edited, every part is sent again."""
        self.doubt(self.upload)

    def is_cancelled(self) -> bool:
        """As `UploadProgress`; raises what `watch_path` raises."""
        now = self._clock()
        if now - self.watched_at >= PATH_SECONDS:
            self.watched_at = now
            self.watch_path()
        return super().is_cancelled()

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
            case Verdict.UNKNOWN if found.etag:
                # What proves nothing may be the object of another program.
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
        upload, head = self.upload, found.head
        if head is None or is_own(self.context.ledger, upload, head):
            return
        if head.last_modified is not None and head.last_modified >= self.appeared_at():
            raise StageError(
                FailureKind.OBJECT,
                Code.FOREIGN_OBJECT,
                f"S3 has an object {upload.object_key!r} with other content that is not in this ledger and "
                f"is newer than this file. Remove the wrong one of the two, then retry {upload.id}.",
            )


def _appeared_at(ledger: Ledger, upload: Upload, fd: int) -> datetime:
    """The time from which on an object may be newer than what the catalog's row means by a file.

    That is the beginning of the encode, after the row was inserted. The row's time has no zone, so it is the
    birth of the inode. An inode that had other content before is older: then the row's time tells, in the
    zone in which it comes last before the end of the encode, which is never too early. An original is copied
    before its row is inserted, and given the time of its source: its ctime is that of the copy.
    """
    if upload.catalog_row_at is None:
        return upload.discovered_at
    status = os.fstat(fd)
    if upload.quality == ORIGINAL:
        return min(upload.discovered_at, _utc(status.st_ctime_ns))
    written_at = _utc(status.st_mtime_ns)
    born_ns = birth_time_ns(fd)
    if born_ns is not None:
        born_at = _utc(min(born_ns, status.st_mtime_ns))
        earlier = (other for other in ledger.uploads(path=upload.path) if other.id < upload.id)
        if not any(other.discovered_at >= born_at for other in earlier):
            return min(upload.discovered_at, born_at)
    return min(upload.discovered_at, written_at - (written_at - upload.catalog_row_at) % ZONE_STEP)


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)


def abort_multipart(context: StageContext, upload: Upload) -> None:
    """Abort the multipart upload of an earlier attempt, unless the claim is lost."""
    if upload.multipart_id is not None:
        context.ledger.require_claim(upload)
        context.store.abort(upload.object_key, upload.multipart_id)


_Stamp = tuple[int, int, int, int, int]
_T = TypeVar("_T")


def _stamp(fd: int) -> _Stamp:
    """What changes with every edit of a file that does not set back the clock, the ctime included."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _known(checksum: str | None) -> str:
    if checksum is None:
        raise ValueError("the checksum must be known before an object is sent or confirmed")
    return checksum


def retry_until_committed(record: Callable[[], _T], work: Work) -> _T:
    """Retry committing what was sent or confirmed until the database answers, so that nothing is done again.

    Returns what `record` returns. Raises what it raises: ClaimLostError; DatabaseError if a retry cannot help
    or the stage stops, in which case the next attempt adopts the object.
    """
    failures = 0
    while True:
        try:
            return record()
        except DatabaseError as exc:
            if exc.kind is not ErrorKind.TRANSIENT or work.wait(
                COMMIT_BACKOFF.delay(failures).total_seconds()
            ):
                raise
            if not failures:
                log.warning("record_waits", reason=str(exc))
            failures += 1
            work.beat()
