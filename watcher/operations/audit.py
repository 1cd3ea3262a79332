"""Holds bucket, ledger and catalog against each other, beside a running daemon or without one.

What the daemon would see to in its own time it sees to: a row that somebody works on is left alone, and so
is one that moved on while it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TypeVar

from db import ClaimLostError, State, Upload
from storage import Confirmation, ErrorKind, ListedObject, StorageError, Verdict, parse_object_key
from watcher.app.wiring import Application
from watcher.catalog.orphans import Orphans
from watcher.errors import Code, StageError
from watcher.filesystem.openat import TreeError
from watcher.stages.lost_objects import ensure_reuploadable, requeue_lost
from watcher.stages.publish import PublishStage

PROVEN = (State.VERIFIED, State.PUBLISHED, State.RELEASED)
CONFIRMATIONS = 8
"""HEAD requests at once."""
PAGE = 500
GIVE_UP = 20
"""So many requests that fail one after the other, and not for want of permission, end the audit."""
LOOKED_UP = 100
"""Objects that are not ours whose catalog rows are looked for."""

_T = TypeVar("_T")


class Issue(StrEnum):
    """What is not as it should be."""

    LOST = "lost"
    """The object is gone or another one, and there is no local copy."""
    OBJECT_GONE = "object-gone"
    """The object is gone or another one; the local copy is there."""
    ROW_ASTRAY = "row-astray"
    """The object is in place, and a catalog row that should show it does not."""
    ORPHAN = "orphan"
    """No catalog row leads to the object any more."""
    UNKNOWN = "unknown"
    """It could not be found out."""
    NOT_OURS = "not-ours"
    """An object under the prefix that the ledger does not know. It may well be meant to be there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, in a sentence, and whether it has been mended."""

    issue: Issue
    key: str
    detail: str
    upload: Upload | None = None
    is_fixed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether there is anything left to do about it."""
        return not self.is_fixed and self.issue is not Issue.NOT_OURS


