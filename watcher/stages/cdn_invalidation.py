"""Invalidates the CDN's copies of replaced objects: in batches, at most once a minute, until it succeeds.

A batch that CloudFront refuses is sent in halves, so that one bad path keeps back no other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import structlog

from db import DatabaseError, Invalidation, Invalidations
from storage import MAX_INVALIDATION_PATHS, Distribution, StorageError, invalidation_paths
from watcher.errors import Code, Failure, FailureKind, failure_of
from watcher.supervision.background_thread import SetAside, Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.telemetry import Metrics, printable

log = structlog.get_logger()

NAME = "invalidation"
"""Its name in the log, in `status` and in metrics, where stages have theirs."""

INTERVAL = timedelta(seconds=60)
"""Between two requests, whether they succeed or not."""

MAX_WAIT_SECONDS = 30.0
"""The table is read at least this often, because a command may have added to it."""

DATABASE_RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0

MAX_REQUESTS = 64
SPLITTING_SECONDS = 30.0
"""So many requests are made for one batch, and so long, to find the paths that CloudFront refuses."""
REFUSED_SECONDS = 3600.0
"""How long an object key is set aside whose paths are refused."""

RETRIES = Backoff(base=60.0, factor=2.0, cap=900.0)


class Invalidator(Worker):
    """Sends the requests in `invalidations` to `distribution`, in a thread of its own or by `flush`.

    The requests are kept in the table; only the count of failures, and what was refused, are lost with the
    process. `clock` gives monotonic seconds.
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
        self._refused: Mapping[str, tuple[float, str]] = {}
        """By object key, until when it is set aside, and why."""
        self._thread = self.add_thread(NAME, self.flush, patience=PATIENCE_SECONDS)
        supervisor.report_set_aside(f"{NAME}s", self._set_aside_now)

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
            batch = self._batch()
            self.breaker.clear(Code.DATABASE)
            wait = self._seconds_to_wait() if batch else MAX_WAIT_SECONDS
            if batch and not wait:
                self._send(batch)
                wait = INTERVAL.total_seconds()
        except DatabaseError as exc:
            self.breaker.trip(failure_of(exc))
            return DATABASE_RETRY_SECONDS
        return wait

    def _batch(self) -> list[Invalidation]:
        """The oldest requests whose paths fit into one batch, without those that are set aside."""
        now = self._clock()
        self._refused = {key: refusal for key, refusal in self._refused.items() if refusal[0] > now}
        batch: list[Invalidation] = []
        paths: set[str] = set()
        for invalidation in self._invalidations.unsent(MAX_INVALIDATION_PATHS, other_than=[*self._refused]):
            paths.update(invalidation_paths(invalidation.object_key))
            if len(paths) > MAX_INVALIDATION_PATHS:
                break
            batch.append(invalidation)
        return batch

    def _seconds_to_wait(self) -> float:
        """How long until a request may be made; the last one may be one of an earlier process."""
        wait = max(0.0, self._not_before - self._clock())
        last = self._invalidations.last_sent_at()
        if last is not None:
            left = last + INTERVAL - self._invalidations.now()
            # More than the interval is left only after the clock was set back.
            wait = max(wait, min(left, INTERVAL).total_seconds())
        return wait

    def _send(self, batch: Sequence[Invalidation]) -> None:
        begun_at = self._clock()
        self._not_before = begun_at + INTERVAL.total_seconds()
        unsent = [batch]
        requests = 0
        while unsent and requests < MAX_REQUESTS and self._clock() < begun_at + SPLITTING_SECONDS:
            if requests and self._thread.stopping.is_set():
                break
            requests += 1
            some = unsent.pop()
            try:
                self._invalidate(some)
            except StorageError as exc:
                failure = failure_of(exc)
                if failure.kind is not FailureKind.OBJECT:
                    self._handle_failure(failure, len(_paths(some)))
                    return
                if len(some) > 1:
                    half = len(some) // 2
                    unsent += some[half:], some[:half]
                else:
                    self._set_aside(some[0].object_key, failure)
        # Whatever was refused, CloudFront answers.
        self._failures = 0
        self.breaker.clear()

    def _invalidate(self, batch: Sequence[Invalidation]) -> None:
        paths = _paths(batch)
        number = self._distribution.invalidate(paths, reference=self._reference(batch))
        self._invalidations.mark_sent(batch)
        self._metrics.invalidated.inc(len(paths))
        log.info("cdn_invalidated", invalidation=number, distribution=self._distribution.id, paths=len(paths))

    def _set_aside(self, key: str, failure: Failure) -> None:
        self._metrics.setbacks.labels(stage=NAME, kind=failure.kind).inc()
        log.warning(
            "attempt_failed",
            stage=NAME,
            key=key,
            code=failure.code,
            reason=failure.sentence,
            retry_in_seconds=REFUSED_SECONDS,
        )
        refusal = self._clock() + REFUSED_SECONDS, f"{printable(key)}: {failure.sentence}"
        kept = [*self._refused.items()][1 - MAX_INVALIDATION_PATHS :]
        self._refused = dict(kept) | {key: refusal}

    def _set_aside_now(self) -> SetAside | None:
        refused = [*self._refused.values()]
        return SetAside(f"{NAME}s", len(refused), refused[-1][1]) if refused else None

    def _handle_failure(self, failure: Failure, paths: int) -> None:
        delay = max(INTERVAL.total_seconds(), self._backoff.delay(self._failures).total_seconds())
        self._not_before = self._clock() + delay
        self._failures += 1
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


def _paths(batch: Sequence[Invalidation]) -> list[str]:
    """The paths of a batch, without duplicates."""
    found = (path for invalidation in batch for path in invalidation_paths(invalidation.object_key))
    return list(dict.fromkeys(found))
