"""What the stages work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from db import Catalog, Database, Ledger, State
from storage import ObjectStore, PublicAccess, PublicCheck
from watcher.filesystem.tree import Tree
from watcher.naming import Naming
from watcher.stages.cdn_invalidation import Invalidator
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.transfer_progress import Board


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of every stage.

    `wake` tells the stage of a state that it may have work; `look_at_gate` says that something has come to
    the catalog gate.

    `invalidator` is there with a CDN that has to be told of replaced objects, `public_check` if public URLs
    are to be fetched before they are published.
    """

    tree: Tree
    database: Database
    ledger: Ledger
    catalog: Catalog
    store: ObjectStore
    public_access: PublicAccess
    naming: Naming
    backoff: Backoff
    metrics: Metrics
    board: Board
    invalidator: Invalidator | None
    public_check: PublicCheck | None
    wake: Callable[[State], None]
    look_at_gate: Callable[[], None]
