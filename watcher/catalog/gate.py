"""The catalog gate: what waits for its row, asked for all of it at once, often while it is fresh."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog

from db import CatalogRow, ClaimLostError, Gate, GateVerdict, Ledger, State, Upload
from storage import KeyTooLongError
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.row_matching import admission
from watcher.renditions import Naming
from watcher.telemetry.logging import row_context

log = structlog.get_logger()

PAGE = 500
"""Uploads whose rows are asked for in one query."""

FRESH = timedelta(seconds=10)
"""What has waited no longer than this is asked about often."""


class CatalogGate:
    """Lets waiting uploads through, or turns them away."""

    def __init__(
        self, catalog: CompressorCatalog, ledger: Ledger, naming: Naming, *, wake: Callable[[State], None]
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._naming = naming
        self._wake = wake

    def ask(self, *, fresh_only: bool = False) -> int:
        """Ask about everything that waits, or about what began to in the last seconds.

        Says how many uploads wait no longer. Raises `db.DatabaseError`.
        """
        since = self._ledger.now() - FRESH if fresh_only else None
        decided = after = 0
        while page := self._catalog.table.rows_of_waiting(since=since, after=after, limit=PAGE):
            for upload, rows in page:
                decided += self._settle(upload, self._catalog.decide(upload, rows))
            after = page[-1][0].id
        if decided:
            self._wake(State.PENDING)
        return decided

    def _settle(self, upload: Upload, gate: Gate) -> bool:
        """Write down what was decided; False if nothing was, or somebody else did so a moment ago."""
        if gate.verdict is GateVerdict.WAIT:
            return False
        try:
            if gate.row is not None:
                self._admit(upload, gate.row)
            else:
                self._ledger.advance(upload, State.REJECTED, error=gate.reason, error_code=gate.code)
                log.warning("upload_rejected", code=gate.code, reason=gate.reason, **row_context(upload))
        except ClaimLostError:
            return False
        return True

    def _admit(self, upload: Upload, row: CatalogRow) -> None:
        try:
            settled = admission(upload, row, self._naming)
        except KeyTooLongError as exc:
            self._ledger.advance(upload, State.FAILED, error=str(exc), error_code=exc.code)
            log.error("upload_failed", code=exc.code, reason=str(exc), **row_context(upload))
            return
        admitted = self._ledger.admit(upload, settled)
        waited = (self._ledger.now() - upload.due_at).total_seconds()
        log.info("upload_admitted", row=row.id, waited_seconds=round(waited, 3), **row_context(admitted))
