"""What the stages work with, and the part of the settings that a reload changes under them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from db import Catalog, Database, Ledger, State
from storage import ObjectStore, PublicAccess, PublicCheck
from watcher.backoff import Backoff
from watcher.board import Board
from watcher.invalidation import Invalidator
from watcher.metrics import Metrics
from watcher.naming import Naming
from watcher.settings import Settings
from watcher.tree import Tree


@dataclass(slots=True)
class Policy:
    """The settings that a reload changes while the daemon runs."""

    retention: timedelta
    keep_local: bool
    rescan_seconds: float
    prune_after: timedelta | None = None
    disk_percent: float = 100

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy that the settings ask for."""
        policy = cls(timedelta(), keep_local=False, rescan_seconds=0)
        policy.follow(settings)
        return policy

    def follow(self, settings: Settings) -> None:
        """Take over what the settings ask for now."""
        days = settings.prune_directories_after_days
        self.retention = timedelta(seconds=settings.release_after_seconds)
        self.keep_local = settings.keep_local
        self.rescan_seconds = settings.rescan_seconds
        self.disk_percent = settings.disk_pressure_percent
        self.prune_after = None if days is None else timedelta(days=days)


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
