"""Compares bucket, ledger and catalog, whether or not the daemon is running.

A row that is claimed, or that changed during the comparison, is left to the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from db import ClaimLostError, IllegalTransitionError, State, Upload
from storage import (
    Confirmation,
    ListedObject,
    PublicCheck,
    StorageError,
    Verdict,
    parse_object_key,
)
from watcher.app import Application
from watcher.catalog import Orphan, Orphans, RowsLostError
from watcher.errors import Code, StageError
from watcher.filesystem import TreeError
from watcher.operations.requests_to_s3 import Requests, pages
from watcher.stages import PublishStage
from watcher.stages.lost_objects import ensure_reuploadable, requeue_lost
from watcher.stages.object_origin import confirm_without_copy, is_described
from watcher.telemetry import human_time

CONFIRMED_STATES = (State.VERIFIED, State.PUBLISHED, State.RELEASED)
MAX_LOOKUPS = 100
"""Unknown objects that are looked up one by one, in the catalog and in S3."""


class Issue(StrEnum):
    """Kinds of differences."""

    LOST = "lost"
    """The object is missing or differs, and there is no local copy."""
    OBJECT_GONE = "object-gone"
    """The object is missing or differs; the local copy exists."""
    STALE_ROW = "row-astray"
    """The object is in place, but a catalog row that should hold its URL does not."""
    ORPHAN = "orphan"
    """The catalog rows of the object were deleted."""
    UNKNOWN = "unknown"
    """The object could not be checked."""
    NOT_OURS = "not-ours"
    """An object under the prefix that is not in the ledger; it may be there on purpose."""
    RECOVERABLE = "recoverable"
    """The upload is `gone`, because its file disappeared, and there is an object under its key."""
    UNRECORDED = "unrecorded"
    """An object that a catalog row shows, or that this program wrote, and that is not in the ledger."""
    ELSEWHERE = "elsewhere"
    """The object is at the recorded URL, which is not one of the present bucket or endpoint."""


_WITHOUT_RECEIPT = (
    "it was not uploaded by this daemon, or an older ledger was restored since, and nothing checks it"
)
_NEEDS_NO_ACTION = frozenset({Issue.NOT_OURS, Issue.UNRECORDED, Issue.ELSEWHERE})


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, described in a sentence."""

    issue: Issue
    key: str
    detail: str
    upload: Upload | None = None
    is_fixed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it still needs action."""
        return not self.is_fixed and self.issue not in _NEEDS_NO_ACTION


class Audit:
    """One comparison of everything; with `fix`, repairs what can be repaired. Uses constant memory."""

    def __init__(self, application: Application, *, fix: bool) -> None:
        self._application = application
        self._context = application.context
        self._ledger = application.ledger
        self._catalog = application.context.catalog
        self._store = application.context.store
        self._publishing = PublishStage(application.context, application.policy)
        self._public_check = PublicCheck()
        self._prefix = application.context.naming.key_prefix
        self._fix = fix
        self._requests = Requests("audit")
        self.confirmed = 0
        """Number of uploads whose objects were checked in the present bucket."""
        self.listed = 0
        """Number of objects under the prefix."""

    def findings(self) -> Iterator[Finding]:
        """Yield differences while comparing.

        Raises `db.DatabaseError`, and `storage.StorageError` if the server does not answer at all.
        """
        with self._requests:
            for page in pages(self._ledger.iter_in_states(CONFIRMED_STATES)):
                latest = self._ledger.latest_verified_ids({upload.object_key for upload in page})
                ours = [upload for upload in page if latest.get(upload.object_key) == upload.id]
                for upload, answer in self._requests.ask(self._confirm, ours):
                    finding = self._check_object(upload, answer)
                    self.confirmed += finding is None or finding.issue is not Issue.ELSEWHERE
                    if finding is not None:
                        yield finding
            yield from self._gone()
            yield from self._unrecorded_rows()
            if self._application.orphans is not None:
                yield from self._orphans(self._application.orphans)
            yield from self._unknown_objects()

    def _confirm(self, upload: Upload) -> Confirmation:
        """Runs in a thread of the requests."""
        return self._store.confirm(
            upload.object_key, size=upload.size, checksum=upload.checksum or "", proven_etag=upload.etag
        )

    def _check_object(self, upload: Upload, answer: Confirmation | StorageError) -> Finding | None:
        if isinstance(answer, StorageError):
            return self._failed_request(upload, answer)
        match answer.verdict:
            case Verdict.AGREES:
                return self._check_rows(upload)
            case Verdict.UNKNOWN:
                return Finding(Issue.UNKNOWN, upload.object_key, answer.detail, upload)
            case _:
                return self._check_local_copy(upload, answer)

    def _failed_request(self, upload: Upload | None, error: StorageError, *, key: str = "") -> Finding:
        self._requests.tolerate(error)
        return Finding(Issue.UNKNOWN, upload.object_key if upload else key, str(error), upload)

    def _check_local_copy(self, upload: Upload, answer: Confirmation) -> Finding | None:
        """Check whether an object that is missing or differs can be uploaded again."""
        key = upload.object_key
        if self._is_replaced_now(upload) or not self._is_unchanged(upload):
            return None
        if self._catalog.rows_deleted(upload):
            return None
        if elsewhere := self._check_elsewhere(upload, answer):
            return elsewhere
        try:
            ensure_reuploadable(self._context, upload, answer)
        except StageError as exc:
            if exc.failure.code == Code.OBJECT_REPLACED:
                return None
            return self._lost(upload, exc.failure.sentence)
        except TreeError as exc:
            return Finding(Issue.UNKNOWN, key, f"{answer.detail} Its local copy: {exc}", upload)
        if upload.state is State.RELEASED:
            detail = (
                f"{answer.detail} A file exists at its path again, which the daemon uploads as a new one."
            )
            return Finding(Issue.OBJECT_GONE, key, detail, upload)
        if not self._fix:
            return Finding(Issue.OBJECT_GONE, key, f"{answer.detail} The local copy exists.", upload)
        try:
            requeue_lost(self._context, upload, answer)
        except ClaimLostError:
            return None
        detail = f"{answer.detail} The local copy exists, and its upload is pending again."
        return Finding(Issue.OBJECT_GONE, key, detail, upload, is_fixed=True)

    def _check_elsewhere(self, upload: Upload, answer: Confirmation) -> Finding | None:
        """Check an object that was published at a URL of another bucket or endpoint, as a player would.

        None if its URL is a present one, or leads to no object any more.
        """
        key, url = upload.object_key, upload.url
        if url is None or self._context.naming.key_of(url) is not None:
            return None
        content_type = self._context.naming.content_type(upload)
        try:
            self._public_check.require(url, key=key, size=upload.size, content_type=content_type)
        except StorageError as exc:
            if exc.code == "not-found":
                return None
            detail = f"{answer.detail} Its rows have the URL of another place, {url}: {exc}"
            return Finding(Issue.UNKNOWN, key, detail, upload)
        detail = f"Players get it at {url}, which is not below the present AWS_S3_BASE_URL."
        return Finding(Issue.ELSEWHERE, key, detail, upload)

    def _lost(self, upload: Upload, sentence: str) -> Finding:
        if upload.state is not State.RELEASED:
            try:
                self._context.tree.ensure_mounted()
            except TreeError as exc:
                return Finding(Issue.UNKNOWN, upload.object_key, str(exc), upload)
        return Finding(Issue.LOST, upload.object_key, sentence, upload)

    def _check_rows(self, upload: Upload) -> Finding | None:
        """Check that the catalog rows of a confirmed object hold its URL."""
        naming, key = self._context.naming, upload.object_key
        url = upload.url or naming.public_url(upload)
        stale_rows = self._catalog.stale_rows(
            upload,
            public_url=url,
            local_url=naming.local_url(upload),
            is_current=self._context.tree.is_unchanged(upload.path, upload.identity),
        )
        if not stale_rows or not self._is_unchanged(upload):
            return None
        summary = f"{stale_rows} catalog rows that should show the object do not"
        if not self._fix:
            return Finding(Issue.STALE_ROW, key, f"{summary}.", upload)
        try:
            self._republish(upload, url)
        except ClaimLostError:
            return None
        except (StageError, StorageError) as exc:
            return Finding(Issue.STALE_ROW, key, f"{summary}. {exc}", upload)
        return Finding(Issue.STALE_ROW, key, f"{summary}; their URL was set to {url}.", upload, is_fixed=True)

    def _republish(self, upload: Upload, url: str) -> None:
        if upload.state is State.VERIFIED:
            self._publishing.publish(upload)
        elif self._application.catalog_thread is not None:
            self._application.catalog_thread.republisher.republish(upload)
        else:
            local_url = self._context.naming.local_url(upload)
            with self._context.database.transaction("publish a URL again"):
                self._catalog.announce(upload, local_url=local_url, public_url=url)
                self._catalog.publish(upload, public_url=url, local_url=local_url)
                self._ledger.append_event(upload.id, "republished", url)

    def _is_replaced_now(self, upload: Upload) -> bool:
        """Whether an upload of other content to the key is pending."""
        return any(other.state is State.PENDING for other in self._ledger.uploads_of_key(upload.object_key))

    def _is_unchanged(self, upload: Upload) -> bool:
        """Whether the row is as it was read, and unclaimed."""
        (present,) = self._ledger.uploads(ids=[upload.id])
        is_claimed = present.claimed_until is not None and present.claimed_until > self._ledger.now()
        return (present.state, present.claim) == (upload.state, upload.claim) and not is_claimed

    def _gone(self) -> Iterator[Finding]:
        """The uploads whose file disappeared, and whose object is there."""
        for page in pages(self._ledger.iter_uploads(state=State.GONE)):
            missing = [upload for upload in page if upload.error_code == Code.LOCAL_MISSING]
            taken = self._ledger.latest_verified_ids({upload.object_key for upload in missing})
            missing = [upload for upload in missing if upload.object_key not in taken]
            for upload, answer in self._requests.ask(partial(confirm_without_copy, self._store), missing):
                if isinstance(answer, StorageError):
                    yield self._failed_request(upload, answer)
                elif answer.verdict in {Verdict.AGREES, Verdict.UNKNOWN} and self._is_unchanged(upload):
                    yield self._recoverable(upload, answer)

    def _recoverable(self, upload: Upload, answer: Confirmation) -> Finding:
        key = upload.object_key
        if answer.verdict is Verdict.UNKNOWN:
            detail = f"Its local file is missing. {answer.detail} Compare them, or compress the video again."
            return Finding(Issue.RECOVERABLE, key, detail, upload)
        detail = "Its local file is missing, and its object is in place"
        if not self._fix:
            detail += f": `video-uploader retry {upload.id}` publishes it."
            return Finding(Issue.RECOVERABLE, key, detail, upload)
        try:
            self._ledger.reopen(upload.id, reason="its object is in place")
        except (ClaimLostError, IllegalTransitionError) as exc:
            return Finding(Issue.UNKNOWN, key, f"{detail}. {exc}", upload)
        detail += "; its upload is pending again, and the daemon publishes the object."
        return Finding(Issue.RECOVERABLE, key, detail, upload, is_fixed=True)

    def _unrecorded_rows(self) -> Iterator[Finding]:
        """The objects that catalog rows show and that are not in the ledger."""
        naming = self._context.naming
        for page in pages(self._catalog.rows_with_url_prefix(naming.public_url_of(self._prefix))):
            keys = {key: row for row in page if (key := naming.key_of(row.url)) is not None}
            unknown = sorted(keys.keys() - self._ledger.known_keys(list(keys)))
            for key, answer in self._requests.ask(self._store.head, unknown):
                what = f"Catalog row {keys[key].id} shows an object that is not in the ledger"
                if isinstance(answer, StorageError):
                    yield self._failed_request(None, answer, key=key)
                elif answer is not None:
                    yield Finding(Issue.UNRECORDED, key, f"{what}: {_WITHOUT_RECEIPT}.")
                else:
                    yield Finding(Issue.LOST, key, f"{what} and does not exist.")

    def _orphans(self, orphans: Orphans) -> Iterator[Finding]:
        deletes = self._application.settings.delete_orphans
        try:
            for orphan in orphans.find(records=self._fix):
                upload = orphan.upload
                [(_, answer)] = self._requests.ask(self._confirm, [upload])
                if isinstance(answer, StorageError):
                    yield self._failed_request(upload, answer)
                elif answer.verdict is not Verdict.MISSING:
                    is_deleted = self._fix and deletes and orphan.is_due and orphans.delete(upload)
                    result = "it was deleted" if is_deleted else self._why_kept(orphan)
                    detail = f"Its catalog rows were deleted; {result}."
                    yield Finding(Issue.ORPHAN, upload.object_key, detail, upload, is_fixed=is_deleted)
        except RowsLostError as exc:
            detail = f"{exc} No object is deleted for missing rows."
            yield Finding(Issue.UNKNOWN, "video_qualities", detail)

    def _why_kept(self, orphan: Orphan) -> str:
        """Why an orphan is kept, or when the daemon deletes it."""
        if not self._application.settings.delete_orphans:
            return "it is kept, because DELETE_ORPHANS is false"
        if not orphan.is_due:
            since = human_time(orphan.missing_since)
            return f"it is deleted if they are still missing at a look an hour after {since} or later"
        if self._fix:
            return "it is kept until its upload has ended or its local copy is released"
        return "the daemon deletes it at its next look, once its local copy is released"

    def _unknown_objects(self) -> Iterator[Finding]:
        """The objects under the prefix that are not in the ledger and that no catalog row shows."""
        lookups = 0
        try:
            for page in pages(self._store.objects(self._prefix)):
                self.listed += len(page)
                known = self._ledger.known_keys([entry.key for entry in page])
                for entry in page:
                    if entry.key in known:
                        continue
                    lookups += 1
                    if lookups > MAX_LOOKUPS:
                        yield Finding(Issue.NOT_OURS, entry.key, _describe(entry))
                    elif not self._is_in_catalog(entry.key):
                        yield self._unknown_object(entry)
        except StorageError as exc:
            if exc.status != 403:
                raise
            yield Finding(Issue.UNKNOWN, self._prefix, str(exc))

    def _unknown_object(self, entry: ListedObject) -> Finding:
        [(_, head)] = self._requests.ask(self._store.head, [entry.key])
        if isinstance(head, StorageError) or head is None or not is_described(head):
            return Finding(Issue.NOT_OURS, entry.key, _describe(entry))
        detail = f"{_describe(entry)} It has this program's metadata: {_WITHOUT_RECEIPT}."
        return Finding(Issue.UNRECORDED, entry.key, detail)

    def _is_in_catalog(self, key: str) -> bool:
        """Whether a catalog row holds the URL of an object that is not in the ledger."""
        settings, naming = self._application.settings, self._context.naming
        parsed = parse_object_key(settings.aws_s3_videos_prefix, key, settings.qualities)
        if parsed is None:
            return False
        return any(naming.key_of(row.url) == key for row in self._catalog.rows(parsed.video_id))


def _describe(entry: ListedObject) -> str:
    written = f"{entry.written_at:%Y-%m-%d %H:%M}Z"
    return f"It is not in the ledger: {entry.size} bytes, written {written}."
