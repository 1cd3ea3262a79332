"""What happens to a row whose stage could not go on: the one place where a failure becomes a decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import ClaimLostError, DatabaseError, Ledger, State, Upload
from storage import SourceChangedError, UploadCancelledError
from watcher.errors import HANDLED_ERRORS, Code, DeferError, Failure, Kind, ReexamineError, failure_of
from watcher.filesystem.openat import FileMissingError, NotOursError, RootUnavailableError, UnreadableError
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.telemetry.logging import row_context
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """Stands around every attempt to advance a row of one stage.

    `look_again` has a path checked anew by the settler; `believe_missing` raises RootUnavailableError when a
    file that is not there proves nothing, because the whole directory may be away; `is_away` says whether
    this one is merely set aside, by a daemon that was late to hear that the row is another's.

    A decision that cannot be written, because the database is away, is left to the row's claim: it runs out,
    and the stage runs again.
    """

    stage: str
    ledger: Ledger
    breaker: CircuitBreaker
    backoff: Backoff
    look_again: Callable[[str], None]
    believe_missing: Callable[[], None]
    is_away: Callable[[Upload], bool]
    metrics: Metrics

    @contextmanager
    def handling(self, upload: Upload) -> Iterator[None]:
        """Turn what an attempt raises into the row's next step; unforeseen errors pass through."""
        with structlog.contextvars.bound_contextvars(stage=self.stage, **row_context(upload)):
            try:
                yield
            except ClaimLostError:
                log.info("claim_lost")
            except (DeferError, ReexamineError, FileMissingError, *HANDLED_ERRORS) as exc:
                self._decide(upload, exc)
            else:
                self._note_success()

    def _decide(self, upload: Upload, exc: Exception) -> None:
        try:
            match exc:
                case UploadCancelledError():
                    log.info("attempt_interrupted")
                    self.ledger.return_claim(upload)
                case DeferError():
                    self._wait(upload, exc)
                case SourceChangedError() | ReexamineError():
                    log.info("file_changed", reason=str(exc))
                    self._look_again(upload, Code.LOCAL_CHANGED, str(exc))
                case FileMissingError():
                    self._gone(upload, exc)
                case _:
                    self._setback(upload, failure_of(exc))
        except ClaimLostError:
            log.info("claim_lost")
        except DatabaseError as trouble:
            self._trip(failure_of(trouble))

    def _setback(self, upload: Upload, failure: Failure) -> None:
        self.metrics.setbacks.labels(stage=self.stage, kind=failure.kind).inc()
        match failure.kind:
            case Kind.ENVIRONMENT:
                self._trip(failure)
                self.ledger.postpone(
                    upload,
                    delay=timedelta(0),
                    error=failure.sentence,
                    error_code=failure.code,
                    count=False,
                )
            case Kind.TRANSIENT:
                delay = self.backoff.delay(upload.attempts)
                log.warning(
                    "attempt_failed",
                    code=failure.code,
                    reason=failure.sentence,
                    attempts=upload.attempts + 1,
                    retry_in_seconds=round(delay.total_seconds(), 1),
                )
                self.ledger.postpone(upload, delay=delay, error=failure.sentence, error_code=failure.code)
            case Kind.OBJECT:
                self._fail(upload, failure)

    def _fail(self, upload: Upload, failure: Failure) -> None:
        if upload.state is not State.PENDING:
            # Only an upload can fail for good; later stages keep trying, because the object is safe.
            delay = self.backoff.longest
            log.warning("attempt_failed", code=failure.code, reason=failure.sentence)
            self.ledger.postpone(upload, delay=delay, error=failure.sentence, error_code=failure.code)
            return
        log.error("upload_failed", code=failure.code, reason=failure.sentence)
        self.ledger.advance(upload, State.FAILED, error=failure.sentence, error_code=failure.code)

    def _gone(self, upload: Upload, exc: FileMissingError) -> None:
        try:
            is_away = self.is_away(upload)
            if not is_away:
                self.believe_missing()
        except (UnreadableError, NotOursError, OSError, RootUnavailableError) as unavailable:
            self._setback(upload, failure_of(unavailable))
            return
        if is_away:
            self._look_again(upload, Code.LOCAL_AWAY, "Its file is set aside by a release that is under way.")
        elif upload.state is State.PENDING:
            log.warning("upload_gone", reason=exc.reason)
            error = "The local file disappeared before it was confirmed in S3."
            self.ledger.advance(upload, State.GONE, error=error, error_code=Code.LOCAL_MISSING)
        else:
            self._look_again(upload, Code.LOCAL_MISSING, str(exc))

    def _look_again(self, upload: Upload, code: str, reason: str) -> None:
        self.ledger.postpone(
            upload,
            delay=timedelta(seconds=LOOK_AGAIN_SECONDS),
            error=reason,
            error_code=code,
            count=False,
        )
        self.look_again(upload.path)

    def _wait(self, upload: Upload, exc: DeferError) -> None:
        log.debug("attempt_waits", code=exc.code, reason=exc.reason)
        delay = timedelta(seconds=exc.delay_seconds)
        self.ledger.defer(upload, delay=delay, reason=exc.reason, code=exc.code)

    def _trip(self, failure: Failure) -> None:
        if self.breaker.trip(failure):
            log.error("stage_paused", code=failure.code, reason=failure.sentence)

    def _note_success(self) -> None:
        if self.breaker.clear():
            log.info("stage_resumed")
