"""Orphans: objects whose catalog rows were deleted. They are reported, or deleted with DELETE_ORPHANS.

An object cannot be made again once its local copy is released, so one look at the catalog is not enough: an
object is deleted only if two looks, at least an hour apart, find no row of it. A look counts only if the
table is not empty and has not lost many rows since the last one, because a restore of the database looks the
same as deleted videos. `db.MissingRows` keeps what the looks find.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from db import ClaimLostError, DatabaseError, Ledger, Look, MissingRows, State, Upload
from storage import ObjectStore, StorageError
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.missing_files import MissingFiles
from watcher.catalog.row_matching import rows_of_file
from watcher.errors import Code, Failure, failure_of
from watcher.renditions import Naming
from watcher.settings import Policy
from watcher.supervision.background_thread import FailureState, Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.supervision.isolation import Isolation
from watcher.telemetry import RepeatFilter, human_time, row_context

log = structlog.get_logger()

MISSING_FOR = timedelta(hours=1)
"""The shortest time between the two looks that find no row of an object, before it is deleted."""
PERIOD_SECONDS = 3660.0
"""Between two looks: a little longer than `MISSING_FOR`, so that the second one counts."""
LOST_SHARE, LOST_ROWS = 0.05, 10
"""A table that has lost more rows than this share, and more than this number, is not believed ..."""
LOSS_STANDS_AFTER = timedelta(days=1)
"""... until the loss is so old; every object needs two more looks then."""

BATCH = 500
"""A round ends with so many candidates, or more by less than a window of the ledger."""
WINDOWS = 20
"""A round reads so many windows of the ledger (`db.catalog.publications.WINDOW`) at most."""
MAX_FAILURES = 3
"""A round in which so many objects could not be deleted, and none was, ends; it continues after a backoff."""
PATIENCE_SECONDS = 600.0
BACKOFF = Backoff(base=5.0, factor=2.0, cap=300.0)


class RowsLostError(Exception):
    """The catalog has lost so many rows that a missing one proves nothing; the text says how many."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An upload whose object no row shows; `is_due` if enough looks have found that."""

    upload: Upload
    missing_since: datetime
    is_due: bool


