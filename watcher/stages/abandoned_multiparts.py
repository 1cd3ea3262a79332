"""Cleans up multipart uploads that nobody will complete: their parts cost money and no listing shows them.

Only what this ledger knows is ever touched, by key and by id: another host may share bucket and prefix, and
other daemons the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from db import Database, DatabaseError, Ledger, State
from storage import ObjectStore, OpenMultipart, StorageError
from watcher.supervision.backoff import Backoff
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all

log = structlog.get_logger()

PERIOD_SECONDS = 60.0
LOOK_SECONDS = 3600.0
"""The answer to the beginning of a multipart can be lost on the way: only a look at the server finds it."""

BATCH = 100
PATIENCE_SECONDS = 600.0


class AbandonedMultiparts:
    """Aborts the multiparts of rows that ended and, at the start and every hour, those that no row remembers.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        store: ObjectStore,
        prefix: str,
        backoff: Backoff,
        liveness: Liveness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._store = store
        self._prefix = prefix
        self._backoff = backoff
        self._liveness = liveness
        self._clock = clock
        self._look_due = 0.0
        self._has_looked = False
        self._is_failure_told = False
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="janitor", daemon=True)
        self._then: Callable[[], None] = lambda: None

    def start(self, *, then: Callable[[], None]) -> None:
        """Look at what is open, call `then`, which may begin to send, and sweep from then on every minute.

        A server that is silent holds the first look for a minute; nobody is to wait for it who need not.
        """
        self._then = then
        self._thread.start()
        self._liveness.add_check("janitor thread", lambda: self._stopping.is_set() or self._thread.is_alive())

    def request_stop(self) -> None:
        """Begin no further sweep."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the thread to end; False if it goes on."""
        return join_all([self._thread], timeout)

    def adopt_or_abort(self) -> bool:
        """Look at every open multipart upload of our keys; first of all before anything is sent.

        One that a pending row remembers stays, and its upload goes on with it. Any other one of a key that
        this ledger has rows for was begun by a life that was killed before it could note that, or its
        beginner never got the answer; while somebody is at work on the key it is left to a look soon after.
        False if S3 or the database could not be asked; that is told once until they can.
        """
        self._look_due = self._clock() + LOOK_SECONDS
        try:
            prefix = self._prefix and f"{self._prefix}/"
            for found in self._store.open_multiparts(prefix):
                if not self._judge(found):
                    self._look_due = self._clock() + PERIOD_SECONDS
        except (StorageError, DatabaseError) as exc:
            if not self._is_failure_told:
                log.warning("multiparts_unlisted", reason=str(exc))
            self._is_failure_told = True
            return False
        self._has_looked, self._is_failure_told = True, False
        return True

    def clean(self) -> float:
        """Sweep, and look again if that is due; returns how many seconds to wait until the next time."""
        if self._clock() >= self._look_due:
            self.adopt_or_abort()
        try:
            aborted = self.sweep()
        except (StorageError, DatabaseError) as exc:
            if self._failures == 0:
                log.warning("abort_failed", reason=str(exc))
            self._failures += 1
            return max(PERIOD_SECONDS, self._backoff.delay(self._failures).total_seconds())
        self._failures = 0
        return 0.0 if aborted == BATCH else PERIOD_SECONDS

    def sweep(self) -> int:
        """Abort what rows that ended left open, and say how many; raises StorageError and DatabaseError."""
        aborted = 0
        for upload in self._ledger.abandoned_multiparts(BATCH):
            self._store.abort(upload.object_key, upload.multipart_id or "")
            if not self._ledger.mark_multipart_aborted(upload):
                # Another daemon of the directory has swept it, too.
                continue
            aborted += 1
            log.info("multipart_aborted", key=upload.object_key, upload=upload.id)
        return aborted

    def _judge(self, found: OpenMultipart) -> bool:
        """Adopt it, abort it, or leave it to whose it is; False if it cannot be told yet whose it is."""
        # Asked after S3 was: whoever began it since had his claim by then.
        everybodys = self._ledger.uploads_of_key(found.key, all_instances=True)
        uploads = [upload for upload in everybodys if upload.instance == self._ledger.instance]
        if not uploads:
            return True
        pending = [upload for upload in everybodys if upload.state is State.PENDING]
        if any(upload.multipart_id == found.upload_id for upload in pending):
            if not self._has_looked:
                log.info("multipart_adopted", key=found.key)
            return True
        if any(self._ledger.is_claimed(upload) for upload in pending):
            return False
        self._store.abort(found.key, found.upload_id)
        for upload in uploads:
            if upload.multipart_id == found.upload_id:
                self._ledger.mark_multipart_aborted(upload)
        log.info("multipart_aborted", key=found.key)
        return True

    def _work(self) -> None:
        pulse = self._liveness.pulse("janitor", PATIENCE_SECONDS)
        with self._database.session():
            pulse.beat()
            self.adopt_or_abort()
            if not self._stopping.is_set():
                self._then()
            while not self._stopping.is_set():
                pulse.beat()
                wait = self.clean()
                pulse.idle()
                self._stopping.wait(wait)
        pulse.stop()
