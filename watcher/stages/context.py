"""What the stages work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from db import Catalog, Database, Ledger, State
from storage import AclFallback, ObjectStore, PublicCheck
from watcher.catalog.gate import CatalogGate
from watcher.filesystem.tree import Tree
from watcher.renditions import Naming
from watcher.stages.cdn_invalidation import Invalidator
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.transfer_progress import TransferProgress


@dataclass(frozen=True, slots=True)
class StageContext:
    """The collaborators of every stage.

    `wake` tells the stage of a state that it may have work; `check_gate` says that something has come to
    the catalog gate.

    `invalidator` is there with a CDN that has to be told of replaced objects, `public_check` if public URLs
    are to be fetched before they are published.
    """

    tree: Tree
    database: Database
    ledger: Ledger
    catalog: Catalog
    gate: CatalogGate | None
    store: ObjectStore
    acl_fallback: AclFallback
    naming: Naming
    backoff: Backoff
    metrics: Metrics
    transfer_progress: TransferProgress
    invalidator: Invalidator | None
    public_check: PublicCheck | None
    wake: Callable[[State], None]
    check_gate: Callable[[], None]
