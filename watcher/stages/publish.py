"""The second stage: a confirmed object's URL goes where players read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from db import State, Upload
from watcher.errors import Code, Kind, StageError
from watcher.failpoints import Point, failpoint
from watcher.settings.policy import Policy
from watcher.stages.context import StageContext
from watcher.stages.runner import Work

log = structlog.get_logger()


class PublishStage:
    """Points the catalog at verified objects; the policy says how long the local copy stays after that."""

    name = "publish"
    state = State.VERIFIED
    patience_seconds = 120.0

    def __init__(self, context: StageContext, policy: Policy) -> None:
        self._tree = context.tree
        self._database = context.database
        self._ledger = context.ledger
        self._catalog = context.catalog
        self._naming = context.naming
        self._public_check = context.public_check
        self._metrics = context.metrics
        self._longest_backoff = context.backoff.longest
        self._wake = context.wake
        self._policy = policy

    def is_enabled(self) -> bool:
        """Always: what is verified is published."""
        return True

    @property
    def horizon(self) -> timedelta:
        """Rows wait for their backoff and nothing else."""
        return self._longest_backoff

    def advance(self, uploads: Sequence[Upload], work: Work) -> None:
        """Take each row from `verified` to `published`; row and catalog change together or not at all.

        If it is wished, what players will fetch is fetched first, for nobody else would notice what they see.
        """
        for upload in uploads:
            with work.error_policy.handling(upload):
                self.publish(upload)

    def publish(self, upload: Upload) -> None:
        """Take one row on. Raises what keeps it from going on, and `db.ClaimLostError` if it has moved on."""
        public_url, local_url = self._naming.public_url(upload), self._naming.local_url(upload)
        if self._public_check is not None:
            self._public_check.require(
                public_url,
                key=upload.object_key,
                size=upload.size,
                content_type=self._naming.content_type(upload),
            )
        is_current = self._tree.is_unchanged(upload.path, upload.identity)
        with self._database.transaction():
            rows = self._catalog.publish(
                upload, public_url=public_url, local_url=local_url, is_current=is_current
            )
            if not rows and self._catalog.creates_rows:
                self._catalog.announce(upload, local_url=local_url, public_url=public_url)
                rows = self._catalog.publish(
                    upload, public_url=public_url, local_url=local_url, is_current=is_current
                )
            if not rows and self._catalog.rows_deleted(upload):
                self._give_up(upload)
                return
            if not rows:
                raise StageError(
                    Kind.TRANSIENT,
                    Code.ROW_MISSING,
                    f"No catalog row of video {upload.video_id} could be given the URL {public_url}.",
                )
            failpoint(Point.ROW_PUBLISHED)
            self._ledger.advance(
                upload, State.PUBLISHED, detail=public_url, url=public_url, due_in=self._policy.retention
            )
        failpoint(Point.PUBLISHED)
        self._metrics.published.inc()
        log.info("upload_published", url=public_url)
        self._wake(State.PUBLISHED)

    def _give_up(self, upload: Upload) -> None:
        error = "Its catalog row was deleted before its URL could be published. The local file is kept."
        self._ledger.advance(upload, State.GONE, error=error, error_code=Code.ROW_GONE)
        log.warning("upload_gone", reason=error)
