"""The first stage: a finished file becomes a confirmed object."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import GateVerdict, State, Upload
from storage import (
    Confirmation,
    Multipart,
    OnlyIf,
    Receipt,
    Sent,
    Source,
    Target,
    Verdict,
    part_size_for,
)
from watcher import lease
from watcher.openat import identity_of, owned
from watcher.problems import KEY_TAKEN, Kind, LookAgainError, NotYetError, SetbackError
from watcher.runner import Work
from watcher.services import Services
from watcher.tracking import Tracking

log = structlog.get_logger()

GATE_SECONDS = 1.0
PROGRESS_SECONDS = 1.0
"""The ledger hears of an upload's progress at most this often."""


class UploadStage:
    """Hashes, sends and confirms pending rows. `clock` gives monotonic seconds."""

    name = "upload"
    state = State.PENDING
    patience_seconds = 180.0

    def __init__(self, services: Services, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._tree = services.tree
        self._database = services.database
        self._ledger = services.ledger
        self._catalog = services.catalog
        self._store = services.store
        self._public_access = services.public_access
        self._naming = services.naming
        self._metrics = services.metrics
        self._invalidator = services.invalidator
        self._longest_backoff = services.backoff.longest
        self._wake = services.wake
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
            with work.guard(upload):
                self._advance(upload, work)

    def _advance(self, upload: Upload, work: Work) -> None:
        with owned(self._tree.open(upload.path)) as fd:
            self._require_as_settled(upload, fd)
            self._require_own_key(upload)
            if not self._passes_gate(upload):
                return
            source = Source(fd)
            upload = self._with_checksum(upload, source, work)
            there = self._confirm(upload, source, upload.part_size or part_size_for(source.size))
            receipt = self._adopt(upload, there)
            if receipt is None:
                receipt = self._send(upload, source, work, self._condition(upload, there))
            source.ensure_unchanged()
            self._require_same_path(upload)
        self._record_verified(upload, receipt)
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
        if lease.ask(fd) is lease.Writers.SOME:
            raise LookAgainError("A process has it open for writing again.")
        if identity_of(os.fstat(fd)) != upload.identity:
            raise LookAgainError("Its size, time or inode is not what it was when it was finished.")

    def _require_same_path(self, upload: Upload) -> None:
        if self._tree.stat(upload.path) != upload.identity:
            raise LookAgainError("Another file stands at its path now.")

    def _require_own_key(self, upload: Upload) -> None:
        rival = self._ledger.same_key(upload)
        if rival is None or (rival.state is State.PENDING and rival.id > upload.id):
            return
        if rival.state is State.PENDING and self._tree.stat(rival.path) is None:
            reason = f"{rival.path}, which had the same object key, is being given up."
            raise NotYetError(KEY_TAKEN, reason, GATE_SECONDS)
        raise SetbackError(
            Kind.OBJECT,
            KEY_TAKEN,
            f"{rival.path} already has the object key {upload.object_key}; rename or remove one of the two, "
            f"then retry {upload.id}.",
        )

    def _passes_gate(self, upload: Upload) -> bool:
        gate = self._catalog.gate(upload)
        if gate.verdict is GateVerdict.WAIT:
            raise NotYetError("catalog-gate", gate.reason, GATE_SECONDS)
        if gate.verdict is GateVerdict.REJECTED:
            log.warning("upload_rejected", code="catalog-failed", reason=gate.reason)
            self._ledger.advance(upload, State.REJECTED, error=gate.reason, error_code="catalog-failed")
            return False
        return True

    def _with_checksum(self, upload: Upload, source: Source, work: Work) -> Upload:
        """Take the checksum anew each time: what the ledger remembers may be of before a power cut."""
        checksum = source.checksum(_beating(work))
        if checksum == upload.checksum:
            return upload
        if upload.multipart_id is not None:
            self._store.abort(upload.object_key, upload.multipart_id)
        return self._ledger.record(upload, checksum=checksum, multipart_id=None, part_size=None)

    def _adopt(self, upload: Upload, there: Confirmation) -> Receipt | None:
        """The receipt of an object that is in place already: an earlier life, or somebody else, sent it."""
        if there.receipt is None:
            return None
        self._public_access.ensure(upload.object_key)
        if upload.multipart_id is not None:
            self._store.abort(upload.object_key, upload.multipart_id)
        self._ledger.note(upload.id, "adopted", there.detail)
        self._metrics.adopted.inc()
        log.info("object_adopted", key=upload.object_key)
        return there.receipt

    def _condition(self, upload: Upload, there: Confirmation) -> OnlyIf:
        """Under which condition the object may be written: never over what is not ours to replace."""
        match there.verdict:
            case Verdict.MISSING:
                return OnlyIf.absent()
            case Verdict.DIFFERS if there.etag:
                self._require_replaceable(upload, there)
                return OnlyIf.is_(there.etag)
            case _:
                return OnlyIf.anything()

    def _require_replaceable(self, upload: Upload, there: Confirmation) -> None:
        """An object that no row of ours knows is replaced only if it is older than the file's row."""
        if any(there.etag == earlier.etag for earlier in self._ledger.of_key(upload.object_key)):
            return
        if there.last_modified is not None and there.last_modified >= upload.discovered_at:
            raise SetbackError(
                Kind.OBJECT,
                "foreign-object",
                f"An object {upload.object_key!r} of other content is there which this ledger does not know, "
                f"and it is newer than this file; remove the one that is wrong, then retry {upload.id}.",
            )

    def _send(self, upload: Upload, source: Source, work: Work, condition: OnlyIf) -> Receipt:
        started = self._clock()
        log.info("upload_started", key=upload.object_key, size=upload.size)
        progress = Tracking(self._services, upload, work, self._clock)
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
            sent = self._public_access.upload(upload.object_key, send)
        progress.finish(sent)
        confirmation = self._confirm(upload, source, sent.part_size)
        self._metrics.upload_seconds.observe(self._clock() - started)
        if confirmation.receipt is None:
            raise _unconfirmed(confirmation)
        return confirmation.receipt

    def _target(self, upload: Upload, condition: OnlyIf, *, with_acl: bool) -> Target:
        metadata = {
            "video-id": upload.video_id,
            "quality": upload.quality,
            "source-mtime": str(upload.mtime_ns),
        }
        content_type = self._naming.content_type(upload)
        return Target(upload.object_key, content_type, metadata, only_if=condition, with_acl=with_acl)

    def _confirm(self, upload: Upload, source: Source, part_size: int | None) -> Confirmation:
        return self._store.confirm(
            upload.object_key,
            size=source.size,
            checksum=_known(upload.checksum),
            expected_etag=lambda: source.etag(part_size),
        )


def _beating(work: Work) -> Callable[[], bool]:
    """The question whether to stop, whose being asked is a sign of progress."""

    def stopped() -> bool:
        work.beat()
        return work.stopped()

    return stopped


def _known(checksum: str | None) -> str:
    if checksum is None:
        raise ValueError("the checksum is taken before anything is sent or confirmed")
    return checksum


def _unconfirmed(confirmation: Confirmation) -> SetbackError:
    after = f"After it was sent: {confirmation.detail}"
    match confirmation.verdict:
        case Verdict.MISSING:
            return SetbackError(Kind.TRANSIENT, "object-missing", f"{after} It is sent again.")
        case Verdict.DIFFERS:
            return SetbackError(Kind.TRANSIENT, "object-differs", f"{after} It is sent again.")
        case _:
            return SetbackError(Kind.ENVIRONMENT, "object-unknown", after)
