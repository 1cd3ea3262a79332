"""The catalog's rows are swept as the directory is: a row can appear, or go back, though no file changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import structlog

from db import CatalogRow, ClaimLostError, IllegalTransitionError, Ledger, State, Upload
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.errors import Code
from watcher.filesystem.tree import Tree
from watcher.renditions import Naming
from watcher.telemetry.logging import row_context
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

WATCHED = timedelta(minutes=10)
"""So long after its publication a row is looked at every few seconds."""

CONCERNED = frozenset({State.VERIFIED, State.PUBLISHED, State.REJECTED, State.GONE})
_TURNED_AWAY = frozenset({Code.ENCODE_FAILED, Code.ROW_GONE})
"""Codes of stopped uploads whose reason a row can take away."""


class Republisher:
    """Publishes onto rows that show no object although there is one. May raise `db.DatabaseError`."""

    def __init__(
        self,
        catalog: CompressorCatalog,
        ledger: Ledger,
        naming: Naming,
        tree: Tree,
        *,
        metrics: Metrics,
        wake: Callable[[State], None],
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._naming = naming
        self._tree = tree
        self._metrics = metrics
        self._wake = wake

    def watch(self) -> int:
        """Look at the rows that were published in the last minutes; says how many had gone back."""
        gone_back = self._catalog.table.gone_back(self._ledger.now() - WATCHED)
        before = self._catalog.publications.of_rows([row.id for row in gone_back])
        uploads = self._ledger.uploads(ids={publication.upload_id for publication in before.values()})
        return sum(self.republish(upload) for upload in uploads)

    def sweep(self) -> int:
        """Compare every ready row of the videos we have anything of with what was published onto it."""
        changed = 0
        for video_id, rows in self._catalog.table.not_shown(CONCERNED).items():
            for upload in self._ledger.uploads(video_id=video_id):
                changed += self._bring_together(upload, rows)
        return changed

    def republish(self, upload: Upload) -> int:
        """Give the upload's rows its URL again; says how many did not show it."""
        if upload.state not in {State.PUBLISHED, State.RELEASED}:
            return 0
        url = upload.url or self._naming.public_url(upload)
        shown = self._catalog.show(
            upload, url, is_current=self._tree.is_unchanged(upload.path, upload.identity)
        )
        if shown.changed:
            self._metrics.republished.inc(shown.changed)
            self._ledger.note(upload.id, "republished", f"onto {shown.changed} rows that did not show {url}")
            log.warning("upload_republished", rows=shown.changed, url=url, **row_context(upload))
        return shown.changed

    def _bring_together(self, upload: Upload, rows: list[CatalogRow]) -> int:
        match upload.state:
            case State.PUBLISHED:
                return self.republish(upload)
            case State.VERIFIED if upload.claimed_by is None:
                self._ledger.make_due([upload.id])
                self._wake(State.VERIFIED)
            case State.REJECTED | State.GONE if upload.error_code in _TURNED_AWAY:
                if self._catalog.decide(upload, self._catalog.rows(upload.video_id)).is_open:
                    # Another daemon may have seen the row first.
                    with suppress(ClaimLostError, IllegalTransitionError):
                        self._ledger.reopen(upload.id, reason=f"catalog row {rows[-1].id} is ready")
                    self._wake(State.PENDING)
        return 0
