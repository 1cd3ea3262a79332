"""Aborts multipart uploads that will not be completed: their parts cost money, and listings omit them.

Only uploads that this ledger knows by key and id are touched: other hosts may share the bucket and the
prefix, and other daemons the ledger.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog

from db import DatabaseError, Ledger, State
from storage import PROBE_NAME, ObjectStore, OpenMultipart, StorageError
from watcher.errors import Failure, failure_of
from watcher.stages.receipts import ReceiptKeeper
from watcher.supervision.background_thread import FailureState, Supervisor, Worker
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

PERIOD_SECONDS = 60.0
LISTING_SECONDS = 3600.0
"""Between two listings, which also find uploads whose CreateMultipartUpload was never answered."""

REST_SECONDS = 1.0
"""Before more uploads are folded."""

PROBES_KEPT = timedelta(hours=1)
"""Another daemon may be using a younger one."""

BATCH = 100
PATIENCE_SECONDS = 600.0


class _Refusals:
    """Requests that S3 denied (403), which keep none of the others waiting: a policy may deny one key."""

    def __init__(self) -> None:
        self._first: StorageError | None = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        try:
            yield
        except StorageError as exc:
            if exc.status != 403:
                raise
            self._first = self._first or exc

    def raise_first(self) -> None:
        if self._first is not None:
            raise self._first


class AbandonedMultiparts(Worker):
    """Aborts the multiparts of rows that ended and, at the start and every hour, those that no row names.

    Between them its thread has `receipts` do its part. `report` is told what keeps the listing from being
    made: it is the first request to S3 of a daemon. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ObjectStore,
        prefix: str,
        backoff: Backoff,
        supervisor: Supervisor,
        receipts: ReceiptKeeper | None = None,
        report: Callable[[Failure], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, "abandoned multiparts")
        self._ledger = ledger
        self._store = store
        self._prefix = prefix
        self._backoff = backoff
        self._receipts = receipts
        self._receipts_due_at = math.inf
        self._report = report
        self._clock = clock
        self._listing_due_at = 0.0
        self._has_listed = False
        self._listing_failure = FailureState(
            lambda failure: log.warning("multiparts_unlisted", reason=failure.sentence)
        )
        self._abort_failure = FailureState(
            lambda failure: log.warning("abort_failed", reason=failure.sentence)
        )
        self._failures = 0
        self._after = 0
        """The upload after which the next batch begins."""
        self._then: Callable[[], None] | None = None
        self._thread = self.add_thread("abandoned multiparts", self._step, patience=PATIENCE_SECONDS)

    def start(self, *, then: Callable[[], None] = lambda: None) -> None:
        """List the open multipart uploads, call `then`, which may begin to send, then abort every minute.

        The listing runs in the thread, because a server that does not answer delays it by a minute.
        """
        self._then = then
        super().start()

    def adopt_or_abort(self) -> bool:
        """Adopt or abort each open multipart upload of this ledger's keys; must run before anything is sent.

        An upload that a pending row names stays and is resumed. Any other upload of a key with rows in this
        ledger was begun by a process that was killed before it recorded the id, or whose request was never
        answered; while a row of the key is claimed, the decision is left to a listing soon after.
        Returns False if S3 or the database failed, which is logged once until both answer.
        """
        self._listing_due_at = self._clock() + LISTING_SECONDS
        refusals = _Refusals()
        try:
            prefix = self._prefix and f"{self._prefix}/"
            for found in self._store.open_multiparts(prefix):
                with refusals.collecting():
                    self._adopt_or_abort(found)
            refusals.raise_first()
        except (StorageError, DatabaseError) as exc:
            failure = failure_of(exc)
            self._listing_failure.fail(failure)
            self._report(failure)
            return False
        self._listing_failure.succeed()
        if self._has_listed:
            self._remove_probes()
        self._has_listed = True
        return True

    def _remove_probes(self) -> None:
        """Remove what a killed daemon had stored to find out what the server does: a matter of seconds."""
        prefix = f"{self._prefix and f'{self._prefix}/'}{PROBE_NAME}"
        try:
            before = self._ledger.now() - PROBES_KEPT
            for found in self._store.objects(prefix):
                if found.written_at < before:
                    self._store.delete(found.key)
            for upload in self._store.open_multiparts(prefix):
                if upload.initiated_at < before:
                    self._store.abort(upload.key, upload.upload_id)
        except (StorageError, DatabaseError) as exc:
            # Most likely the bucket may not be listed, which `doctor` says.
            log.debug("probes_left", reason=str(exc))

    def run_due(self) -> float:
        """Abort what was abandoned, and list if that is due; returns the seconds until the next call."""
        if self._clock() >= self._listing_due_at:
            self.adopt_or_abort()
        try:
            aborted = self.abort_abandoned()
        except (StorageError, DatabaseError) as exc:
            self._abort_failure.fail(failure_of(exc))
            self._failures += 1
            return max(PERIOD_SECONDS, self._backoff.delay(self._failures).total_seconds())
        self._abort_failure.succeed()
        self._failures = 0
        return 0.0 if aborted == BATCH else PERIOD_SECONDS

    def abort_abandoned(self) -> int:
        """Abort what rows that ended left open; returns how many. Raises StorageError and DatabaseError."""
        aborted = 0
        refusals = _Refusals()
        batch = self._ledger.abandoned_multiparts(BATCH, after=self._after)
        for upload in batch:
            with refusals.collecting():
                self._store.abort(upload.object_key, upload.multipart_id or "")
                # False if another daemon of the directory has aborted it as well.
                if self._ledger.mark_multipart_aborted(upload):
                    aborted += 1
                    log.info("multipart_aborted", key=upload.object_key, upload=upload.id)
        self._after = batch[-1].id if len(batch) == BATCH else 0
        refusals.raise_first()
        return aborted

    def _adopt_or_abort(self, found: OpenMultipart) -> None:
        """Adopt it, abort it, or leave it to its owner; list again soon if that cannot be decided yet."""
        # Queried after the listing: a process that began the upload meanwhile had claimed its row before.
        of_all_instances = self._ledger.uploads_of_key(found.key, all_instances=True)
        uploads = [upload for upload in of_all_instances if upload.instance == self._ledger.instance]
        if not uploads:
            return
        pending = [upload for upload in of_all_instances if upload.state is State.PENDING]
        if any(upload.multipart_id == found.upload_id for upload in pending):
            if not self._has_listed:
                log.info("multipart_adopted", key=found.key)
            return
        if any(self._ledger.is_claimed(upload) for upload in pending):
            self._listing_due_at = self._clock() + PERIOD_SECONDS
            return
        self._store.abort(found.key, found.upload_id)
        for upload in uploads:
            if upload.multipart_id == found.upload_id:
                self._ledger.mark_multipart_aborted(upload)
        log.info("multipart_aborted", key=found.key)

    def _step(self) -> float:
        if self._then is None:
            wait = self.run_due()
            if self._receipts is None or self._clock() < self._receipts_due_at:
                return wait
            has_more = self._receipts.run_due(self._thread.stopping, self._thread.beat)
            return min(wait, REST_SECONDS) if has_more else wait
        self.adopt_or_abort()
        if not self._thread.stopping.is_set():
            self._then()
        self._then = None
        # Not while the start has much else to do.
        self._receipts_due_at = self._clock() + PERIOD_SECONDS / 2
        return 0.0
