"""Builds the application from the settings: the only place where components are connected."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from db import Database, Invalidations, Ledger, Outbox, State, Steering
from storage import NO_ANSWER_CODES, Distribution, ObjectStore, PublicCheck
from watcher.app.bandwidth import BandwidthLimit
from watcher.app.factories import (
    make_catalog,
    make_gate,
    make_ledger,
    make_live_acceptance,
    make_naming,
    make_path_template,
    make_storage_config,
    make_tree,
    open_ledger_database,
    small_uploads,
)
from watcher.catalog import CatalogThread, CompressorCatalog, IgnoredFiles, MissingFiles, Orphans, Republisher
from watcher.detection import Scanner, Settler, check_complete
from watcher.detection.scan_scheduler import ScanScheduler
from watcher.filesystem import Packages, Tree
from watcher.filesystem.hashing import Hashing
from watcher.settings import Policy, Settings
from watcher.stages import (
    AbandonedMultiparts,
    DiskPressure,
    Enqueuer,
    ErrorPolicy,
    Invalidator,
    OperatorOrders,
    PublishStage,
    QuarantineRepair,
    ReceiptKeeper,
    ReleaseStage,
    Signals,
    Stage,
    StageContext,
    StageRunner,
    UploadStage,
)
from watcher.stages.notifications import Channel, Notifier, Videos
from watcher.stages.receivers import Command, Heartbeat, Receiver, Webhook
from watcher.stages.runner import PLAYABLE_FOR
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.run_queue import RunQueue
from watcher.supervision.store_health import StoreHealth
from watcher.telemetry import Metrics, TransferProgress

ROW_BACKOFF = Backoff(base=1.0, factor=2.0, cap=300.0)
PROBE_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)
CHECKING_PUBLISHERS = 4
"""How many threads publish where public URLs are fetched first: a slow one holds up only its own thread."""
RELEASERS = 3
"""How many threads release: while the files of one batch are in quarantine, the others go on."""
RELEASE_BATCH = 256
"""How many releases one claim takes at most: they share one quarantine time."""


@dataclass(frozen=True, slots=True)
class Application:
    """The components of the daemon, connected but not started."""

    settings: Settings
    policy: Policy
    context: StageContext
    supervisor: Supervisor
    abandoned_multiparts: AbandonedMultiparts
    receipts: ReceiptKeeper
    quarantine_repair: QuarantineRepair
    enqueuer: Enqueuer
    settler: Settler
    scan_scheduler: ScanScheduler
    scanner: Scanner
    runners: Mapping[State, StageRunner]
    disk_pressure: DiskPressure
    store_health: StoreHealth
    bandwidth: BandwidthLimit
    notifier: Notifier | None
    """None unless a command or a webhook is configured."""
    heartbeat: Heartbeat | None
    """None unless HEARTBEAT_URL is set."""
    catalog_thread: CatalogThread | None
    """None unless the compressor's catalog is configured."""
    orphans: Orphans | None
    """None unless the compressor's catalog is configured."""
    ignored_files: IgnoredFiles | None
    """As `catalog_thread`."""

    @property
    def tree(self) -> Tree:
        """The watched directory."""
        return self.context.tree

    @property
    def ledger(self) -> Ledger:
        """The ledger of uploads."""
        return self.context.ledger

    def forget_undeliverable(self) -> None:
        """Delete events for receivers that are not configured any more, and try those at once that are.

        Not on a shared directory, whose other daemons may be configured differently, or be delivering.
        Raises `db.DatabaseError`.
        """
        if self.settings.shared_directory:
            return
        channels = make_receivers(self.settings)
        outbox = Outbox(self.context.database, self.ledger.instance)
        outbox.discard(other_than=[*channels, Channel.VIDEO] if channels else [])
        for channel in channels:
            outbox.make_due(channel)

    @property
    def breakers(self) -> Mapping[str, CircuitBreaker]:
        """The circuit breakers of the stages and of CDN invalidation, by name."""
        breakers = [runner.breaker for runner in self.runners.values()]
        if self.context.invalidator is not None:
            breakers.append(self.context.invalidator.breaker)
        return {breaker.stage: breaker for breaker in breakers}


