"""Puts the house together from the settings: who knows whom is written here and nowhere else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from db import Database, Invalidations, Ledger, State
from storage import Distribution, ObjectStore, PublicAccess, PublicCheck
from watcher.app.factories import (
    connect,
    ledger_of,
    make_catalog,
    naming,
    path_template,
    storage_config,
    tree_of,
)
from watcher.catalog.catalog_thread import CatalogMinder
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.gate import Gatekeeper
from watcher.catalog.orphans import Orphans
from watcher.catalog.republisher import RowSweep
from watcher.detection.completeness import Examination, Sighting, examine
from watcher.detection.scan_scheduler import Rescan
from watcher.detection.scanner import Scanner
from watcher.detection.settler import Settler
from watcher.filesystem.removal import is_away
from watcher.filesystem.tree import Tree
from watcher.settings.model import Settings
from watcher.settings.policy import Policy
from watcher.stages import cdn_invalidation
from watcher.stages.abandoned_multiparts import Janitor
from watcher.stages.asides import Asides
from watcher.stages.cdn_invalidation import Invalidator
from watcher.stages.context import Services
from watcher.stages.disk_pressure import DiskPressure
from watcher.stages.enqueue import Intake
from watcher.stages.error_policy import Guard
from watcher.stages.publish import PublishStage
from watcher.stages.release import ReleaseStage
from watcher.stages.runner import Stage, StageRunner
from watcher.stages.upload import UploadStage
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import StagePause
from watcher.supervision.liveness import Liveness
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.transfer_progress import Board

ROW_BACKOFF = Backoff(base=1.0, factor=2.0, cap=300.0)
PROBE_BACKOFF = Backoff(base=2.0, factor=2.0, cap=300.0)
RELEASE_BATCH = 32
"""The most that a stage claims at once: releases share the second that each copy is set aside for."""


@dataclass(frozen=True, slots=True)
class House:
    """Everything that works together while the daemon runs; nothing is started yet."""

    settings: Settings
    policy: Policy
    services: Services
    liveness: Liveness
    janitor: Janitor
    asides: Asides
    intake: Intake
    settler: Settler
    rescan: Rescan
    scanner: Scanner
    runners: Mapping[State, StageRunner]
    disk_pressure: DiskPressure
    catalog_minder: CatalogMinder | None
    """Minds the compressor's catalog, where it is the one in use."""

    @property
    def tree(self) -> Tree:
        """The watched directory."""
        return self.services.tree

    @property
    def database(self) -> Database:
        """Where the ledger is kept."""
        return self.services.database

    @property
    def ledger(self) -> Ledger:
        """What was done and must be done."""
        return self.services.ledger

    @property
    def invalidator(self) -> Invalidator | None:
        """What tells the CDN of replaced objects, if there is a CDN."""
        return self.services.invalidator

    @property
    def pauses(self) -> Mapping[str, StagePause]:
        """Everything that pauses as a whole while its environment is not as it should be, by name."""
        pauses = {runner.stage.name: runner.pause for runner in self.runners.values()}
        if self.invalidator is not None:
            pauses[cdn_invalidation.NAME] = self.invalidator.pause
        return pauses

    @property
    def metrics(self) -> Metrics:
        """What Prometheus may scrape."""
        return self.services.metrics


@contextmanager
def open_house(settings: Settings, *, policy: Policy | None = None) -> Iterator[House]:
    """Assemble everything and close it at the end.

    Raises `watcher.filesystem.tree.RootUnavailableError`, `db.DatabaseError` and `storage.StorageError`.
    """
    config = storage_config(settings)
    with ExitStack() as closing:
        database = connect(settings)
        closing.callback(database.close)
        store = closing.enter_context(ObjectStore(config))
        distribution = (
            closing.enter_context(Distribution(config)) if config.cloudfront_distribution_id else None
        )
        yield _assemble(settings, policy or Policy.of(settings), database, store, distribution)


