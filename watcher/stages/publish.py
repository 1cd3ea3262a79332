"""The publish stage: writes the URL of a confirmed object into the catalog."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import structlog

from db import State, Upload
from watcher.errors import HANDLED_ERRORS, Code, DeferError, FailureKind, StageError
from watcher.failpoints import Point, failpoint
from watcher.settings import Policy
from watcher.stages.context import StageContext
from watcher.stages.runner import MAX_WAIT_SECONDS, Stage, Work

log = structlog.get_logger()

LEDGER_QUERIED_WITHIN = timedelta(seconds=MAX_WAIT_SECONDS)
"""What is released later than this need not be told to the release stage, which finds it by itself."""

PACKAGE_SECONDS = 600.0
"""How soon the publication of a file that a playlist names is tried again: the playlist may have gone."""


class _NoRowError(Exception):
    """The upload has no catalog row that can be given its URL."""


class PublishStage(Stage):
    """Publishes the URLs of verified uploads; the policy sets when their local copies are due for release."""

    name = "publish"
    state = State.VERIFIED
    patience_seconds = 120.0

    def __init__(self, context: StageContext, policy: Policy) -> None:
        self._context = context
        self._policy = policy

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Advance each upload from `verified` to `published`; ledger and catalog change in one transaction.

        With VERIFY_PUBLIC_URL the URL is fetched first, as a player would fetch it.
        """
        for upload in uploads:
            with work.error_policy.handling(upload):
                self.publish(upload)

    def publish(self, upload: Upload) -> None:
        """Publish one upload. Raises `db.ClaimLostError` and the errors that `ErrorPolicy` handles."""
        if reason := self._context.packages.reason(upload.path):
            raise DeferError(Code.IN_PACKAGE, f"Its URL is not published because {reason}.", PACKAGE_SECONDS)
        public_url = self._context.naming.public_url(upload)
        if self._context.public_check is not None:
            self._context.public_check.require(
                public_url,
                key=upload.object_key,
                size=upload.size,
                content_type=self._context.naming.content_type(upload),
            )
        is_current = self._context.tree.is_unchanged(upload.path, upload.identity)
        try:
            self._commit(upload, public_url, is_current=is_current)
        except _NoRowError:
            if self._context.catalog.rows_deleted(upload):
                self._abandon(upload)
                return
            raise StageError(
                FailureKind.TRANSIENT,
                Code.ROW_MISSING,
                f"Video {upload.video_id} has no catalog row that can be given the URL {public_url}.",
            ) from None
        self.announce(upload, public_url)

    def is_ready(self, upload: Upload) -> bool | None:
        """Whether the path still holds the content of an upload, which is published once it is verified.

        None if anything stands between. To be asked outside of a transaction, because it reads the directory.
        """
        try:
            if self._context.public_check is not None or self._context.packages.reason(upload.path):
                return None
            return self._context.tree.is_unchanged(upload.path, upload.identity)
        except HANDLED_ERRORS:
            return None

    def publish_verified(self, upload: Upload, *, is_current: bool) -> str | None:
        """Publish an upload within the transaction that verifies it; returns its URL.

        None, and nothing is changed, if that fails: the stage then publishes it in its turn, and handles the
        error.
        """
        public_url = self._context.naming.public_url(upload)
        try:
            self._commit(upload, public_url, is_current=is_current)
        except (_NoRowError, *HANDLED_ERRORS):
            return None
        return public_url

    def announce(self, upload: Upload, public_url: str) -> None:
        """Tell that an upload is published, once that is committed."""
        failpoint(Point.PUBLISHED)
        metrics, now = self._context.metrics, time.time()
        metrics.published.inc()
        metrics.published_at.set(now)
        changed_ns = max(upload.identity.mtime_ns, upload.identity.ctime_ns or 0)
        metrics.publication_seconds.observe(max(0.0, now - changed_ns / 1e9))
        log.info("upload_published", url=public_url)
        if self._policy.retention < LEDGER_QUERIED_WITHIN:
            self._context.signals.wake_stage(State.PUBLISHED)
        self._context.signals.wake_notifications()

    def _commit(self, upload: Upload, public_url: str, *, is_current: bool) -> None:
        """Record the publication, and publish onto the catalog's rows in the same transaction."""
        local_url = self._context.naming.local_url(upload)
        with self._context.database.transaction("publish an upload"):
            # The ledger first: the catalog's rows are then locked only until the commit.
            self._context.ledger.advance(
                upload, State.PUBLISHED, detail=public_url, url=public_url, due_in=self._policy.retention
            )
            self._publish_rows(upload, public_url=public_url, local_url=local_url, is_current=is_current)
            failpoint(Point.ROW_PUBLISHED)

    def _publish_rows(self, upload: Upload, *, public_url: str, local_url: str, is_current: bool) -> None:
        """Publish onto the upload's catalog rows, or raise _NoRowError."""
        catalog = self._context.catalog
        urls = {"public_url": public_url, "local_url": local_url}
        if catalog.publish(upload, **urls, is_current=is_current):
            return
        if catalog.creates_rows:
            catalog.announce(upload, **urls)
            if catalog.publish(upload, **urls, is_current=is_current):
                return
        raise _NoRowError

    def _abandon(self, upload: Upload) -> None:
        error = "Its catalog row was deleted before its URL could be published. The local file is kept."
        self._context.ledger.advance(upload, State.GONE, error=error, error_code=Code.ROW_GONE)
        log.warning("upload_gone", reason=error)