@contextmanager
def open_application(settings: Settings, *, policy: Policy | None = None) -> Iterator[Application]:
    """Build the application; close its database and its connections at the end.

    Raises `watcher.filesystem.openat.RootUnavailableError`, `db.DatabaseError` and `storage.StorageError`.
    """
    config = make_storage_config(settings)
    with ExitStack() as closing:
        database = open_ledger_database(settings)
        closing.callback(database.close)
        store = closing.enter_context(ObjectStore(config))
        distribution = None
        if config.cloudfront_distribution_id:
            distribution = closing.enter_context(Distribution(config))
        policy = policy or Policy.from_settings(settings)
        yield build_application(settings, policy, database=database, store=store, distribution=distribution)


def build_application(
    settings: Settings,
    policy: Policy,
    *,
    database: Database,
    store: ObjectStore,
    distribution: Distribution | None,
) -> Application:
    """Build the signals, then every component, then connect the signals to the components."""
    signals = Signals()
    metrics = Metrics()
    database.observer = metrics.observe_database
    store.observe(metrics.observe_store)
    run_queue = RunQueue()
    database.tell_of_waits(run_queue.waiting)
    store.tell_of_waits(run_queue.waiting)
    supervisor = Supervisor(
        metrics,
        session=database.session,
        # A thread waits in every statement on PostgreSQL.
        running=nullcontext if settings.on_postgresql else run_queue.running,
        waiting=run_queue.waiting,
        is_contended=lambda: settings.on_postgresql or run_queue.is_contended,
    )
    context = build_context(
        settings,
        database=database,
        store=store,
        distribution=distribution,
        metrics=metrics,
        supervisor=supervisor,
        signals=signals,
    )
    enqueuer, settler, scanner, scan_scheduler = build_detection(
        settings, policy, context=context, supervisor=supervisor
    )
    disk_pressure = DiskPressure(
        tree=context.tree,
        ledger=context.ledger,
        policy=policy,
        metrics=context.metrics,
        supervisor=supervisor,
        wake_stage=signals.wake_stage,
    )
    store_health = build_store_health(settings, context=context, supervisor=supervisor)
    runners = build_stages(
        settings,
        policy,
        context=context,
        supervisor=supervisor,
        disk_pressure=disk_pressure,
        store_health=store_health,
    )
    store_health.connect(
        [(runners[state].breaker, runners[state].wake) for state in (State.PENDING, State.PUBLISHED)]
    )
    catalog_thread = build_catalog(context=context, supervisor=supervisor)
    orphans = build_orphans(settings, policy, context=context, supervisor=supervisor)
    notifier = build_notifier(settings, context=context, settler=settler, supervisor=supervisor)
    context.ledger.observer = notifier
    signals.connect(
        stages={state: runner.wake for state, runner in runners.items()},
        gate=catalog_thread.check_gate if catalog_thread else None,
        rows=catalog_thread.check_rows if catalog_thread else None,
        file=settler.check,
        notifications=notifier.wake if notifier else None,
    )
    quarantine_repair = QuarantineRepair(
        tree=context.tree,
        ledger=context.ledger,
        hashing=context.hashing,
        lease=timedelta(seconds=settings.claim_seconds),
        is_shared=settings.shared_directory,
    )
    receipts = ReceiptKeeper(context.ledger, context.tree, keep_days=settings.receipts_keep_days)
    for isolation in (scanner.isolation, quarantine_repair.isolation):
        isolation.supervisor = supervisor
    return Application(
        settings=settings,
        policy=policy,
        context=context,
        supervisor=supervisor,
        abandoned_multiparts=AbandonedMultiparts(
            ledger=context.ledger,
            store=store,
            prefix=settings.aws_s3_videos_prefix,
            backoff=ROW_BACKOFF,
            report=store_health.report,
            supervisor=supervisor,
            receipts=receipts,
        ),
        receipts=receipts,
        quarantine_repair=quarantine_repair,
        enqueuer=enqueuer,
        settler=settler,
        scan_scheduler=scan_scheduler,
        scanner=scanner,
        runners=runners,
        disk_pressure=disk_pressure,
        store_health=store_health,
        bandwidth=BandwidthLimit(settings, store.set_bandwidth),
        notifier=notifier,
        heartbeat=(
            Heartbeat(settings.heartbeat_url.get_secret_value(), supervisor=supervisor)
            if settings.heartbeat_url is not None
            else None
        ),
        catalog_thread=catalog_thread,
        orphans=orphans,
        ignored_files=(
            IgnoredFiles(context.catalog.table, make_path_template(settings, context.packages))
            if isinstance(context.catalog, CompressorCatalog)
            else None
        ),
    )