class Audit:
    """One pass over everything; with `fix` it mends what it can. Memory does not grow with the numbers."""

    def __init__(self, application: Application, *, fix: bool) -> None:
        self._application = application
        self._context = application.context
        self._ledger = application.ledger
        self._catalog = application.context.catalog
        self._store = application.context.store
        self._publishing = PublishStage(application.context, application.policy)
        self._fix = fix
        self._failures = 0
        self.confirmed = 0
        """Uploads whose objects were asked for."""
        self.listed = 0
        """Objects under the prefix."""

    def findings(self) -> Iterator[Finding]:
        """Everything that is found, as it is found.

        Raises `db.DatabaseError`, and `storage.StorageError` if the server can not be asked at all.
        """
        with ThreadPoolExecutor(CONFIRMATIONS, thread_name_prefix="audit") as pool:
            for page in _pages(self._ledger.live_uploads(PROVEN)):
                latest = self._ledger.latest_of_keys({upload.object_key for upload in page})
                ours = [upload for upload in page if latest.get(upload.object_key) == upload.id]
                for upload, answer in zip(ours, pool.map(self._confirm, ours), strict=True):
                    self.confirmed += 1
                    if finding := self._judge(upload, answer):
                        yield finding
        if self._application.catalog_thread is not None:
            yield from self._orphans(self._application.catalog_thread.orphans)
        yield from self._not_ours()

    def _confirm(self, upload: Upload) -> Confirmation | StorageError:
        """Called in a thread of its own."""
        try:
            return self._store.confirm(
                upload.object_key,
                size=upload.size,
                checksum=upload.checksum or "",
                expected_etag=lambda: upload.etag or "",
            )
        except StorageError as exc:
            return exc

    def _judge(self, upload: Upload, answer: Confirmation | StorageError) -> Finding | None:
        if isinstance(answer, StorageError):
            return self._unanswered(upload, answer)
        self._failures = 0
        match answer.verdict:
            case Verdict.AGREES:
                return self._look_at_rows(upload)
            case Verdict.UNKNOWN:
                return Finding(Issue.UNKNOWN, upload.object_key, answer.detail, upload)
            case _:
                return self._look_at_copy(upload, answer)

    def _unanswered(self, upload: Upload, error: StorageError) -> Finding:
        self._failures += 1
        if error.kind is not ErrorKind.TRANSIENT or self._failures >= GIVE_UP:
            raise error
        return Finding(Issue.UNKNOWN, upload.object_key, str(error), upload)

    def _look_at_copy(self, upload: Upload, answer: Confirmation) -> Finding | None:
        """The object is not the upload's: whether it can be uploaded again."""
        key = upload.object_key
        if self._is_replaced_now(upload) or not self._is_left_alone(upload):
            return None
        if self._catalog.rows_deleted(upload):
            return None
        try:
            ensure_reuploadable(self._context, upload, answer)
        except StageError as exc:
            if exc.failure.code == Code.OBJECT_REPLACED:
                return None
            return self._lost(upload, exc.failure.sentence)
        except TreeError as exc:
            return Finding(Issue.UNKNOWN, key, f"{answer.detail} Its local copy: {exc}", upload)
        if upload.state is State.RELEASED:
            detail = f"{answer.detail} A file is at its path again, which the daemon takes for a new one."
            return Finding(Issue.OBJECT_GONE, key, detail, upload)
        if not self._fix:
            return Finding(Issue.OBJECT_GONE, key, f"{answer.detail} The local copy is there.", upload)
        try:
            requeue_lost(self._context, upload, answer)
        except ClaimLostError:
            return None
        detail = f"{answer.detail} The local copy is there, and its upload is pending again."
        return Finding(Issue.OBJECT_GONE, key, detail, upload, is_fixed=True)

    def _lost(self, upload: Upload, sentence: str) -> Finding:
        if upload.state is not State.RELEASED:
            try:
                self._context.tree.ensure_mounted()
            except TreeError as exc:
                return Finding(Issue.UNKNOWN, upload.object_key, str(exc), upload)
        return Finding(Issue.LOST, upload.object_key, sentence, upload)

    def _look_at_rows(self, upload: Upload) -> Finding | None:
        """The object is in place: whether players are led to it."""
        naming, key = self._context.naming, upload.object_key
        url = upload.url or naming.public_url(upload)
        stale_rows = self._catalog.stale_rows(
            upload,
            public_url=url,
            local_url=naming.local_url(upload),
            is_current=self._context.tree.is_unchanged(upload.path, upload.identity),
        )
        if not stale_rows or not self._is_left_alone(upload):
            return None
        told = f"{stale_rows} catalog rows that should show the object do not"
        if not self._fix:
            return Finding(Issue.ROW_ASTRAY, key, f"{told}.", upload)
        try:
            self._publish_again(upload, url)
        except ClaimLostError:
            return None
        except (StageError, StorageError) as exc:
            return Finding(Issue.ROW_ASTRAY, key, f"{told}. {exc}", upload)
        return Finding(Issue.ROW_ASTRAY, key, f"{told}; they were given {url}.", upload, is_fixed=True)

    def _publish_again(self, upload: Upload, url: str) -> None:
        if upload.state is State.VERIFIED:
            self._publishing.publish(upload)
        elif self._application.catalog_thread is not None:
            self._application.catalog_thread.republisher.republish(upload)
        else:
            local_url = self._context.naming.local_url(upload)
            with self._context.database.transaction("publish a URL again"):
                self._catalog.announce(upload, local_url=local_url, public_url=url)
                self._catalog.publish(upload, public_url=url, local_url=local_url)
                self._ledger.note(upload.id, "republished", url)

    def _is_replaced_now(self, upload: Upload) -> bool:
        """Whether other content is on its way to the key."""
        return any(other.state is State.PENDING for other in self._ledger.of_key(upload.object_key))

    def _is_left_alone(self, upload: Upload) -> bool:
        """Whether the row is as it was read, and nobody works on it."""
        (present,) = self._ledger.uploads(ids=[upload.id])
        is_claimed = present.claimed_until is not None and present.claimed_until > self._ledger.now()
        return (present.state, present.claim) == (upload.state, upload.claim) and not is_claimed

    def _orphans(self, orphans: Orphans) -> Iterator[Finding]:
        deletes = self._fix and self._application.settings.delete_orphans
        for upload in orphans.find():
            answer = self._confirm(upload)
            if isinstance(answer, StorageError):
                yield self._unanswered(upload, answer)
            elif answer.verdict is not Verdict.MISSING:
                is_deleted = deletes and orphans.delete(upload)
                then = "it was deleted" if is_deleted else _why_kept(deletes, self._fix)
                told = f"No catalog row leads to it any more; {then}."
                yield Finding(Issue.ORPHAN, upload.object_key, told, upload, is_fixed=is_deleted)

    def _not_ours(self) -> Iterator[Finding]:
        prefix = self._application.settings.aws_s3_videos_prefix.strip("/")
        looked_up = 0
        try:
            for page in _pages(self._store.objects(f"{prefix}/" if prefix else "")):
                self.listed += len(page)
                known = self._ledger.known_keys([entry.key for entry in page])
                for entry in page:
                    if entry.key not in known:
                        looked_up += 1
                        yield Finding(Issue.NOT_OURS, entry.key, self._told(entry, looked_up <= LOOKED_UP))
        except StorageError as exc:
            if exc.status != 403:
                raise
            yield Finding(Issue.UNKNOWN, f"{prefix}/", str(exc))

    def _told(self, entry: ListedObject, is_looked_up: bool) -> str:
        told = f"The ledger does not know it: {entry.size} bytes, written {entry.written_at:%Y-%m-%d %H:%M}Z."
        if is_looked_up and self._is_shown(entry.key):
            return f"{told} A catalog row shows it."
        return told

    def _is_shown(self, key: str) -> bool:
        """Whether a catalog row leads to an object of a rendition that the ledger does not know."""
        settings, naming = self._application.settings, self._context.naming
        parsed = parse_object_key(settings.aws_s3_videos_prefix, key, settings.qualities)
        if parsed is None:
            return False
        return any(naming.key_of(row.url) == key for row in self._catalog.rows(parsed.video_id))


def _why_kept(deletes: bool, fix: bool) -> str:
    if deletes:
        return "it stays until its upload has ended or its local copy is released"
    return "DELETE_ORPHANS is false, so it stays" if fix else "it stays"


def _pages(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while page := list(islice(remaining, PAGE)):
        yield page
