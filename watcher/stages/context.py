"""What the stages share: their collaborators, and the signals between components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from db import Catalog, Database, Ledger, Orders, Pause, State, Steering, format_time
from storage import ObjectStore, PublicCheck
from watcher.catalog import CatalogGate
from watcher.filesystem import Packages, Tree
from watcher.filesystem.hashing import Hashing
from watcher.renditions import Naming
from watcher.stages.cdn_invalidation import Invalidator
from watcher.supervision.backoff import Backoff
from watcher.telemetry import Metrics, TransferProgress

log = structlog.get_logger()


class Signals:
    """Tells other components that they may have work; a signal that is not connected does nothing.

    Components signal each other in circles, so this is made before all of them and connected after them.
    """

    def __init__(self) -> None:
        self._stages: Mapping[State, Callable[[], None]] = {}
        self._gate: Callable[[], None] | None = None
        self._rows: Callable[[str], None] | None = None
        self._file: Callable[[str], None] | None = None
        self._notifications: Callable[[], None] | None = None

    def connect(
        self,
        *,
        stages: Mapping[State, Callable[[], None]],
        gate: Callable[[], None] | None,
        rows: Callable[[str], None] | None,
        file: Callable[[str], None],
        notifications: Callable[[], None] | None = None,
    ) -> None:
        """Set what each signal calls."""
        self._notifications = notifications
        self._stages, self._gate, self._rows, self._file = stages, gate, rows, file

    def wake_stage(self, state: State) -> None:
        """The stage of this state may have an upload to advance."""
        if state in self._stages:
            self._stages[state]()

    def wake_stages(self) -> None:
        """Every stage may have uploads to advance."""
        for wake in self._stages.values():
            wake()

    def check_gate(self) -> None:
        """An upload waits at the catalog gate."""
        if self._gate is not None:
            self._gate()

    def check_rows(self, video_id: str) -> None:
        """A file of this video was found: new catalog rows of the video may follow."""
        if self._rows is not None:
            self._rows(video_id)

    def wake_notifications(self) -> None:
        """An event may have been queued for a receiver."""
        if self._notifications is not None:
            self._notifications()

    def check_file(self, path: str) -> None:
        """The file at a path may have changed and must be examined again."""
        if self._file is not None:
            self._file(path)


class OperatorOrders:
    """What operators ask of the daemon in the ledger, as of the last look; `wake` wakes every stage."""

    def __init__(self, steering: Steering, wake: Callable[[], None]) -> None:
        self.steering = steering
        self._wake = wake
        self._seen = Orders(None, None)

    @property
    def pause(self) -> Pause | None:
        """Why no upload is begun; None if uploads are not paused."""
        return self._seen.pause

    def look(self) -> None:
        """Read the orders and tell of what has changed. Raises `db.DatabaseError`."""
        before, self._seen = self._seen, self.steering.orders()
        if self._seen == before:
            return
        if self.pause is None and before.pause is not None:
            log.info("uploads_resumed")
        elif self.pause is not None and self.pause != before.pause:
            log.warning("uploads_paused", since=format_time(self.pause.at), reason=self.pause.reason)
        self._wake()


@dataclass(frozen=True, slots=True)
class StageContext:
    """The collaborators of every stage.

    `gate` is None unless the compressor's catalog is configured; `invalidator` is None without a CDN that
    caches replaced objects; `public_check` is None unless VERIFY_PUBLIC_URL is set.
    """

    tree: Tree
    packages: Packages
    hashing: Hashing
    database: Database
    ledger: Ledger
    catalog: Catalog
    gate: CatalogGate | None
    store: ObjectStore
    naming: Naming
    backoff: Backoff
    metrics: Metrics
    transfer_progress: TransferProgress
    invalidator: Invalidator | None
    public_check: PublicCheck | None
    signals: Signals
    orders: OperatorOrders