def build_context(
    settings: Settings,
    *,
    database: Database,
    store: ObjectStore,
    distribution: Distribution | None,
    metrics: Metrics,
    supervisor: Supervisor,
    signals: Signals,
) -> StageContext:
    """Build what all stages work with."""
    ledger = make_ledger(settings, database)
    naming = make_naming(settings, store)
    invalidator = public_check = None
    if distribution is not None:
        invalidator = Invalidator(
            distribution=distribution,
            invalidations=Invalidations(database, settings.ledger_instance),
            supervisor=supervisor,
            metrics=metrics,
        )
    if settings.verify_public_url:
        public_check = PublicCheck()
    tree = make_tree(settings)
    return StageContext(
        tree=tree,
        packages=Packages(tree),
        hashing=Hashing(),
        database=database,
        ledger=ledger,
        catalog=make_catalog(settings, ledger, naming),
        gate=make_gate(settings, ledger, naming, wake=signals.wake_stage),
        store=store,
        naming=naming,
        backoff=ROW_BACKOFF,
        metrics=metrics,
        transfer_progress=TransferProgress(),
        invalidator=invalidator,
        public_check=public_check,
        signals=signals,
        orders=OperatorOrders(Steering(ledger), signals.wake_stages),
    )


def build_detection(
    settings: Settings, policy: Policy, *, context: StageContext, supervisor: Supervisor
) -> tuple[Enqueuer, Settler, Scanner, ScanScheduler]:
    """Build what finds finished files and enqueues them."""
    template = make_path_template(settings, context.packages)
    enqueuer = Enqueuer(context, template)
    settler = Settler(
        check_complete=partial(
            check_complete,
            context.tree,
            settle_seconds=settings.settle_seconds,
            accepts_live=make_live_acceptance(settings, template),
        ),
        report=enqueuer.handle,
        supervisor=supervisor,
        clock=time.monotonic,
        count_found=context.metrics.found_by_scan.inc,
    )
    scanner = Scanner(
        tree=context.tree,
        template=template,
        ledger=context.ledger,
        check=settler.check,
        recheck=settler.recheck,
        missing=enqueuer.handle_missing,
    )
    scan_scheduler = ScanScheduler(
        scanner=scanner,
        period=lambda: policy.rescan_seconds,
        supervisor=supervisor,
        metrics=context.metrics,
    )
    return enqueuer, settler, scanner, scan_scheduler


def build_store_health(settings: Settings, *, context: StageContext, supervisor: Supervisor) -> StoreHealth:
    """Build what knows whether S3 can be used, and probes it while it cannot."""
    ledger, prefix = context.ledger, settings.aws_s3_videos_prefix
    return StoreHealth(
        lambda: next(context.store.open_multiparts(prefix and f"{prefix}/"), None),
        hasten=lambda: ledger.end_backoff(codes=NO_ANSWER_CODES),
        waiting=lambda: ledger.counts()[State.PENDING],
        metrics=context.metrics,
        supervisor=supervisor,
    )


