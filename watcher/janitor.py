"""Cleans up multipart uploads that nobody will complete: their parts cost money and no listing shows them.

Only what this ledger knows is ever touched, by key and by id: another host may share bucket and prefix, and
other daemons the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from db import Database, DatabaseError, Ledger, State
from storage import ObjectStore, OpenMultipart, StorageError
from watcher.backoff import Backoff
from watcher.joining import join_all
from watcher.liveness import Liveness, Pulse

log = structlog.get_logger()

PERIOD_SECONDS = 60.0
BATCH = 100
PATIENCE_SECONDS = 600.0


class Janitor:
    """Aborts the multipart uploads of rows that ended, and at the start those that no row remembers."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        store: ObjectStore,
        prefix: str,
        backoff: Backoff,
        liveness: Liveness,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._store = store
        self._prefix = prefix
        self._backoff = backoff
        self._liveness = liveness
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
        """Look at every open multipart upload of our keys; to be called before anything is sent.

        One that a pending row remembers stays, and its upload goes on with it; so does what another daemon,
        which is at work on an upload of the key, may have begun a moment ago and not noted yet. Any other one
        of a key that this ledger has rows for was begun by a life that was killed before it could note that.
        False if S3 or the database could not be asked; the next start asks again.
        """
        try:
            for found in self._store.open_multiparts(self._prefix and f"{self._prefix}/"):
                self._judge(found)
        except (StorageError, DatabaseError) as exc:
            log.warning("multiparts_unlisted", reason=str(exc))
            return False
        return True

    def sweep(self) -> int:
        """Abort what rows that ended left open, and say how many; raises StorageError and DatabaseError."""
        aborted = 0
        for upload in self._ledger.abandoned_multiparts(BATCH):
            self._store.abort(upload.object_key, upload.multipart_id or "")
            if not self._ledger.forget_multipart(upload):
                # Another daemon of the directory has swept it, too.
                continue
            aborted += 1
            log.info("multipart_aborted", key=upload.object_key, upload=upload.id)
        return aborted

    def _judge(self, found: OpenMultipart) -> None:
        # Asked after S3 was: whoever began it since had his claim by then.
        everybodys = self._ledger.of_key(found.key, all_instances=True)
        uploads = [upload for upload in everybodys if upload.instance == self._ledger.instance]
        if not uploads:
            return
        pending = [upload for upload in everybodys if upload.state is State.PENDING]
        if any(upload.multipart_id == found.upload_id for upload in pending):
            log.info("multipart_adopted", key=found.key)
            return
        if any(self._ledger.is_at_work(upload) for upload in pending):
            return
        self._store.abort(found.key, found.upload_id)
        for upload in uploads:
            if upload.multipart_id == found.upload_id:
                self._ledger.forget_multipart(upload)
        log.info("multipart_aborted", key=found.key)

    def _work(self) -> None:
        pulse = self._liveness.pulse("janitor", PATIENCE_SECONDS)
        with self._database.session():
            pulse.beat()
            self.adopt_or_abort()
            if not self._stopping.is_set():
                self._then()
            self._sweep_until_stopped(pulse)
        pulse.stop()

    def _sweep_until_stopped(self, pulse: Pulse) -> None:
        failures = 0
        while not self._stopping.is_set():
            pulse.beat()
            try:
                aborted = self.sweep()
                failures = 0
            except (StorageError, DatabaseError) as exc:
                aborted, failures = 0, failures + 1
                if failures == 1:
                    log.warning("abort_failed", reason=str(exc))
            pulse.idle()
            self._stopping.wait(0 if aborted == BATCH else self._pause(failures))

    def _pause(self, failures: int) -> float:
        return max(PERIOD_SECONDS, self._backoff.delay(failures).total_seconds())
