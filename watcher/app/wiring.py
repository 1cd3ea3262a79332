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
from storage import AclFallback, Distribution, ObjectStore, PublicCheck
from watcher.app.factories import (
    connect,
    ledger_of,
    make_catalog,
    naming,
    path_template,
    storage_config,
    tree_of,
)
from watcher.catalog.catalog_thread import CatalogThread
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.gate import CatalogGate
from watcher.catalog.orphans import Orphans
from watcher.catalog.republisher import Republisher
from watcher.detection.completeness import FileStatus, Observation, check_complete
from watcher.detection.scan_scheduler import ScanScheduler
from watcher.detection.scanner import Scanner
from watcher.detection.settler import Settler
from watcher.filesystem.removal import is_away
from watcher.filesystem.tree import Tree
from watcher.settings.model import Settings
from watcher.settings.policy import Policy
from watcher.stages import cdn_invalidation
from watcher.stages.abandoned_multiparts import AbandonedMultiparts
from watcher.stages.asides import Quarantine
from watcher.stages.cdn_invalidation import Invalidator
from watcher.stages.context import StageContext
from watcher.stages.disk_pressure import DiskPressure
from watcher.stages.enqueue import Enqueuer
from watcher.stages.error_policy import ErrorPolicy
from watcher.stages.publish import PublishStage
from watcher.stages.release import ReleaseStage
from watcher.stages.runner import Stage, StageRunner
from watcher.stages.upload import UploadStage
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.transfer_progress import TransferProgress

ROW_BACKOFF = Backoff(base=1.0, factor=2.0, cap=300.0)
PROBE_BACKOFF = Backoff(base=2.0, factor=2.0, cap=300.0)
RELEASE_BATCH = 32
"""The most that a stage claims at once: releases share the second that each copy is set aside for."""


@dataclass(frozen=True, slots=True)
class Application:
    """Everything that works together while the daemon runs; nothing is started yet."""

    settings: Settings
    policy: Policy
    context: StageContext
    supervisor: Supervisor
    abandoned_multiparts: AbandonedMultiparts
    asides: Quarantine
    enqueuer: Enqueuer
    settler: Settler
    scan_scheduler: ScanScheduler
    scanner: Scanner
    runners: Mapping[State, StageRunner]
    disk_pressure: DiskPressure
    catalog_thread: CatalogThread | None
    """Minds the compressor's catalog, where it is the one in use."""

    @property
    def tree(self) -> Tree:
        """The watched directory."""
        return self.context.tree

    @property
    def database(self) -> Database:
        """Where the ledger is kept."""
        return self.context.database

    @property
    def ledger(self) -> Ledger:
        """What was done and must be done."""
        return self.context.ledger

    @property
    def invalidator(self) -> Invalidator | None:
        """What tells the CDN of replaced objects, if there is a CDN."""
        return self.context.invalidator

    @property
    def breakers(self) -> Mapping[str, CircuitBreaker]:
        """Everything that pauses as a whole while its environment is not as it should be, by name."""
        breakers = {runner.stage.name: runner.breaker for runner in self.runners.values()}
        if self.invalidator is not None:
            breakers[cdn_invalidation.NAME] = self.invalidator.breaker
        return breakers

    @property
    def metrics(self) -> Metrics:
        """What Prometheus may scrape."""
        return self.context.metrics


