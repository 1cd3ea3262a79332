"""Finds catalog rows that do not show an existing object, and publishes onto them again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice

import structlog

from db import (
    CatalogRow,
    ClaimLostError,
    DatabaseError,
    IllegalTransitionError,
    Ledger,
    LockNotAvailableError,
    State,
    Upload,
)
from storage import KeyTooLongError
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.gate import Admitted, CatalogGate
from watcher.catalog.row_matching import rows_of_file
from watcher.errors import Code
from watcher.filesystem import Tree
from watcher.renditions import Naming
from watcher.supervision.backoff import Backoff
from watcher.supervision.isolation import Isolation
from watcher.telemetry import Metrics, RepeatFilter, row_context

log = structlog.get_logger()

RECENT = timedelta(minutes=10)
"""How long after its publication a row is checked every few seconds, and a video after its last file."""

PAGE = 500
"""How many of all known videos `check_new` reads the rows of."""
MAX_EXAMINED_AT_ONCE = 50
"""How many of those are examined at a time, so that new files do not wait."""
MAX_WATCHED = 500
"""How many videos are watched at a time, those whose files were found last."""
MAX_FRESH = 50
"""How many of them are checked every 50 ms."""
MAX_EXAMINED = 20_000
"""How many rows are remembered that cannot be published onto; a forgotten one is examined again."""

LOCKED_BACKOFF = Backoff(base=5.0, factor=2.0, cap=300.0)
"""Between two attempts to publish again onto a row that another session has locked."""

CHECKED_STATES = frozenset({State.VERIFIED, State.PUBLISHED, State.REJECTED, State.GONE})
_REOPENABLE_CODES = frozenset({Code.ENCODE_FAILED, Code.ROW_GONE})
"""Error codes of stopped uploads that a new row resolves."""


@dataclass(frozen=True, slots=True)
class _Wait:
    """How often a lock has not been available, and until when the next attempt waits."""

    attempts: int
    until: float
    video_id: str


class Republisher:
    """Publishes onto rows that were added or reset. Its methods raise `db.DatabaseError`."""

    def __init__(
        self,
        catalog: CompressorCatalog,
        gate: CatalogGate,
        ledger: Ledger,
        naming: Naming,
        tree: Tree,
        *,
        metrics: Metrics,
        wake: Callable[[State], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._gate = gate
        self._ledger = ledger
        self._naming = naming
        self._tree = tree
        self._metrics = metrics
        self._wake = wake
        self.isolation = Isolation("published uploads")
        self._clock = clock
        self._locked: dict[int, _Wait] = {}
        self._watched: dict[str, float] = {}
        self._due: set[str] = set()
        self._watching = threading.Lock()
        self._publishing = threading.Lock()
        self._examined = RepeatFilter(MAX_EXAMINED)
        self._last_video: str | None = None

    def watch(self, video_id: str) -> None:
        """Have `check_new` check the rows of a video now and for some time: they may follow a file of it."""
        with self._watching:
            self._watched.pop(video_id, None)
            self._watched[video_id] = self._clock()
            self._due.add(video_id)
            if len(self._watched) > MAX_WATCHED:
                oldest = next(iter(self._watched))
                del self._watched[oldest]
                self._due.discard(oldest)

    def check_new(self, *, fresh_only: bool = False) -> int:
        """Check the ready rows of the watched videos; return how many were published again.

        Unless `fresh_only` is set, also those of the next `PAGE` of all known videos: every file that events
        do not report, and every row that no file precedes, is found without reading the whole table. A row
        is examined when it is new, when a file of its video was found, and when a lock may be gone.
        """
        watched, due = self._watched_videos(MAX_FRESH if fresh_only else MAX_WATCHED)
        unlocked = self._unlocked_videos()
        videos = {*watched, *unlocked, *([] if fresh_only else self._next_videos())}
        if not videos:
            return 0
        changed = 0
        try:
            found = self._catalog.table.unpublished_rows(CHECKED_STATES, videos)
            for video_id in found.keys() & {*watched, *unlocked}:
                changed += self._examine(found.pop(video_id), is_due=video_id in due | unlocked)
            for rows in islice(filter(self._has_news, found.values()), MAX_EXAMINED_AT_ONCE):
                changed += self._examine(rows, is_due=False)
        except DatabaseError:
            self._examined = RepeatFilter(MAX_EXAMINED)
            with self._watching:
                self._due |= due
            raise
        return changed

    def _examine(self, rows: list[CatalogRow], *, is_due: bool) -> int:
        """Check those uploads of a video that have one of its rows, if anything can have changed for them."""
        news = [row.id for row in rows if self._examined.is_news(row.id, _version(row))]
        if not news and not is_due:
            return 0

        def reconcile(upload: Upload) -> int:
            of_file = rows_of_file(upload, rows, self._naming, ledger=self._ledger)
            may_be_current = is_due and upload.state is State.PUBLISHED
            if of_file and (may_be_current or any(row.id in news for row in of_file)):
                return self._reconcile(upload, of_file)
            return 0

        uploads = self._ledger.uploads(video_id=rows[0].video_id)
        return sum(self._isolated(upload, partial(reconcile, upload)) for upload in uploads)

    def _has_news(self, rows: list[CatalogRow]) -> bool:
        return any(not self._examined.knows(row.id, _version(row)) for row in rows)

    def _watched_videos(self, limit: int) -> tuple[list[str], set[str]]:
        """The videos whose files were found last, and those of them with a file since the last call."""
        since = self._clock() - RECENT.total_seconds()
        with self._watching:
            self._watched = {video: at for video, at in self._watched.items() if at >= since}
            watched = list(self._watched)[-limit:]
            due = self._due & set(watched)
            self._due -= due
            return watched, due

    def _unlocked_videos(self) -> set[str]:
        """The videos with a row whose lock may be gone."""
        now = self._clock()
        videos: set[str] = set()
        for upload_id, wait in list(self._locked.items()):
            if now >= wait.until + RECENT.total_seconds():
                # No row of it is to be published onto any more.
                self._locked.pop(upload_id, None)
            elif now >= wait.until:
                videos.add(wait.video_id)
        return videos

    def _next_videos(self) -> list[str]:
        page = self._catalog.table.known_videos(CHECKED_STATES, after=self._last_video, limit=PAGE)
        self._last_video = page[-1] if len(page) == PAGE else None
        return page

    def warn_of_unrecorded(self) -> None:
        """Warn if the catalog shows later publications than the ledger has: it may be an older one."""
        unrecorded = self._catalog.table.unrecorded_rows(self._naming.public_url_of(self._naming.key_prefix))
        if unrecorded:
            log.warning(
                "publications_unrecorded",
                rows=unrecorded,
                hint="Catalog rows show objects that were published after everything in the ledger. If an "
                "older ledger was restored, their receipts are lost; `video-uploader audit` lists them.",
            )

    def check_recent(self) -> int:
        """Check the rows that were published in the last minutes; return how many were published again."""
        reverted = self._catalog.table.reverted_rows(self._ledger.now() - RECENT)
        published = self._catalog.publications.by_row_id([row.id for row in reverted])
        uploads = self._ledger.uploads(ids={publication.upload_id for publication in published.values()})
        return sum(self._isolated(upload, partial(self.republish, upload)) for upload in uploads)

    def check_all(self) -> int:
        """Check every ready row of all known videos; return how many were published again."""
        changed = 0
        for video_id, rows in self._catalog.table.unpublished_rows(CHECKED_STATES).items():
            for upload in self._ledger.uploads(video_id=video_id):
                changed += self._isolated(upload, partial(self._reconcile, upload, rows))
        return changed

    def _isolated(self, upload: Upload, work: Callable[[], int]) -> int:
        """The result of `work` on an upload; 0 if an exception has set the upload aside."""
        if not self.isolation.seconds_left(upload.id):
            with self.isolation.item(upload.id, **row_context(upload)):
                return work()
        return 0

    def republish(self, upload: Upload) -> int:
        """Give the upload's rows its URL again; return how many did not show it.

        Waits for no lock: an upload with a row that another session has locked is tried again later.
        """
        if upload.state not in {State.PUBLISHED, State.RELEASED}:
            return 0
        wait = self._locked.get(upload.id)
        if wait is not None and self._clock() < wait.until:
            return 0
        url = upload.url or self._naming.public_url(upload)
        try:
            # The scan's thread and the catalog's must not find each other's locks.
            with self._publishing:
                is_current = self._tree.is_unchanged(upload.path, upload.identity)
                changed = self._catalog.publish_url(
                    upload, url, is_current=is_current, patience_seconds=0.0
                ).changed
        except LockNotAvailableError as exc:
            self._wait_for_lock(upload, exc)
            return 0
        self._locked.pop(upload.id, None)
        if changed:
            self._metrics.republished.inc(changed)
            self._ledger.append_event(
                upload.id, "republished", f"onto {changed} rows that did not show {url}"
            )
            log.info("upload_republished", rows=changed, url=url, **row_context(upload))
        return changed

    def _wait_for_lock(self, upload: Upload, error: LockNotAvailableError) -> None:
        earlier = self._locked.get(upload.id)
        attempts = 0 if earlier is None else earlier.attempts + 1
        seconds = LOCKED_BACKOFF.ceiling(attempts)
        self._locked[upload.id] = _Wait(attempts, self._clock() + seconds, upload.video_id)
        log.warning("republication_waits", reason=str(error), retry_in_seconds=seconds, **row_context(upload))

    def _reconcile(self, upload: Upload, rows: list[CatalogRow]) -> int:
        match upload.state:
            case State.PUBLISHED:
                return self.republish(upload)
            case State.VERIFIED if upload.claimed_by is None:
                self._ledger.make_due([upload.id])
                self._wake(State.VERIFIED)
            case State.REJECTED | State.GONE if upload.error_code in _REOPENABLE_CODES:
                if self._may_be_sent(upload):
                    # Another daemon may have reopened it already.
                    with suppress(ClaimLostError, IllegalTransitionError):
                        self._ledger.reopen(upload.id, reason=f"catalog row {rows[-1].id} is ready")
                    self._wake(State.PENDING)
        return 0

    def _may_be_sent(self, upload: Upload) -> bool:
        try:
            return isinstance(self._gate.admit(upload), Admitted)
        except KeyTooLongError:
            # Reopened, the upload fails with this error.
            return True


def _version(row: CatalogRow) -> str:
    """What changes when the compressor changes a row."""
    return f"{row.updated_at} {row.url}"