def _assemble(
    settings: Settings,
    policy: Policy,
    database: Database,
    store: ObjectStore,
    distribution: Distribution | None,
) -> House:
    runners: dict[State, StageRunner] = {}
    liveness = Liveness()
    metrics = Metrics()
    ledger = ledger_of(settings, database)
    minders: list[CatalogMinder] = []

    def look_at_gate() -> None:
        for minder in minders:
            minder.notice()

    services = Services(
        tree=tree_of(settings),
        database=database,
        ledger=ledger,
        catalog=make_catalog(settings, ledger),
        store=store,
        public_access=PublicAccess(store, is_wanted=settings.aws_s3_acl == "public-read"),
        naming=naming(settings),
        backoff=ROW_BACKOFF,
        metrics=metrics,
        board=Board(),
        invalidator=None
        if distribution is None
        else Invalidator(
            distribution,
            Invalidations(database, settings.ledger_instance),
            database=database,
            liveness=liveness,
            metrics=metrics,
        ),
        # boto3 takes the same name from the environment.
        public_check=PublicCheck(ca_bundle=os.environ.get("AWS_CA_BUNDLE"))
        if settings.verify_public_url
        else None,
        wake=lambda state: runners[state].wake() if state in runners else None,
        look_at_gate=look_at_gate,
    )
    janitor = Janitor(
        database=database,
        ledger=services.ledger,
        store=store,
        prefix=settings.aws_s3_videos_prefix,
        backoff=ROW_BACKOFF,
        liveness=liveness,
    )
    asides = Asides(
        services.tree,
        services.ledger,
        lease=timedelta(seconds=settings.claim_seconds),
        is_shared=settings.shared_directory,
    )
    intake = Intake(services, path_template(settings))
    settler = Settler(
        examine=partial(_examine, services.tree, settings.settle_seconds),
        report=intake.take,
        database=database,
        liveness=liveness,
        clock=time.monotonic,
        count_found=metrics.found_by_scan.inc,
    )
    scanner = Scanner(
        tree=services.tree,
        template=path_template(settings),
        ledger=services.ledger,
        notice=settler.notice,
        find=settler.find,
        missing=intake.reconsider_missing,
    )
    rescan = Rescan(
        scanner,
        database=database,
        period=lambda: policy.rescan_seconds,
        liveness=liveness,
        metrics=services.metrics,
    )
    disk_pressure = DiskPressure(
        services.tree,
        ledger,
        policy,
        database=database,
        metrics=metrics,
        liveness=liveness,
        wake=services.wake,
    )
    release_stage = ReleaseStage(services, policy, is_pressed=disk_pressure.is_high_now)
    runners |= _make_runners(settings, policy, services, liveness, release_stage, look_again=settler.notice)
    minder = _make_minder(settings, policy, services, liveness)
    if minder is not None:
        minders.append(minder)
    return House(
        settings,
        policy,
        services,
        liveness,
        janitor,
        asides,
        intake,
        settler,
        rescan,
        scanner,
        runners,
        disk_pressure,
        minder,
    )


def _make_minder(
    settings: Settings, policy: Policy, services: Services, liveness: Liveness
) -> CatalogMinder | None:
    catalog = services.catalog
    if not isinstance(catalog, CompressorCatalog):
        return None
    ledger, naming = services.ledger, services.naming
    return CatalogMinder(
        Gatekeeper(catalog, ledger, naming, wake=services.wake),
        RowSweep(catalog, ledger, naming, services.tree, metrics=services.metrics, wake=services.wake),
        Orphans(catalog, ledger, services.store, policy, deletes=settings.delete_orphans),
        database=services.database,
        liveness=liveness,
    )


def _examine(tree: Tree, settle_seconds: float, path: str, previous: Sighting | None) -> Examination:
    return examine(tree, path, previous=previous, now=time.monotonic(), settle_seconds=settle_seconds)


def _make_runners(
    settings: Settings,
    policy: Policy,
    services: Services,
    liveness: Liveness,
    release_stage: ReleaseStage,
    *,
    look_again: Callable[[str], None],
) -> dict[State, StageRunner]:
    crews: tuple[tuple[Stage, int, int], ...] = (
        (UploadStage(services), settings.upload_concurrency, 1),
        (PublishStage(services, policy), 1, 1),
        (release_stage, 1, RELEASE_BATCH),
    )
    runners = {}
    for stage, threads, batch in crews:
        guard = Guard(
            stage=stage.name,
            ledger=services.ledger,
            pause=StagePause(clock=time.monotonic, backoff=PROBE_BACKOFF),
            backoff=services.backoff,
            look_again=look_again,
            believe_missing=services.tree.believe_missing,
            is_away=lambda upload: is_away(services.tree, upload.path, upload.id),
            metrics=services.metrics,
        )
        runners[stage.state] = StageRunner(
            stage,
            database=services.database,
            ledger=services.ledger,
            guard=guard,
            liveness=liveness,
            lease=timedelta(seconds=settings.claim_seconds),
            threads=threads,
            batch=batch,
        )
    return runners
