"""The third stage: the local copy goes, last of all and only after a fresh look at the object."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from db import ClaimLostError, DatabaseError, State, Upload
from storage import Verdict
from watcher.errors import Code, DeferError, Kind, ReexamineError, StageError, failure_of
from watcher.failpoints import Point, failpoint
from watcher.filesystem import removal
from watcher.filesystem.removal import Kept, LeftInQuarantine, Outcome, Quarantined, Released, Restored
from watcher.settings.policy import Policy
from watcher.stages.context import StageContext
from watcher.stages.lost_objects import ensure_reuploadable, requeue_lost
from watcher.stages.runner import Work

log = structlog.get_logger()

QUARANTINE_SECONDS = 1.0
"""A writer may be between looking a path up and opening it: so long is a file aside before it is unlinked."""

CATALOG_BUSY_SECONDS = 5.0


class ReleaseStage:
    """Gives up the local copies of published rows; the wait between the two steps is shared by a batch.

    The policy is asked each time, for a reload may change it. `is_pressed` says whether the disk is so full
    at this moment that the retention does not count.
    """

    name = "release"
    state = State.PUBLISHED
    patience_seconds = 300.0

    def __init__(self, context: StageContext, policy: Policy, *, is_pressed: Callable[[], bool]) -> None:
        self._context = context
        self._tree = context.tree
        self._ledger = context.ledger
        self._catalog = context.catalog
        self._store = context.store
        self._metrics = context.metrics
        self._longest_backoff = context.backoff.longest
        self._policy = policy
        self._is_pressed = is_pressed

    def is_enabled(self) -> bool:
        """Not while every local copy is to be kept."""
        return not self._policy.keep_local

    @property
    def horizon(self) -> timedelta:
        """Rows wait for the end of the retention, or for their backoff."""
        return max(self._policy.retention, self._longest_backoff)

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Take each row from `published` to `released`, or back to `pending` if its object is lost."""
        asides: list[tuple[Upload, Quarantined]] = []
        for upload in uploads:
            work.beat()
            with work.error_policy.handling(upload):
                if aside := self._prepare(upload):
                    asides.append((upload, aside))
        if not asides:
            return
        interrupted = work.wait(QUARANTINE_SECONDS)
        for upload, aside in asides:
            work.beat()
            with work.error_policy.handling(upload):
                if interrupted:
                    removal.restore(self._tree, aside, "The daemon is stopping.")
                    self._ledger.return_claim(upload)
                else:
                    self._require_claim(upload, aside)
                    self._conclude(upload, removal.delete_quarantined(self._tree, aside))

    def _prepare(self, upload: Upload) -> Quarantined | None:
        """Do everything that has to come before the wait; None if the row is dealt with already."""
        self._require_time(upload)
        if not self._repair(upload) or not self._object_agrees(upload):
            return None
        if self._tree.stat(upload.path) is None:
            self._tree.ensure_mounted()
            self._record_released(upload, "the local copy was gone already")
            return None
        self._ledger.require_claim(upload)
        aside = removal.quarantine(self._tree, upload.path, upload.id, upload.identity, claim=upload.claim)
        if isinstance(aside, Kept):
            raise _kept(aside)
        failpoint(Point.QUARANTINED)
        return aside

    def _require_time(self, upload: Upload) -> None:
        left = self._retention_left(upload)
        if left > self._policy.retention:
            # It was published in the future: the clock was set back, and would be waited for.
            self._ledger.record(upload, published_at=self._ledger.now())
            left = self._policy.retention
        if left > timedelta(0) and not self._is_pressed():
            raise DeferError(Code.RETENTION, "It is kept until the retention is over.", left.total_seconds())
        if reason_to_keep_copy := self._catalog.reason_to_keep_copy(upload):
            raise DeferError(Code.CATALOG_BUSY, reason_to_keep_copy, CATALOG_BUSY_SECONDS)

    def _retention_left(self, upload: Upload) -> timedelta:
        if upload.published_at is None:
            return timedelta(0)
        return upload.published_at + self._policy.retention - self._ledger.now()

    def _repair(self, upload: Upload) -> bool:
        """Deal with what an attempt that was cut short left aside; False if that ended the row."""
        if self._is_in_place(upload):
            return True
        for aside in removal.quarantined_paths(self._tree, upload.path, upload.id):
            outcome = self._give_back(upload, aside)
            if not isinstance(outcome, Restored):
                self._conclude(upload, outcome)
                return False
        return True

    def _is_in_place(self, upload: Upload) -> bool:
        """Whether the file is at its path and has no other name: then nothing of it is aside."""
        return self._tree.is_unchanged(upload.path, upload.identity) and self._tree.has_one_name(upload.path)

    def _give_back(self, upload: Upload, aside: str) -> Outcome:
        outcome = removal.repair(self._tree, aside, os.path.basename(upload.path), upload.identity)
        log.info("aside_repaired", outcome=type(outcome).__name__)
        return outcome

    def _require_claim(self, upload: Upload, aside: Quarantined) -> None:
        """The wait may have been longer than meant: whoever has the row by now decides about the file."""
        try:
            self._ledger.require_claim(upload)
        except (ClaimLostError, DatabaseError):
            self._give_back(upload, aside.quarantine_path)
            raise

    def _object_agrees(self, upload: Upload) -> bool:
        """Ask S3 once more; what it has lost is uploaded again while the local copy is still here."""
        confirmation = self._store.confirm(
            upload.object_key,
            size=upload.size,
            checksum=upload.checksum or "",
            expected_etag=lambda: upload.etag or "",
        )
        match confirmation.verdict:
            case Verdict.AGREES:
                return True
            case Verdict.UNKNOWN:
                raise StageError(
                    Kind.ENVIRONMENT, Code.OBJECT_UNKNOWN, f"Before the release: {confirmation.detail}"
                )
            case _:
                ensure_reuploadable(self._context, upload, confirmation)
                requeue_lost(self._context, upload, confirmation)
                return False

    def _conclude(self, upload: Upload, outcome: Outcome) -> None:
        match outcome:
            case Released(0):
                failpoint(Point.UNLINKED)
                is_early = timedelta(0) < self._retention_left(upload) <= self._policy.retention
                why = ", early, for the disk is full" if is_early else ""
                self._record_released(upload, f"the local copy was removed{why}")
                self._metrics.released.inc(upload.size)
                self._metrics.released_early.inc(upload.size if is_early else 0)
            case Released(others):
                # No byte of the disk was given back.
                failpoint(Point.UNLINKED)
                self._record_released(
                    upload, f"the local name was removed; the file has {others} other names (hard links)"
                )
            case Restored(reason):
                raise ReexamineError(reason)
            case LeftInQuarantine(reason):
                raise StageError(Kind.TRANSIENT, Code.LEFT_ASIDE, reason)

    def _record_released(self, upload: Upload, detail: str) -> None:
        self._ledger.advance(upload, State.RELEASED, detail=detail)
        failpoint(Point.RECORDED)
        log.info("upload_released", detail=detail)


def _kept(kept: Kept) -> Exception:
    """What it means that a file was not set aside: it is not as it was, or the system does not let us."""
    if kept.error is None:
        return ReexamineError(kept.reason)
    failure = failure_of(kept.error)
    if failure.kind is Kind.ENVIRONMENT:
        return StageError(failure.kind, failure.code, failure.sentence)
    return StageError(Kind.TRANSIENT, Code.NOT_REMOVABLE, kept.reason)
