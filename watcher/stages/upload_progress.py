"""Reports the progress of an upload to the ledger, the metrics and the progress display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from db import ClaimLostError, DatabaseError, Progress, Upload
from storage import Multipart, Sent
from watcher.failpoints import Point, failpoint
from watcher.stages.context import StageContext
from watcher.stages.runner import Work

log = structlog.get_logger()

PROGRESS_SECONDS = 1.0
"""The shortest time between two updates of an upload's row."""


class UploadProgress:
    """Records how many bytes were sent, and notices when the claim is lost."""

    def __init__(self, context: StageContext, upload: Upload, work: Work, clock: Callable[[], float]) -> None:
        self._context = context
        self._upload = upload
        self._work = work
        self._clock = clock
        self._recorded_at = clock()
        self._seen = 0
        self.claim_is_lost = False

    @contextmanager
    def shown(self, *, is_resumed: bool) -> Iterator[None]:
        """Show the upload's progress during a `with` block."""
        self._context.transfer_progress.begin(self._upload, is_resumed=is_resumed)
        try:
            yield
        finally:
            self._context.transfer_progress.end(self._upload)

    def begin(self, multipart: Multipart) -> None:
        """Record a multipart upload before any part is sent, so that a crash leaves no unknown parts.

        Raises `db.DatabaseError` and `db.ClaimLostError`; no part is sent then.
        """
        failpoint(Point.MULTIPART_CREATED)
        self._context.ledger.record(
            self._upload, multipart_id=multipart.upload_id, part_size=multipart.part_size
        )
        failpoint(Point.MULTIPART_RECORDED)

    def __call__(self, bytes_sent: int) -> None:
        """Record how many bytes S3 has accepted so far; a smaller number than before is ignored."""
        self._work.beat()
        self._context.metrics.bytes_sent.inc(max(0, bytes_sent - self._seen))
        self._seen = max(self._seen, bytes_sent)
        self._context.transfer_progress.move(self._upload, self._seen)
        failpoint(Point.PART_SENT)
        # The claim is checked before the object is completed.
        is_complete = bytes_sent >= self._upload.size
        if is_complete or self._clock() - self._recorded_at >= PROGRESS_SECONDS:
            self._recorded_at = self._clock()
            self._record({"bytes_sent": self._seen})

    def finish(self, sent: Sent) -> None:
        """Record the result; by its ETag the object is recognized as ours even if it is never confirmed."""
        self._record({"bytes_sent": self._seen, "part_size": sent.part_size, "etag": sent.etag})

    def _record(self, facts: Progress) -> None:
        try:
            self._context.ledger.record(self._upload, **facts)
        except ClaimLostError:
            self.claim_is_lost = True
        except DatabaseError as exc:
            # Sending continues: the confirmation records all of this again.
            log.debug("progress_unrecorded", reason=str(exc))
