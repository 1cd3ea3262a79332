"""The first stage: a finished file becomes a confirmed object."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import ClaimLostError, DatabaseError, GateVerdict, Ledger, Progress, State, Upload
from storage import (
    Confirmation,
    Receipt,
    Sent,
    Source,
    Target,
    Verdict,
    part_size_for,
)
from watcher import lease
from watcher.metrics import Metrics
from watcher.openat import identity_of, owned
from watcher.problems import KEY_TAKEN, Kind, LookAgainError, NotYetError, SetbackError
from watcher.runner import Work
from watcher.services import Services

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
        self._tree = services.tree
        self._ledger = services.ledger
        self._catalog = services.catalog
        self._store = services.store
        self._naming = services.naming
        self._metrics = services.metrics
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
            receipt = self._adopt(upload, source) or self._send(upload, source, work)
            source.ensure_unchanged()
            self._require_same_path(upload)
        self._ledger.advance(
            upload,
            State.VERIFIED,
            detail=f"confirmed by {receipt.confirmed_by}",
            etag=receipt.etag,
            version_id=receipt.version_id,
            confirmed_by=receipt.confirmed_by,
            url=self._naming.public_url(upload),
        )
        self._metrics.confirmed.labels(by=receipt.confirmed_by).inc()
        log.info("upload_verified", confirmed_by=receipt.confirmed_by, etag=receipt.etag, size=upload.size)
        self._wake(State.VERIFIED)

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
        return self._ledger.record(upload, checksum=checksum)

    def _adopt(self, upload: Upload, source: Source) -> Receipt | None:
        """The receipt of an object that is in place already: an earlier life was killed after sending it."""
        confirmation = self._confirm(upload, source, part_size_for(source.size))
        if confirmation.receipt is None:
            return None
        self._ledger.note(upload.id, "adopted", confirmation.detail)
        self._metrics.adopted.inc()
        log.info("object_adopted", key=upload.object_key)
        return confirmation.receipt

    def _send(self, upload: Upload, source: Source, work: Work) -> Receipt:
        started = self._clock()
        log.info("upload_started", key=upload.object_key, size=upload.size)
        progress = _Progress(self._ledger, upload, self._metrics, work, self._clock)
        sent = self._store.upload(
            source,
            Target(
                upload.object_key,
                self._naming.content_type(upload),
                {
                    "video-id": upload.video_id,
                    "quality": upload.quality,
                    "source-mtime": str(upload.mtime_ns),
                },
            ),
            checksum=_known(upload.checksum),
            progress=progress,
            cancelled=lambda: work.stopped() or progress.claim_is_lost,
        )
        progress.finish(sent)
        confirmation = self._confirm(upload, source, sent.part_size)
        self._metrics.upload_seconds.observe(self._clock() - started)
        if confirmation.receipt is None:
            raise _unconfirmed(confirmation)
        return confirmation.receipt

    def _confirm(self, upload: Upload, source: Source, part_size: int | None) -> Confirmation:
        return self._store.confirm(
            upload.object_key,
            size=source.size,
            checksum=_known(upload.checksum),
            expected_etag=lambda: source.etag(part_size),
        )


class _Progress:
    """Tells the ledger how far an upload is, seldom enough not to be a load, and whether it is still ours."""

    def __init__(
        self, ledger: Ledger, upload: Upload, metrics: Metrics, work: Work, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._upload = upload
        self._metrics = metrics
        self._work = work
        self._clock = clock
        self._recorded_at = clock()
        self._seen = 0
        self.claim_is_lost = False

    def __call__(self, bytes_sent: int) -> None:
        self._work.beat()
        self._metrics.bytes_sent.inc(max(0, bytes_sent - self._seen))
        self._seen = max(self._seen, bytes_sent)
        if self._clock() - self._recorded_at >= PROGRESS_SECONDS:
            self._recorded_at = self._clock()
            self._record({"bytes_sent": self._seen})

    def finish(self, sent: Sent) -> None:
        self._record({"bytes_sent": self._seen, "part_size": sent.part_size})

    def _record(self, facts: Progress) -> None:
        try:
            self._ledger.record(self._upload, **facts)
        except ClaimLostError:
            self.claim_is_lost = True
        except DatabaseError as exc:
            # The bytes go on: what could not be recorded now is recorded with the confirmation.
            log.debug("progress_unrecorded", reason=str(exc))


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