@contextmanager
def open_application(settings: Settings, *, policy: Policy | None = None) -> Iterator[Application]:
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
) -> Application:
    runners: dict[State, StageRunner] = {}
    metrics = Metrics()
    supervisor = Supervisor(metrics, session=database.session)
    ledger = ledger_of(settings, database)
    catalog_threads: list[CatalogThread] = []

    def check_gate() -> None:
        for catalog_thread in catalog_threads:
            catalog_thread.check_gate()

    context = StageContext(
        tree=tree_of(settings),
        database=database,
        ledger=ledger,
        catalog=make_catalog(settings, ledger),
        store=store,
        acl_fallback=AclFallback(store, is_wanted=settings.aws_s3_acl == "public-read"),
        naming=naming(settings),
        backoff=ROW_BACKOFF,
        metrics=metrics,
        transfer_progress=TransferProgress(),
        invalidator=None
        if distribution is None
        else Invalidator(
            distribution,
            Invalidations(database, settings.ledger_instance),
            supervisor=supervisor,
            metrics=metrics,
        ),
        # boto3 takes the same name from the environment.
        public_check=PublicCheck(ca_bundle=os.environ.get("AWS_CA_BUNDLE"))
        if settings.verify_public_url
        else None,
        wake=lambda state: runners[state].wake() if state in runners else None,
        check_gate=check_gate,
    )
    abandoned_multiparts = AbandonedMultiparts(
        ledger=context.ledger,
        store=store,
        prefix=settings.aws_s3_videos_prefix,
        backoff=ROW_BACKOFF,
        supervisor=supervisor,
    )
    asides = Quarantine(
        context.tree,
        context.ledger,
        lease=timedelta(seconds=settings.claim_seconds),
        is_shared=settings.shared_directory,
    )
    enqueuer = Enqueuer(context, path_template(settings))
    settler = Settler(
        check_complete=partial(_check_complete, context.tree, settings.settle_seconds),
        report=enqueuer.take,
        supervisor=supervisor,
        clock=time.monotonic,
        count_found=metrics.found_by_scan.inc,
    )
    scanner = Scanner(
        tree=context.tree,
        template=path_template(settings),
        ledger=context.ledger,
        check=settler.check,
        missing=enqueuer.reconsider_missing,
    )
    scan_scheduler = ScanScheduler(
        scanner,
        period=lambda: policy.rescan_seconds,
        supervisor=supervisor,
        metrics=context.metrics,
    )
    disk_pressure = DiskPressure(
        context.tree,
        ledger,
        policy,
        supervisor=supervisor,
        metrics=metrics,
        wake_stage=context.wake,
    )
    release_stage = ReleaseStage(context, policy, is_pressed=disk_pressure.is_high_now)
    runners |= _make_runners(settings, policy, context, supervisor, release_stage, look_again=settler.check)
    catalog_thread = _make_catalog_thread(settings, policy, context, supervisor)
    if catalog_thread is not None:
        catalog_threads.append(catalog_thread)
    return Application(
        settings,
        policy,
        context,
        supervisor,
        abandoned_multiparts,
        asides,
        enqueuer,
        settler,
        scan_scheduler,
        scanner,
        runners,
        disk_pressure,
        catalog_thread,
    )


def _make_catalog_thread(
    settings: Settings, policy: Policy, context: StageContext, supervisor: Supervisor
) -> CatalogThread | None:
    catalog = context.catalog
    if not isinstance(catalog, CompressorCatalog):
        return None
    ledger, naming = context.ledger, context.naming
    return CatalogThread(
        CatalogGate(catalog, ledger, naming, wake=context.wake),
        Republisher(catalog, ledger, naming, context.tree, metrics=context.metrics, wake=context.wake),
        Orphans(catalog, ledger, context.store, policy, deletes=settings.delete_orphans),
        supervisor=supervisor,
    )


def _check_complete(tree: Tree, settle_seconds: float, path: str, previous: Observation | None) -> FileStatus:
    return check_complete(tree, path, previous=previous, now=time.monotonic(), settle_seconds=settle_seconds)


def _make_runners(
    settings: Settings,
    policy: Policy,
    context: StageContext,
    supervisor: Supervisor,
    release_stage: ReleaseStage,
    *,
    look_again: Callable[[str], None],
) -> dict[State, StageRunner]:
    crews: tuple[tuple[Stage, int, int], ...] = (
        (UploadStage(context), settings.upload_concurrency, 1),
        (PublishStage(context, policy), 1, 1),
        (release_stage, 1, RELEASE_BATCH),
    )
    runners = {}
    for stage, threads, batch in crews:
        error_policy = ErrorPolicy(
            stage=stage.name,
            ledger=context.ledger,
            breaker=CircuitBreaker(clock=time.monotonic, backoff=PROBE_BACKOFF),
            backoff=context.backoff,
            look_again=look_again,
            believe_missing=context.tree.believe_missing,
            is_away=lambda upload: is_away(context.tree, upload.path, upload.id),
            metrics=context.metrics,
        )
        runners[stage.state] = StageRunner(
            stage,
            ledger=context.ledger,
            error_policy=error_policy,
            supervisor=supervisor,
            lease=timedelta(seconds=settings.claim_seconds),
            threads=threads,
            batch=batch,
        )
    return runners
