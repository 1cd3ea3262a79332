"""How far an upload is: told to the ledger seldom enough not to be a load, and to whoever shows it."""

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
"""The ledger hears of an upload's progress at most this often."""


class UploadProgress:
    """Tells the ledger how far an upload is, seldom enough not to be a load, and whether it is still ours."""

    def __init__(self, context: StageContext, upload: Upload, work: Work, clock: Callable[[], float]) -> None:
        self._ledger = context.ledger
        self._metrics = context.metrics
        self._transfer_progress = context.transfer_progress
        self._upload = upload
        self._work = work
        self._clock = clock
        self._recorded_at = clock()
        self._seen = 0
        self.claim_is_lost = False

    @contextmanager
    def shown(self, *, is_resumed: bool) -> Iterator[None]:
        """Have the upload on the board for the length of a `with` block."""
        self._transfer_progress.begin(self._upload, is_resumed=is_resumed)
        try:
            yield
        finally:
            self._transfer_progress.end(self._upload)

    def begin(self, multipart: Multipart) -> None:
        """Note a multipart upload before any part is sent, so that a crash leaves nothing nobody knows of.

        Raises what the ledger raises: bytes that could not be found again are not sent.
        """
        failpoint(Point.MULTIPART_CREATED)
        self._ledger.record(self._upload, multipart_id=multipart.upload_id, part_size=multipart.part_size)
        failpoint(Point.MULTIPART_RECORDED)

    def __call__(self, bytes_sent: int) -> None:
        """Take in how many bytes S3 has accepted so far; fewer than before change nothing."""
        self._work.beat()
        self._metrics.bytes_sent.inc(max(0, bytes_sent - self._seen))
        self._seen = max(self._seen, bytes_sent)
        self._transfer_progress.update(self._upload, self._seen)
        failpoint(Point.PART_SENT)
        # Before an object is completed it is made sure that this is still ours to do.
        is_complete = bytes_sent >= self._upload.size
        if is_complete or self._clock() - self._recorded_at >= PROGRESS_SECONDS:
            self._recorded_at = self._clock()
            self._record({"bytes_sent": self._seen})

    def finish(self, sent: Sent) -> None:
        """Note what was sent; with its ETag the object is known as ours though nothing is confirmed yet."""
        self._record({"bytes_sent": self._seen, "part_size": sent.part_size, "etag": sent.etag})

    def _record(self, facts: Progress) -> None:
        try:
            self._ledger.record(self._upload, **facts)
        except ClaimLostError:
            self.claim_is_lost = True
        except DatabaseError as exc:
            # The bytes go on: what could not be recorded now is recorded with the confirmation.
            log.debug("progress_unrecorded", reason=str(exc))
