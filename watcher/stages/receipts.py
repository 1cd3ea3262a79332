"""Keeps the ledger small: released uploads become receipts, and receipts can expire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from db import DatabaseError, Ledger
from watcher.errors import failure_of
from watcher.filesystem import NotOursError, Tree, UnreadableError
from watcher.filesystem.openat import RootUnavailableError
from watcher.supervision.background_thread import FailureState

log = structlog.get_logger()

FOLDED_AT_ONCE = 50
"""How many uploads are folded in a transaction: others wait for it, for some milliseconds."""
FOLD_SECONDS = 30.0
"""How long folding takes at most before other work gets its turn."""
REST = 3
"""How many times as long as a transaction others have their turn after it."""
EXPIRED_AT_ONCE = 200
EXPIRY_SECONDS = 3600.0
"""Between two looks for receipts that have expired, each of which reads them all."""


class ReceiptKeeper:
    """Folds the released uploads of an instance, and deletes its receipts after `keep_days` (None: never).

    `stopping` ends it early, `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        tree: Tree,
        *,
        keep_days: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._tree = tree
        self._keep_days = keep_days
        self._clock = clock
        self._expiry_due_at = clock()
        self._failure = FailureState(lambda failure: log.warning("receipts_failed", reason=failure.sentence))

    def run_due(self, stopping: threading.Event, beat: Callable[[], None] = lambda: None) -> bool:
        """Fold what was released, and delete what has expired; return whether there is more to fold."""
        try:
            has_more = self._fold(stopping, beat)
            if self._keep_days is not None and self._clock() >= self._expiry_due_at:
                self._expiry_due_at = self._clock() + EXPIRY_SECONDS
                self._delete_expired(self._keep_days, stopping, beat)
        except (DatabaseError, RootUnavailableError) as exc:
            self._failure.fail(failure_of(exc))
            return False
        self._failure.succeed()
        return has_more

    def _fold(self, stopping: threading.Event, beat: Callable[[], None]) -> bool:
        end = self._clock() + FOLD_SECONDS
        while not stopping.is_set():
            beat()
            began = self._clock()
            if self._ledger.receipts.fold(FOLDED_AT_ONCE) < FOLDED_AT_ONCE:
                return False
            now = self._clock()
            if now >= end:
                return True
            stopping.wait(REST * (now - began))
        return False

    def _delete_expired(self, keep_days: int, stopping: threading.Event, beat: Callable[[], None]) -> None:
        """Delete the receipts that have expired, except those at whose path there is a file."""
        receipts, deleted, after = self._ledger.receipts, 0, 0
        before = self._ledger.now() - timedelta(days=keep_days)
        while not stopping.is_set():
            beat()
            began = self._clock()
            expired = receipts.expired(before, after=after, limit=EXPIRED_AT_ONCE)
            if not expired:
                break
            after = expired[-1].id
            self._tree.ensure_mounted()
            deleted += receipts.delete(upload for upload in expired if self._is_missing(upload.path))
            stopping.wait(REST * (self._clock() - began))
        if deleted:
            log.info("receipts_deleted", receipts=deleted)

    def _is_missing(self, path: str) -> bool:
        try:
            return self._tree.stat(path) is None
        except (NotOursError, UnreadableError):
            return False
