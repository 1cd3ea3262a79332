"""Invalidates the CDN's copies of replaced objects: in batches, at most once a minute, until it succeeds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import DatabaseError, Invalidation, Invalidations
from storage import MAX_INVALIDATION_PATHS, AccessKey, Distribution, StorageError, invalidation_paths
from watcher.errors import Code, Failure, FailureKind, failure_of
from watcher.supervision.background_thread import Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.telemetry import Metrics

log = structlog.get_logger()

NAME = "invalidation"
"""Its name in the log, in `status` and in metrics, where stages have theirs."""

INTERVAL = timedelta(seconds=60)
"""Between two requests, whether they succeed or not."""

MAX_WAIT_SECONDS = 30.0
"""The table is read at least this often, because a command may have added to it."""

DATABASE_RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0

RETRIES = Backoff(base=60.0, factor=2.0, cap=900.0)


class Invalidator(Worker):
    """Sends the requests in `invalidations` to `distribution`, in a thread of its own or by `flush`.

    The requests are kept in the table; only the count of failures is lost with the process. `clock` gives
    monotonic seconds.
    """

    def __init__(
        self,
        distribution: Distribution,
        invalidations: Invalidations,
        *,
        supervisor: Supervisor,
        metrics: Metrics,
        backoff: Backoff = RETRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, f"{NAME} thread")
        self._distribution = distribution
        self._invalidations = invalidations
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self.breaker = CircuitBreaker(NAME, clock=clock, backoff=backoff)
        self._failures = 0
        self._not_before = clock()
        self.add_thread(NAME, self.flush, patience=PATIENCE_SECONDS)

    def use_credentials(self, key: AccessKey | None) -> None:
        """Use these from now on, or where they are None those that boto3 finds."""
        self._distribution.use_credentials(key)

    def request(self, object_key: str) -> None:
        """Request the invalidation of a replaced object, within the transaction that is open, if one is.

        Call `wake` after that transaction.
        """
        self._invalidations.request(object_key)

    def has_waiting(self) -> bool:
        """Whether requests are still to be sent."""
        return bool(self._invalidations.unsent(1))

    def flush(self) -> float:
        """Send one batch if one is due; returns the seconds to wait before the next call.

        Failures are logged and counted here, not raised.
        """
        try:
            batch, paths = self._batch()
            self.breaker.clear(Code.DATABASE)
            wait = self._seconds_to_wait() if batch else MAX_WAIT_SECONDS
            if batch and not wait:
                self._send(batch, paths)
                wait = INTERVAL.total_seconds()
        except DatabaseError as exc:
            self.breaker.trip(failure_of(exc))
            return DATABASE_RETRY_SECONDS
        return wait

    def _batch(self) -> tuple[list[Invalidation], list[str]]:
        """The oldest requests whose paths fit into one batch, and the paths without duplicates."""
        batch: list[Invalidation] = []
        paths: dict[str, None] = {}
        for invalidation in self._invalidations.unsent(MAX_INVALIDATION_PATHS):
            grown = paths | dict.fromkeys(invalidation_paths(invalidation.object_key))
            if len(grown) > MAX_INVALIDATION_PATHS:
                break
            paths = grown
            batch.append(invalidation)
        return batch, list(paths)

    def _seconds_to_wait(self) -> float:
        """How long until a request may be made; the last one may be one of an earlier process."""
        wait = max(0.0, self._not_before - self._clock())
        last = self._invalidations.last_sent_at()
        if last is not None:
            left = last + INTERVAL - self._invalidations.now()
            # More than the interval is left only after the clock was set back.
            wait = max(wait, min(left, INTERVAL).total_seconds())
        return wait

    def _send(self, batch: Sequence[Invalidation], paths: Sequence[str]) -> None:
        interval = INTERVAL.total_seconds()
        self._not_before = self._clock() + interval
        try:
            number = self._distribution.invalidate(paths, reference=self._reference(batch))
        except StorageError as exc:
            delay = max(interval, self._backoff.delay(self._failures).total_seconds())
            self._not_before = self._clock() + delay
            self._failures += 1
            self._handle_failure(failure_of(exc), len(paths), delay)
            return
        self._invalidations.mark_sent(batch)
        self._failures = 0
        self._metrics.invalidated.inc(len(paths))
        log.info("cdn_invalidated", invalidation=number, distribution=self._distribution.id, paths=len(paths))
        self.breaker.clear()

    def _handle_failure(self, failure: Failure, paths: int, delay: float) -> None:
        self._metrics.setbacks.labels(stage=NAME, kind=failure.kind).inc()
        if failure.kind is FailureKind.TRANSIENT:
            log.warning(
                "attempt_failed",
                stage=NAME,
                code=failure.code,
                reason=failure.sentence,
                paths=paths,
                attempts=self._failures,
                retry_in_seconds=round(delay, 1),
            )
        else:
            self.breaker.trip(failure)

    def _reference(self, batch: Sequence[Invalidation]) -> str:
        """An idempotency key: the same for the same batch, also in a later process."""
        digest = hashlib.sha256(self._invalidations.instance.encode())
        for invalidation in batch:
            digest.update(f"/{invalidation.id} {invalidation.requested_at.isoformat()}".encode())
        return f"video-uploader-{digest.hexdigest()}"
