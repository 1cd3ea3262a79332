"""Tells the CDN which objects were replaced: batched, at most once a minute, until it has been told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import Database, DatabaseError, Invalidation, Invalidations
from storage import MAX_INVALIDATION_PATHS, Distribution, StorageError, invalidation_paths
from watcher.errors import Code, Failure, FailureKind, failure_of
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.liveness import Liveness
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

NAME = "invalidation"
"""What log, status and metrics call it, as they do the stages."""

INTERVAL = timedelta(seconds=60)
"""Between two requests, whether they succeed or not."""

LONGEST_WAIT_SECONDS = 30.0
"""The table is asked this often even if nobody wakes the thread: a command may have added to it."""

DATABASE_RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0

RETRIES = Backoff(base=60.0, factor=2.0, cap=900.0)


class Invalidator:
    """Sends what waits in `invalidations` to `distribution`, from a thread of its own or by `flush`.

    The table is the truth; what is lost with the process is only for how long a failure has lasted. `clock`
    gives monotonic seconds.
    """

    def __init__(
        self,
        distribution: Distribution,
        invalidations: Invalidations,
        *,
        database: Database,
        liveness: Liveness,
        metrics: Metrics,
        backoff: Backoff = RETRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._distribution = distribution
        self._invalidations = invalidations
        self._database = database
        self._liveness = liveness
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self.breaker = CircuitBreaker(clock=clock, backoff=backoff)
        self._failures = 0
        self._not_before = clock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, name=NAME, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()
        self._liveness.add_check(f"{NAME} thread", lambda: self._stopping.is_set() or self._thread.is_alive())

    def request_stop(self) -> None:
        """Send nothing more."""
        self._stopping.set()
        self._woken.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; False if it is still in the middle of a request after `timeout` s."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def request(self, object_key: str) -> None:
        """Have the path of a replaced object forgotten; part of the transaction that is open, if one is.

        `wake` it after that transaction.
        """
        self._invalidations.request(object_key)

    def wake(self) -> None:
        """There may be something to send."""
        self._woken.set()

    def has_waiting(self) -> bool:
        """Whether the CDN has not been told of everything yet."""
        return bool(self._invalidations.unsent(1))

    def flush(self) -> float:
        """Send one batch, if there is one and its time has come; how many seconds to wait before the next.

        Failures are logged and counted here, not raised.
        """
        try:
            batch, paths = self._batch()
            self._recover_database()
            wait = self._seconds_to_wait() if batch else LONGEST_WAIT_SECONDS
            if batch and not wait:
                self._send(batch, paths)
                wait = INTERVAL.total_seconds()
        except DatabaseError as exc:
            self._trip(failure_of(exc))
            return DATABASE_RETRY_SECONDS
        return wait

    def _send_until_stopped(self) -> None:
        pulse = self._liveness.pulse(NAME, PATIENCE_SECONDS)
        with self._database.session():
            while not self._stopping.is_set():
                self._woken.clear()
                pulse.beat()
                wait = self.flush()
                pulse.idle()
                self._woken.wait(wait)
        pulse.stop()

    def _batch(self) -> tuple[list[Invalidation], list[str]]:
        """The oldest requests whose paths fit into one batch, and the paths; a key asked for twice is one."""
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
        """How long no request may be made: the last one, perhaps of an earlier life, was just now."""
        wait = max(0.0, self._not_before - self._clock())
        last = self._invalidations.last_sent_at()
        if last is not None:
            left = last + INTERVAL - self._invalidations.now()
            # More than the interval is left only if the clock was set back.
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
            self._set_back(failure_of(exc), len(paths), delay)
            return
        self._invalidations.mark_sent(batch)
        self._failures = 0
        self._metrics.invalidated.inc(len(paths))
        log.info("cdn_invalidated", invalidation=number, distribution=self._distribution.id, paths=len(paths))
        if self.breaker.clear():
            log.info("stage_resumed", stage=NAME)

    def _set_back(self, failure: Failure, paths: int, delay: float) -> None:
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
            self._trip(failure)

    def _trip(self, failure: Failure) -> None:
        if self.breaker.trip(failure):
            log.error("stage_paused", stage=NAME, code=failure.code, reason=failure.sentence)

    def _recover_database(self) -> None:
        failure = self.breaker.failure
        if failure is not None and failure.code == Code.DATABASE and self.breaker.clear():
            log.info("stage_resumed", stage=NAME)

    def _reference(self, batch: Sequence[Invalidation]) -> str:
        """The same for the same batch, also in a later life; another one for any other."""
        digest = hashlib.sha256(self._invalidations.instance.encode())
        for invalidation in batch:
            digest.update(f"/{invalidation.id} {invalidation.requested_at.isoformat()}".encode())
        return f"video-uploader-{digest.hexdigest()}"