def build_stages(
    settings: Settings,
    policy: Policy,
    *,
    context: StageContext,
    supervisor: Supervisor,
    disk_pressure: DiskPressure,
    store_health: StoreHealth,
) -> dict[State, StageRunner]:
    """Build the three stages, each with its error policy and its runner."""
    publishers = CHECKING_PUBLISHERS if context.public_check is not None else 1
    # Each thread keeps a connection to a server.
    releasers = 1 if settings.on_postgresql else RELEASERS
    publish = PublishStage(context, policy)
    stages: tuple[tuple[Stage, int, int], ...] = (
        (UploadStage(context), settings.upload_concurrency, 1),
        (publish, publishers, 1),
        (ReleaseStage(context, policy, is_pressed=disk_pressure.is_high_now), releasers, RELEASE_BATCH),
    )
    runners: dict[State, StageRunner] = {}
    for stage, threads, batch in stages:
        error_policy = ErrorPolicy(
            tree=context.tree,
            ledger=context.ledger,
            breaker=CircuitBreaker(stage.name, clock=time.monotonic, backoff=PROBE_BACKOFF),
            backoff=context.backoff,
            reexamine=context.signals.check_file,
            metrics=context.metrics,
            store_health=store_health,
        )
        runners[stage.state] = StageRunner(
            stage=stage,
            ledger=context.ledger,
            error_policy=error_policy,
            supervisor=supervisor,
            lease=timedelta(seconds=settings.claim_seconds),
            threads=threads,
            batch=batch,
            small_threads=small_uploads(settings) if stage.state is State.PENDING else 0,
        )
    if settings.upload_order == "playable":
        runners[State.PENDING].playable_for = PLAYABLE_FOR
    publishing = runners[State.VERIFIED].breaker
    runners[State.PENDING].publisher = lambda: None if publishing.is_doubted else publish
    return runners


def make_receivers(settings: Settings) -> dict[Channel, Receiver]:
    """Who is told of events, by channel; empty if the settings name none."""
    made: dict[Channel, Receiver] = {}
    if (url := settings.webhook_url) is not None:
        secret = settings.webhook_secret
        made[Channel.WEBHOOK] = Webhook(url.get_secret_value(), secret.get_secret_value() if secret else None)
    for channel, command in (
        (Channel.ON_PUBLISHED, settings.on_published),
        (Channel.ON_VIDEO_COMPLETE, settings.on_video_complete),
    ):
        if command is not None:
            made[channel] = Command(channel, command)
    return made


def build_notifier(
    settings: Settings, *, context: StageContext, settler: Settler, supervisor: Supervisor
) -> Notifier | None:
    """Build what tells commands and a webhook of events; None where the settings name none."""
    if not (receivers := make_receivers(settings)):
        return None
    catalog = context.catalog
    # The compressor's rows say what is to come; elsewhere files that settle at the same time belong together.
    rows = catalog.rows if isinstance(catalog, CompressorCatalog) else None
    return Notifier(
        Outbox(context.database, context.ledger.instance),
        receivers,
        Videos(context.ledger, context.naming, settler.has_file_of, rows),
        instance=settings.instance,
        quiet=timedelta(seconds=0 if rows else settings.settle_seconds),
        supervisor=supervisor,
        metrics=context.metrics,
    )


def build_catalog(*, context: StageContext, supervisor: Supervisor) -> CatalogThread | None:
    """Build what watches the compressor's catalog; None where another catalog is configured."""
    catalog, gate, ledger = context.catalog, context.gate, context.ledger
    if not isinstance(catalog, CompressorCatalog) or gate is None:
        return None
    republisher = Republisher(
        catalog=catalog,
        gate=gate,
        ledger=ledger,
        naming=context.naming,
        tree=context.tree,
        metrics=context.metrics,
        wake=context.signals.wake_stage,
    )
    for isolation in (gate.isolation, republisher.isolation):
        isolation.supervisor = supervisor
    return CatalogThread(gate=gate, republisher=republisher, supervisor=supervisor)


def build_orphans(
    settings: Settings, policy: Policy, *, context: StageContext, supervisor: Supervisor
) -> Orphans | None:
    """Build what looks for objects without catalog rows; None where another catalog is configured."""
    if not isinstance(context.catalog, CompressorCatalog):
        return None
    orphans = Orphans(
        catalog=context.catalog,
        ledger=context.ledger,
        store=context.store,
        naming=context.naming,
        policy=policy,
        deletes=settings.delete_orphans,
        supervisor=supervisor,
    )
    orphans.missing_files = MissingFiles(
        context.catalog, context.ledger, context.tree, context.naming, supervisor=supervisor
    )
    return orphans
