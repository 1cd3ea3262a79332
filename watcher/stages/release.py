"""The release stage: removes the local copy of a published upload, after confirming the object again.

A file is renamed into quarantine, stays there for a second and is then deleted or restored, as described in
`watcher.filesystem.removal`. `QuarantineRepair` does the same for files that a crash left in quarantine.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Self

import structlog

from db import ClaimLostError, DatabaseError, Ledger, State, Turn, Upload
from storage import Confirmation, ObjectStore, SourceFile, StorageError, UploadCancelledError, Verdict
from watcher.detection import Reading
from watcher.errors import Code, DeferError, FailureKind, ReexamineError, StageError, failure_of
from watcher.failpoints import Point, failpoint
from watcher.filesystem import FileMissingError, NotOursError, Tree, UnreadableError, removal
from watcher.filesystem.hashing import Hashing, Rank, ReadingThread
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.filesystem.removal import Kept, LeftInQuarantine, Outcome, Quarantined, Released, Restored
from watcher.settings import Policy
from watcher.stages.context import StageContext
from watcher.stages.lost_objects import ensure_reuploadable, requeue_lost
from watcher.stages.runner import Stage, Work
from watcher.supervision.isolation import Isolation
from watcher.telemetry import RepeatFilter

log = structlog.get_logger()

QUARANTINE_SECONDS = 1.0
"""How long a file stays in quarantine: a writer may have resolved its path and not opened it yet."""

HEADS = 16
"""How many objects of a batch are asked for at once."""
CATALOG_BUSY_SECONDS = 5.0
PACKAGE_SECONDS = 600.0
"""How soon the release of a file that a playlist names is tried again: the playlist may have gone."""
REHASH_SECONDS = 60.0
"""How soon a release is tried again at the latest whose file has to be hashed again first."""

_REFUSALS = frozenset({errno.EPERM, errno.EOPNOTSUPP})

MAX_LEFT = 20
"""How many files that stay in quarantine are reported."""


class ReleaseStage(Stage):
    """Removes the local copies of published uploads; a batch shares one quarantine time and asks S3 at once.

    The policy is read each time, because a reload may change it. `is_pressed` returns whether the disk is so
    full at present that the retention is ignored.
    """

    name = "release"
    state = State.PUBLISHED
    patience_seconds = 300.0

    def __init__(self, context: StageContext, policy: Policy, *, is_pressed: Callable[[], bool]) -> None:
        self._context = context
        self._policy = policy
        self._is_pressed = is_pressed

    def is_enabled(self) -> bool:
        """False while KEEP_LOCAL is set."""
        return not self._policy.keep_local

    @property
    def longest_delay(self) -> timedelta:
        """The retention."""
        return self._policy.retention

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance each upload from `published` to `released`, or back to `pending` if its object is lost."""
        quarantined: list[tuple[Upload, Quarantined]] = []
        with _Confirmations(self._context.store, uploads, work) as confirmations:
            for number, upload in enumerate(uploads):
                work.beat()
                if number and work.error_policy.return_if_paused(upload):
                    continue
                with self._isolating(upload, work), work.error_policy.handling(upload):
                    if work.stopped():
                        raise UploadCancelledError(key=upload.object_key)
                    if file := self._quarantine(upload, work, confirmations):
                        quarantined.append((upload, file))
        if not quarantined:
            return
        interrupted = work.wait(QUARANTINE_SECONDS)
        for upload, file in quarantined:
            work.beat()
            with self._isolating(upload, work), work.error_policy.handling(upload):
                if interrupted:
                    removal.restore(self._context.tree, file, "The daemon is stopping.")
                    self._context.ledger.return_claim(upload)
                else:
                    self._require_claim(upload, file, work)
                    self._conclude(upload, removal.delete_quarantined(self._context.tree, file))

    @contextmanager
    def _isolating(self, upload: Upload, work: Work) -> Iterator[None]:
        """Keep an unexpected error about one upload from the other ones of its batch."""
        try:
            yield
        except Exception as exc:  # the files of the others may be in quarantine
            log.exception("internal_error", stage=self.name, uploads=[upload.id])
            work.error_policy.postpone_after_bug(upload, exc)

    def _quarantine(self, upload: Upload, work: Work, confirmations: _Confirmations) -> Quarantined | None:
        """Check that the copy may go and quarantine it; None if the upload needs nothing more."""
        self._require_due(upload)
        if not self._repair(upload, work):
            return None
        self._require_as_hashed(upload)
        if not self._has_object(upload, confirmations.of(upload)):
            return None
        if self._context.tree.stat(upload.path) is None:
            self._context.tree.ensure_mounted()
            self._record_released(upload, "the local copy was already removed")
            return None
        self._context.ledger.require_claim(upload)
        result = removal.quarantine(
            self._context.tree,
            upload.path,
            upload.id,
            upload.identity,
            token=self._context.ledger.token,
            claim=upload.claim,
        )
        if isinstance(result, Kept):
            raise _error_of(result)
        failpoint(Point.QUARANTINED)
        return result

    def _require_due(self, upload: Upload) -> None:
        left = self._retention_left(upload)
        if left > self._policy.retention:
            # Published in the future: the clock was set back since.
            self._context.ledger.record(upload, published_at=self._context.ledger.now())
            left = self._policy.retention
        if left > timedelta(0) and not self._is_pressed():
            raise DeferError(Code.RETENTION, "The retention has not ended.", left.total_seconds())
        if reason := self._context.packages.reason(upload.path):
            raise DeferError(Code.IN_PACKAGE, f"The copy is kept because {reason}.", PACKAGE_SECONDS)
        if reason_to_keep_copy := self._context.catalog.reason_to_keep_copy(upload):
            raise DeferError(Code.CATALOG_BUSY, reason_to_keep_copy, CATALOG_BUSY_SECONDS)

    def _retention_left(self, upload: Upload) -> timedelta:
        if upload.published_at is None or upload.turn == Turn.BY_HAND:
            return timedelta(0)
        return upload.published_at + self._policy.retention - self._context.ledger.now()

    def _require_as_hashed(self, upload: Upload) -> None:
        """Raise ReexamineError if there is a file that may not be the one that was hashed.

        Not even its ctime may have changed, because an edit can keep size and time. It is hashed again where
        it holds up nothing else (`watcher.detection.settler`), and this upload is due when that is done.
        """
        present = self._context.tree.stat(upload.path)
        if present is not None and not upload.holds(present):
            raise ReexamineError("It may not be the file that was hashed any more.", REHASH_SECONDS)

    def _repair(self, upload: Upload, work: Work) -> bool:
        """Repair what an interrupted attempt left in quarantine; False if that concluded the release."""
        if self._is_in_place(upload):
            return True
        for path in removal.quarantined_paths(self._context.tree, upload, self._context.ledger.token):
            outcome = self._repair_path(upload, path, work)
            if not isinstance(outcome, Restored):
                self._conclude(upload, outcome)
                return False
        return True

    def _is_in_place(self, upload: Upload) -> bool:
        """Whether the file is at its path and has no second name, so that no quarantined one can exist."""
        tree = self._context.tree
        return tree.is_unchanged(upload.path, upload.identity) and tree.has_one_name(upload.path)

    def _repair_path(self, upload: Upload, path: str, work: Work) -> Outcome:
        outcome = removal.repair(
            self._context.tree,
            path,
            os.path.basename(upload.path),
            upload.identity,
            is_hashed_content=partial(_has_content, upload, self._context.hashing, work),
        )
        log.info("aside_repaired", outcome=type(outcome).__name__)
        return outcome

    def _require_claim(self, upload: Upload, file: Quarantined, work: Work) -> None:
        """Restore the file and raise if the claim was lost in quarantine: its new holder decides then."""
        try:
            self._context.ledger.require_claim(upload)
        except (ClaimLostError, DatabaseError):
            self._repair_path(upload, file.quarantine_path, work)
            raise

    def _has_object(self, upload: Upload, confirmation: Confirmation) -> bool:
        """Whether the object is confirmed again; False if it is lost and the upload is pending again."""
        match confirmation.verdict:
            case Verdict.AGREES:
                return True
            case Verdict.UNKNOWN:
                raise StageError(
                    FailureKind.ENVIRONMENT, Code.OBJECT_UNKNOWN, f"Before the release: {confirmation.detail}"
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
                why = " early, because the disk is full" if is_early else ""
                self._record_released(upload, f"the local copy was removed{why}")
                self._context.metrics.released.inc(upload.size)
                self._context.metrics.released_early.inc(upload.size if is_early else 0)
            case Released(others):
                # The other names keep the content: no disk space was freed.
                failpoint(Point.UNLINKED)
                self._record_released(
                    upload, f"the local name was removed; other hard links of the file: {others}"
                )
            case Restored(reason):
                raise ReexamineError(reason)
            case LeftInQuarantine(reason):
                raise StageError(FailureKind.TRANSIENT, Code.LEFT_ASIDE, reason)

    def _record_released(self, upload: Upload, detail: str) -> None:
        self._context.ledger.advance(upload, State.RELEASED, detail=detail)
        failpoint(Point.RECORDED)
        log.info("upload_released", detail=detail)


class _Confirmations:
    """What S3 says of the objects of a batch: once it has answered, `HEADS` of them are asked for at once."""

    def __init__(self, store: ObjectStore, uploads: Sequence[Upload], work: Work) -> None:
        self._store = store
        self._uploads = uploads
        self._positions = {upload.id: number for number, upload in enumerate(uploads)}
        self._work = work
        self._threads = ThreadPoolExecutor(HEADS, "release-head")
        self._asked: dict[int, Future[Confirmation]] = {}
        self._is_answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._work.waiting():
            self._threads.shutdown(cancel_futures=True)

    def of(self, upload: Upload) -> Confirmation:
        """Compare what S3 holds with the upload's row, as of now or of moments ago. Raises `StorageError`."""
        position = self._positions[upload.id]
        for near in self._uploads[position : position + (HEADS if self._is_answered else 1)]:
            if near.id not in self._asked:
                self._asked[near.id] = self._threads.submit(self._ask, near)
        with self._work.waiting():
            found = self._asked[upload.id].result()
        self._is_answered = True
        return found

    def _ask(self, upload: Upload) -> Confirmation:
        with self._work.running():
            return self._store.confirm(
                upload.object_key,
                size=upload.size,
                checksum=upload.checksum or "",
                proven_etag=upload.etag,
                cancelled=self._work.stopped,
            )


def _error_of(kept: Kept) -> Exception:
    """The exception for a file that could not be quarantined: it changed, or the system refused."""
    if kept.error is None:
        return ReexamineError(kept.reason)
    failure = failure_of(kept.error)
    if failure.kind is FailureKind.ENVIRONMENT:
        return StageError(failure.kind, failure.code, failure.sentence)
    if kept.error.errno in _REFUSALS:
        # Of the file system or of the service's permissions; EACCES is of one directory.
        return StageError(FailureKind.ENVIRONMENT, Code.NOT_REMOVABLE, kept.reason)
    return StageError(FailureKind.TRANSIENT, Code.NOT_REMOVABLE, kept.reason)


def _has_content(upload: Upload, hashing: Hashing, thread: ReadingThread, descriptor: int) -> bool:
    """Whether an open file has the content that was hashed, which is read as a whole.

    Raises `UploadCancelledError` if the thread is stopped.
    """
    if upload.checksum is None:
        return False
    try:
        source = SourceFile(descriptor, hashing.pace(Rank.AGAIN, upload.size, thread))
        return source.checksum() == upload.checksum
    except UploadCancelledError:
        raise
    except StorageError:
        return False


class QuarantineRepair:
    """Restores or deletes the quarantined files that a crash left, each under a claim on its upload.

    `lease` is how long a claim lasts. Where several daemons share the directory (`is_shared`), an upload may
    have changed state, and lost its claim, while another daemon's release is still in progress: its file is
    left alone until a claim would have expired.
    """

    def __init__(
        self, tree: Tree, ledger: Ledger, hashing: Hashing, *, lease: timedelta, is_shared: bool = False
    ) -> None:
        self._tree = tree
        self._ledger = ledger
        self._hashing = hashing
        self._lease = lease
        self._is_shared = is_shared
        self._reported = RepeatFilter()
        self.left: dict[str, str] = {}
        """Files that stay in quarantine, with the reasons, as of the last run; `MAX_LEFT` at most."""
        self.isolation = Isolation("quarantined files")

    def run(self, paths: Iterable[str], thread: ReadingThread | None = None) -> None:
        """Repair the quarantined files at these paths, which are all, until `thread`, the present one, stops.

        A file whose name another one has taken is hashed again. A file of another ledger stays, as does one
        whose original name is not known for certain: `left` says why.
        Raises `db.DatabaseError` and `watcher.filesystem.openat.RootUnavailableError`.
        """
        left: dict[str, str] = {}
        for path in paths:
            with self.isolation.item(path, path=path):
                try:
                    reason = self._run_path(path, thread or Reading())
                except (FileMissingError, NotOursError, UnreadableError, OSError) as exc:
                    reason = str(exc)
                    hint = (
                        "Let the daemon's user rename files there; until then the file stays in quarantine."
                    )
                    log.warning("aside_unrepaired", path=path, reason=reason, hint=hint)
                if reason is not None and len(left) < MAX_LEFT:
                    left[path] = reason
        self.left = left

    def _run_path(self, path: str, thread: ReadingThread) -> str | None:
        """Repair one file; return why it stays in quarantine, if it does."""
        name = parse_quarantine_name(os.path.basename(path))
        if name is None:
            return self._leave(path, "Its name is not one that this program gives.")
        if name.token not in {None, self._ledger.token}:
            return self._leave(path, "It belongs to another ledger.", is_foreign=True)
        known = self._ledger.uploads(ids=[name.upload_id], all_instances=True)
        if known and known[0].instance != self._ledger.instance:
            return self._leave(path, f"It belongs to the instance {known[0].instance}.", is_foreign=True)
        if not known and name.original is None:
            return self._leave(path, f"The ledger has no upload {name.upload_id}.")
        identity = removal.identity_of_quarantined(self._tree, path)
        if known and name.belongs_to(known[0], self._ledger.token, identity):
            if self._may_be_in_progress(known[0]):
                return None
            return self._repair(path, known[0], os.path.basename(known[0].path), thread)
        if name.original is None:
            return self._leave(path, f"It is not the file of upload {name.upload_id}.", is_foreign=True)
        # The ledger was restored, and gives the id to another upload: the file's name is all that is needed.
        return self._repair(path, None, name.original, thread)

    def _leave(self, path: str, reason: str, *, is_foreign: bool = False) -> str:
        if self._reported.is_news(path, reason):
            hint = "Start the daemon whose ledger it belongs to, or rename it by hand if it is wanted."
            if is_foreign:
                log.warning("aside_foreign", path=path, reason=reason, hint=hint)
            else:
                log.warning("aside_unknown", path=path, reason=reason, hint=hint)
        return reason

    def _may_be_in_progress(self, upload: Upload) -> bool:
        changed_state = self._is_shared and upload.state is not State.PUBLISHED
        return changed_state and abs(self._ledger.now() - upload.changed_at) < self._lease

    def _repair(self, path: str, upload: Upload | None, original: str, thread: ReadingThread) -> str | None:
        """Repair a file under a claim on its upload, if the ledger knows it; return why it stays, if so."""
        if upload is None:
            outcome = removal.repair(self._tree, path, original, None, is_hashed_content=lambda _: False)
        else:
            claimed = self._ledger.claim_one(upload.id, lease=self._lease)
            if claimed is None:
                return None
            try:
                outcome = removal.repair(
                    self._tree,
                    path,
                    original,
                    claimed.identity,
                    is_hashed_content=partial(_has_content, claimed, self._hashing, thread),
                )
            except UploadCancelledError:
                return "The daemon stopped before it was hashed again."
            finally:
                self._ledger.release_claim(claimed)
        context = {"path": path, "upload": upload and upload.id, "outcome": type(outcome).__name__}
        if not isinstance(outcome, LeftInQuarantine):
            log.info("aside_repaired", **context)
            return None
        if self._reported.is_news(path, outcome.reason):
            log.warning("aside_repaired", **context)
        return outcome.reason