class Orphans(Worker):
    """Looks for orphans every hour, in a thread of its own; with `deletes`, deletes those that are due.

    A look reads the ledger in rounds, each of which takes a bounded number of queries and repeats nothing of
    an earlier round, also after an error or a restart. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        catalog: CompressorCatalog,
        ledger: Ledger,
        store: ObjectStore,
        naming: Naming,
        policy: Policy,
        *,
        deletes: bool,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, "orphan thread")
        self._catalog = catalog
        self._ledger = ledger
        self._store = store
        self._naming = naming
        self._policy = policy
        self._deletes = deletes
        self._clock = clock
        self._missing = MissingRows(ledger.database, ledger.instance)
        self._reported = RepeatFilter()
        self._after: int | None = None
        self._due_at: float | None = None
        self._undeleted: set[str] = set()
        self._failures = 0
        self._failure = FailureState(
            lambda failure: log.warning("orphans_unchecked", code=failure.code, reason=failure.sentence)
        )
        self.kept = 0
        """How many orphans there were at the end of the last look."""
        self.doubt: str | None = None
        """Why the present look does not count, as a sentence; None if it does."""
        self.missing_files: MissingFiles | None = None
        """What the thread looks for besides."""
        self.isolation = Isolation("orphan objects", supervisor=supervisor)
        self._thread = self.add_thread("orphans", self._step, patience=PATIENCE_SECONDS)

    @property
    def failure(self) -> Failure | None:
        """What keeps orphans from being looked for or deleted at present."""
        return self._failure.current

    def process_all(self) -> int:
        """Make one look; return how many objects were deleted.

        Raises `db.DatabaseError` and `storage.StorageError`.
        """
        deleted = 0
        self._begin_look()
        while self._after is not None:
            deleted += self._process_round(self._after)
        return deleted

    def run_due(self) -> float:
        """Do one round of the look that is due; return the seconds until the next call. Raises the same."""
        if self._after is None:
            unfinished = None
            if self._due_at is None:
                unfinished = self._missing.next_round()
                wait = self._seconds_to_first_look()
                self._due_at = self._clock() + (wait if unfinished is None else 0.0)
            if (left := self._due_at - self._clock()) > 0:
                return left
            self._due_at = self._clock() + PERIOD_SECONDS
            self._begin_look(unfinished or 0)
        self._process_round(self._after or 0)
        return 0.0

    def find(self, *, records: bool) -> Iterator[Orphan]:
        """One look: the orphans, one for each object. Unless it `records`, it does not count as one.

        Raises `RowsLostError` and `db.DatabaseError`.
        """
        keys: set[str] = set()
        after: int | None = 0
        while after is not None:
            found, after = self._examine(after, records=records)
            for orphan in found:
                if orphan.upload.object_key not in keys:
                    keys.add(orphan.upload.object_key)
                    yield orphan

    def delete(self, upload: Upload) -> bool:
        """Delete an orphan's object; False if an upload of its key is in progress, or it has a row again."""
        if any(self._is_in_progress(other) for other in self._ledger.uploads_of_key(upload.object_key)):
            return False
        if not self._catalog.rows_deleted(upload):
            return False
        try:
            if upload.state is State.PUBLISHED:
                # KEEP_LOCAL is set: if a row is added, the local copy is uploaded again.
                self._ledger.advance(upload, State.PENDING, detail="its catalog rows were deleted")
        except ClaimLostError:
            return False
        self._store.delete(upload.object_key)
        self._catalog.publications.delete_of_upload(upload)
        self._missing.forget([upload.id])
        self._ledger.mark_object_deleted(
            upload, f"deleted {upload.object_key}, which no catalog row references"
        )
        log.info("orphan_deleted", key=upload.object_key, **row_context(upload))
        return True

    def _step(self) -> float:
        try:
            wait = PERIOD_SECONDS if self.missing_files is None else self.missing_files.run_due()
            wait = min(wait, self.run_due())
            self._failures = 0
            self._failure.succeed()
        except (DatabaseError, StorageError) as exc:
            self._failure.fail(failure_of(exc))
            self._failures += 1
            wait = BACKOFF.delay(self._failures).total_seconds()
        return wait

    def _begin_look(self, after: int = 0) -> None:
        self._after = after
        self._undeleted.clear()

    def _seconds_to_first_look(self) -> float:
        """A daemon that was restarted does not look again before the next look is due."""
        self.kept = self._missing.count()
        look = self._missing.last_look()
        if look is None:
            return 0.0
        # A clock that was set back must not delay it for longer than a period.
        return min(PERIOD_SECONDS, PERIOD_SECONDS - (self._ledger.now() - look.at).total_seconds())

    def _process_round(self, after: int) -> int:
        """Examine the ledger from `after` on, and delete what is due; return how many objects."""
        try:
            found, following = self._examine(after, records=True)
        except RowsLostError as exc:
            self._missing.set_next_round(None)
            self._after, doubt = None, str(exc)
            if self.doubt is None:
                log.warning("orphans_doubted", reason=doubt, hint="No object is deleted.")
            self.doubt = doubt
            return 0
        self.doubt = None
        deleted = self._delete_due(found) if self._deletes else 0
        for orphan in found:
            if self._reported.is_news(orphan.upload.object_key, "kept"):
                log.debug("orphan_kept", key=orphan.upload.object_key, **row_context(orphan.upload))
        self._after = following
        if following is None:
            kept = self._missing.count()
            if kept != self.kept:
                log.info("orphans_kept", objects=kept)
            self.kept = kept
        return deleted

    def _delete_due(self, found: list[Orphan]) -> int:
        deleted, failures = set[str](), 0
        for orphan in found:
            upload = orphan.upload
            if not orphan.is_due or upload.object_key in self._undeleted or self._thread.stopping.is_set():
                continue
            self._thread.beat()
            try:
                with self.isolation.item(upload.object_key, **row_context(upload)):
                    if self.delete(upload):
                        deleted.add(upload.object_key)
            except StorageError as exc:
                # A policy may deny this key alone: the others are tried.
                failures += 1
                self._undeleted.add(upload.object_key)
                log.warning("orphan_undeleted", reason=str(exc), key=upload.object_key, **row_context(upload))
                if failures >= MAX_FAILURES and not deleted:
                    raise
        return len(deleted)

    def _examine(self, after: int, *, records: bool) -> tuple[list[Orphan], int | None]:
        """The orphans of one round, and where the next one begins; None if the look is complete."""
        candidates = set[int]()
        following: int | None = after
        for _ in range(WINDOWS):
            if following is None or len(candidates) >= BATCH:
                break
            self._thread.beat()
            found, following = self._catalog.publications.of_deleted_rows(following, gone_code=Code.ROW_GONE)
            candidates |= found
        with self._catalog.table.snapshot():
            look = Look(self._catalog.table.count(), self._ledger.now())
            orphans = self._without_rows(candidates)
        self._believe(look, has_orphans=bool(orphans), records=records)
        ids = [upload.id for upload in orphans]
        if records:
            self._missing.record(ids, look.at, after=after, last=following)
            if following is None:
                self._missing.record_look(look)
        since = self._missing.since(ids)
        return [
            Orphan(
                upload,
                missing_since=since.get(upload.id, look.at),
                is_due=look.at - since.get(upload.id, look.at) >= MISSING_FOR,
            )
            for upload in orphans
        ], following

    def _without_rows(self, candidates: set[int]) -> list[Upload]:
        """Those of the uploads whose object no row shows, and no row would be given the URL of."""
        with_rows = self._catalog.table.rows_of_uploads(candidates) if candidates else []
        urls = self._ledger.urls_of_paths([upload.path for upload, _ in with_rows]) if with_rows else {}
        shown: dict[int, set[str]] = {}
        missing = []
        for upload, rows in with_rows:
            known = urls.get(upload.path, set())
            with self.isolation.item(upload.object_key, **row_context(upload)):
                if not rows_of_file(upload, rows, self._naming, known_urls=known):
                    shown[upload.id] = {self._naming.public_url(upload), *known}
                    missing.append(upload)
        asked = set().union(*shown.values())
        referenced = self._catalog.table.shown_urls(asked) if asked else set()
        return [upload for upload in missing if not shown[upload.id] & referenced]

    def _believe(self, look: Look, *, has_orphans: bool, records: bool) -> None:
        """Raise `RowsLostError` if the table is empty, or has lost many rows since the last look.

        Before the first row and the first object, an empty table is no loss.
        """
        last = self._missing.last_look()
        if look.rows == 0 and (has_orphans or (last is not None and last.rows > 0)):
            raise RowsLostError("The compressor's table is empty: is its database being restored?")
        if last is None or last.rows - look.rows <= max(LOST_ROWS, LOST_SHARE * last.rows):
            return
        if look.at - last.at < LOSS_STANDS_AFTER:
            raise RowsLostError(
                f"The compressor's table has {look.rows} rows and had {last.rows} at {human_time(last.at)}:"
                " is its database being restored? If not, this is believed a day after that time."
            )
        if records:
            self._missing.forget_all()
            self._missing.record_look(look)

    def _is_in_progress(self, other: Upload) -> bool:
        match other.state:
            case State.PENDING:
                return not other.awaits_row
            case State.PUBLISHED:
                return other.claimed_by is not None or not self._policy.keep_local
            case state:
                return state is State.VERIFIED
