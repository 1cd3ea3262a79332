"""Decides what happens to an upload whose stage failed: the only place that maps errors to actions."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from db import ClaimLostError, DatabaseError, Ledger, LockNotAvailableError, State, Upload
from storage import SourceChangedError, UploadCancelledError
from watcher.errors import (
    HANDLED_ERRORS,
    Code,
    DecidedError,
    DeferError,
    Failure,
    FailureKind,
    ReexamineError,
    failure_of,
)
from watcher.filesystem import FileMissingError, NotOursError, RootUnavailableError, Tree, UnreadableError
from watcher.filesystem.removal import is_present_or_quarantined
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.store_health import StoreHealth
from watcher.telemetry import Metrics, printable, redact, row_context

log = structlog.get_logger()

REEXAMINE_SECONDS = 2.0
"""How soon an upload is tried again while its file is examined."""


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """Handles the errors of one stage. `reexamine` has the settler examine a path again.

    A decision that cannot be recorded, because the database does not answer, is dropped: the stage runs again
    once the upload in `unrecorded` is due again, or its claim has expired.
    """

    tree: Tree
    ledger: Ledger
    breaker: CircuitBreaker
    backoff: Backoff
    reexamine: Callable[[str], None]
    metrics: Metrics
    store_health: StoreHealth | None = None
    """Told when no connection to S3 can be made; None where other rows decide about that, too."""
    unrecorded: queue.SimpleQueue[Upload] = field(default_factory=queue.SimpleQueue)

    @contextmanager
    def handling(self, upload: Upload) -> Iterator[None]:
        """Turn an error of the `with` block into the upload's next step; unexpected errors pass through."""
        with structlog.contextvars.bound_contextvars(stage=self.breaker.stage, **row_context(upload)):
            try:
                yield
            except DecidedError:
                return
            except ClaimLostError:
                log.info("claim_lost")
            except (DeferError, ReexamineError, FileMissingError, *HANDLED_ERRORS) as exc:
                self._decide(upload, exc)
            else:
                self.breaker.succeed(upload.id)
            finally:
                self.breaker.ended(upload.id)

    def return_if_paused(self, upload: Upload) -> bool:
        """Whether the stage has paused, so that the claim of an upload of the same batch was returned."""
        if self.breaker.failure is None:
            return False
        try:
            self.ledger.return_claim(upload)
        except DatabaseError as exc:
            self.breaker.trip(failure_of(exc))
        return True

    def postpone_after_bug(self, upload: Upload, exc: Exception) -> None:
        """Postpone an upload about which an unexpected error was raised, by the longest backoff."""
        sentence = (
            f"Internal error ({redact(printable(f'{type(exc).__name__}: {exc}'))}). "
            "The log has the traceback; please report it."
        )
        delay = self.backoff.longest
        try:
            self.ledger.postpone(upload, delay=delay, error=sentence, error_code=Code.INTERNAL)
        except (ClaimLostError, DatabaseError):
            log.warning("postpone_failed", upload=upload.id)

    def _decide(self, upload: Upload, exc: Exception) -> None:
        try:
            match exc:
                case UploadCancelledError():
                    log.info("attempt_interrupted")
                    self.ledger.return_claim(upload)
                case DeferError():
                    self._defer(upload, exc)
                case ReexamineError():
                    log.info("file_changed", reason=str(exc))
                    self._reexamine(upload, Code.LOCAL_CHANGED, str(exc), exc.delay_seconds)
                case SourceChangedError():
                    log.info("file_changed", reason=str(exc))
                    self._reexamine(upload, Code.LOCAL_CHANGED, str(exc))
                case FileMissingError():
                    self._handle_missing(upload, exc)
                case _:
                    self._handle_failure(upload, failure_of(exc))
        except ClaimLostError:
            log.info("claim_lost")
        except LockNotAvailableError as locked:
            # It concerns this row only, so the stage does not pause.
            log.warning("decision_unrecorded", reason=str(locked))
        except DatabaseError as database_error:
            self.unrecorded.put(upload)
            self.breaker.trip(failure_of(database_error))

    def _handle_failure(self, upload: Upload, failure: Failure) -> None:
        self.metrics.setbacks.labels(stage=self.breaker.stage, kind=failure.kind).inc()
        if failure.kind is FailureKind.OBJECT:
            self._fail(upload, failure)
        elif self._waits_for_stage(upload, failure):
            self.ledger.postpone(
                upload, delay=timedelta(0), error=failure.sentence, error_code=failure.code, count=False
            )
        else:
            delay = self.backoff.delay(upload.attempts)
            log.warning(
                "attempt_failed",
                code=failure.code,
                reason=failure.sentence,
                attempts=upload.attempts + 1,
                retry_in_seconds=round(delay.total_seconds(), 1),
            )
            self.ledger.postpone(upload, delay=delay, error=failure.sentence, error_code=failure.code)

    def _waits_for_stage(self, upload: Upload, failure: Failure) -> bool:
        """Whether the failure may concern all rows, so that this one waits until the stage has found out."""
        if self._is_of_store(failure, is_certain=False):
            return True
        waits = failure.may_concern_all and self.breaker.fail(
            upload.id, failure, has_others=lambda: self.ledger.has_other_due(upload)
        )
        if self.breaker.failure is not None:
            self._is_of_store(failure, is_certain=True)
        return waits

    def _is_of_store(self, failure: Failure, *, is_certain: bool) -> bool:
        """Whether no connection to S3 can be made, so that every stage that needs it is held."""
        if self.store_health is None or not failure.unreachable:
            return False
        return self.store_health.report(failure, is_certain=is_certain)

    def _fail(self, upload: Upload, failure: Failure) -> None:
        if upload.state is not State.PENDING:
            # Only the upload stage fails for good. Later stages retry, because the object is in S3.
            delay = self.backoff.longest
            log.warning("attempt_failed", code=failure.code, reason=failure.sentence)
            self.ledger.postpone(upload, delay=delay, error=failure.sentence, error_code=failure.code)
            return
        log.error("upload_failed", code=failure.code, reason=failure.sentence)
        self.ledger.advance(upload, State.FAILED, error=failure.sentence, error_code=failure.code)

    def _handle_missing(self, upload: Upload, exc: FileMissingError) -> None:
        try:
            # A daemon that has not yet noticed the loss of its claim may have the file in quarantine.
            is_quarantined = is_present_or_quarantined(self.tree, upload, self.ledger.token)
            if not is_quarantined:
                self.tree.ensure_mounted()
        except (UnreadableError, NotOursError, OSError, RootUnavailableError) as unavailable:
            self._handle_failure(upload, failure_of(unavailable))
            return
        if is_quarantined:
            self._reexamine(upload, Code.LOCAL_AWAY, "Its file is in quarantine: a release is in progress.")
        elif upload.state is State.PENDING:
            log.warning("upload_gone", reason=exc.reason)
            error = "The local file disappeared before it was confirmed in S3."
            self.ledger.advance(upload, State.GONE, error=error, error_code=Code.LOCAL_MISSING)
        else:
            self._reexamine(upload, Code.LOCAL_MISSING, str(exc))

    def _reexamine(
        self, upload: Upload, code: str, reason: str, delay_seconds: float = REEXAMINE_SECONDS
    ) -> None:
        self.ledger.postpone(
            upload,
            delay=timedelta(seconds=delay_seconds),
            error=reason,
            error_code=code,
            count=False,
        )
        self.reexamine(upload.path)

    def _defer(self, upload: Upload, exc: DeferError) -> None:
        log.debug("attempt_waits", code=exc.code, reason=exc.reason)
        delay = timedelta(seconds=exc.delay_seconds)
        self.ledger.defer(upload, delay=delay, reason=exc.reason, code=exc.code)
