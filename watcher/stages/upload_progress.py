"""Reports the progress of an upload to the ledger, the metrics and the progress display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from db import ClaimLostError, DatabaseError, Progress, Upload
from storage import Multipart, Sent, UploadSteps
from watcher.failpoints import Point, failpoint
from watcher.stages.context import StageContext
from watcher.stages.runner import Work

log = structlog.get_logger()

PROGRESS_SECONDS = 1.0
"""The shortest time between two updates of an upload's row."""


class UploadProgress(UploadSteps):
    """Records how much of an upload was sent, and notices when its claim is lost."""

    def __init__(self, context: StageContext, upload: Upload, work: Work, clock: Callable[[], float]) -> None:
        self.context = context
        self.upload = upload
        self._work = work
        self._clock = clock
        self._recorded_at = clock()
        self._seen = 0
        self._claim_is_lost = False
        self.ctime_ns = upload.ctime_ns
        """The file's ctime from before anything of it was read."""
        self.unrecorded: Progress = {}
        """What is left to the confirmation, or if there is none to `record_unconfirmed`."""
        self.started_at: float | None = None
        """When sending began, on the clock; None until then."""

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Show the upload's progress while it is sent."""
        log.info("upload_started", key=self.upload.object_key, size=self.upload.size)
        is_resumed = self.upload.multipart_id is not None
        self.started_at = self._recorded_at = self._clock()
        self.context.transfer_progress.begin(self.upload, is_resumed=is_resumed)
        try:
            yield
        finally:
            self.context.transfer_progress.end(self.upload)

    def on_multipart(self, multipart: Multipart) -> None:
        """Record a multipart upload before any part is sent, so that a crash leaves no unknown parts.

        Raises `db.DatabaseError` and `db.ClaimLostError`; no part is sent then.
        """
        failpoint(Point.MULTIPART_CREATED)
        self.context.ledger.record(
            self.upload,
            multipart_id=multipart.upload_id,
            part_size=multipart.part_size,
            ctime_ns=self.ctime_ns,
        )
        failpoint(Point.MULTIPART_RECORDED)

    def progress(self, accepted: int) -> None:
        """Record how many bytes S3 has accepted so far; a smaller number than before is ignored."""
        self._work.beat()
        self._work.error_policy.breaker.moved(self.upload.id)
        self.context.metrics.bytes_sent.inc(max(0, accepted - self._seen))
        self._seen = max(self._seen, accepted)
        self.context.transfer_progress.update(self.upload, self._seen)
        failpoint(Point.PART_SENT)
        if self._clock() - self._recorded_at >= PROGRESS_SECONDS:
            self._recorded_at = self._clock()
            self._record({"bytes_sent": self._seen})

    def completing(self, expected_etag: str | None) -> None:
        """Record by which ETag the object is recognized as ours if no answer comes; checks the claim, too."""
        self._record({"bytes_sent": self._seen, "expected_etag": expected_etag})

    def moved(self) -> None:
        """Note that bytes move, of this upload or of those that it waits for: the thread is not stuck."""
        self._work.beat()

    def is_cancelled(self) -> bool:
        """Whether the stage stops, or another daemon has the claim."""
        return self._work.stopped() or self._claim_is_lost

    def sent(self, sent: Sent) -> None:
        """Record the result; by its ETag the object is recognized as ours even if it is never confirmed.

        The confirmation follows at once. Until then the ETag may be missing if the row tells it already, or
        the checksum in the row tells as much: the server is known to compare it with the content.
        """
        failpoint(Point.COMPLETED)
        facts: Progress = {"bytes_sent": self._seen, "part_size": sent.part_size, "etag": sent.etag}
        is_known = sent.etag == self.upload.expected_etag or self.context.store.is_known_to_compare
        if sent.part_size is None and is_known:
            self.unrecorded = facts
        else:
            self._record(facts)

    def record_unconfirmed(self) -> None:
        """Record the result of an object that was sent and is not confirmed."""
        if self.unrecorded:
            self._record(self.unrecorded)

    def _record(self, facts: Progress) -> None:
        try:
            self.context.ledger.record(self.upload, **facts)
        except ClaimLostError:
            self._claim_is_lost = True
        except DatabaseError as exc:
            # Sending continues: the confirmation records all of this again.
            log.debug("progress_unrecorded", reason=str(exc))
