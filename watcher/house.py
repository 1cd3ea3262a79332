"""Puts the house together from the settings: who knows whom is written here and nowhere else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

from db import (
    Catalog,
    Database,
    Invalidations,
    Ledger,
    NoCatalog,
    OwnCatalog,
    State,
    open_database,
)
from storage import Distribution, ObjectStore, PublicAccess, PublicCheck, StorageConfig
from watcher import invalidation
from watcher.backoff import Backoff
from watcher.board import Board
from watcher.finished import Examination, Sighting, examine
from watcher.guard import Guard
from watcher.intake import Intake
from watcher.invalidation import Invalidator
from watcher.janitor import Janitor
from watcher.liveness import Liveness
from watcher.metrics import Metrics
from watcher.naming import Naming
from watcher.pause import StagePause
from watcher.publishing import PublishStage
from watcher.releasing import ReleaseStage
from watcher.rescan import Rescan
from watcher.runner import Stage, StageRunner
from watcher.scanner import Scanner
from watcher.services import Policy, Services
from watcher.settings import CatalogKind, Settings
from watcher.settler import Settler
from watcher.template import PathTemplate
from watcher.tree import Tree
from watcher.uploading import UploadStage

ROW_BACKOFF = Backoff(base=1.0, factor=2.0, cap=300.0)
PROBE_BACKOFF = Backoff(base=2.0, factor=2.0, cap=300.0)
RELEASE_BATCH = 64


class UnsupportedCatalogError(Exception):
    """The settings ask for a catalog that this version cannot serve."""


@dataclass(frozen=True, slots=True)
class House:
    """Everything that works together while the daemon runs; nothing is started yet."""

    settings: Settings
    policy: Policy
    services: Services
    liveness: Liveness
    janitor: Janitor
    intake: Intake
    settler: Settler
    rescan: Rescan
    scanner: Scanner
    runners: Mapping[State, StageRunner]

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
            pauses[invalidation.NAME] = self.invalidator.pause
        return pauses

    @property
    def metrics(self) -> Metrics:
        """What Prometheus may scrape."""
        return self.services.metrics


def path_template(settings: Settings) -> PathTemplate:
    """The template that the settings describe."""
    return PathTemplate(
        settings.path_template,
        qualities=settings.qualities,
        extensions=settings.video_extensions,
        ignore=settings.ignore_patterns,
    )


def storage_config(settings: Settings) -> StorageConfig:
    """What storage is told; boto3 reads neither our ``.env`` nor ``AWS_REGION``, so everything is said."""
    key, secret, token = (
        settings.aws_access_key_id,
        settings.aws_secret_access_key,
        settings.aws_session_token,
    )
    return StorageConfig(
        bucket=settings.aws_s3_bucket,
        region=settings.aws_region,
        prefix=settings.aws_s3_videos_prefix,
        endpoint_url=settings.aws_endpoint_url,
        access_key_id=key.get_secret_value() if key else None,
        secret_access_key=secret.get_secret_value() if secret else None,
        session_token=token.get_secret_value() if token else None,
        acl=None if settings.aws_s3_acl == "none" else settings.aws_s3_acl,
        cache_control=settings.aws_s3_cache_control,
        base_url=settings.aws_s3_base_url,
        cloudfront_domain=settings.cloudfront_domain,
        cloudfront_distribution_id=settings.cloudfront_distribution_id,
        cloudfront_endpoint_url=settings.aws_endpoint_url_cloudfront,
        connections=settings.upload_concurrency + 2,
        storage_class=settings.aws_s3_storage_class,
        sse=settings.aws_s3_sse,
        sse_kms_key_id=settings.aws_s3_sse_kms_key_id,
        tags=dict(parse_qsl(settings.aws_s3_tags or "", keep_blank_values=True)),
        expected_bucket_owner=settings.aws_s3_expected_bucket_owner,
        max_bandwidth=settings.bandwidth,
        stall_seconds=settings.stall_seconds,
        uploads=settings.upload_concurrency,
    )


def naming(settings: Settings) -> Naming:
    """The names that the settings give to renditions."""
    return Naming(
        prefix=settings.aws_s3_videos_prefix,
        public_base=storage_config(settings).public_base_url,
        local_base=settings.local_base,
    )


def connect(settings: Settings, *, read_only: bool = False) -> Database:
    """The ledger's database, not touched yet."""
    return open_database(
        settings.ledger_url,
        schema=settings.database_schema if settings.on_postgresql else None,
        read_only=read_only,
    )


def make_catalog(settings: Settings, database: Database) -> Catalog:
    """The catalog that the settings ask for; raises `UnsupportedCatalogError`."""
    match settings.catalog_kind:
        case CatalogKind.OWN:
            return OwnCatalog(database)
        case CatalogKind.NONE:
            return NoCatalog()
        case CatalogKind.COMPRESSOR:
            raise UnsupportedCatalogError(
                "CATALOG=compressor is not supported by this version; set CATALOG=own or CATALOG=none."
            )


@contextmanager
def open_house(settings: Settings, *, policy: Policy | None = None) -> Iterator[House]:
    """Assemble everything and close it at the end.

    Raises `watcher.tree.RootUnavailableError`, `db.DatabaseError`, `storage.StorageError` and
    `UnsupportedCatalogError`.
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
    services = Services(
        tree=Tree(settings.completed_dir),
        database=database,
        ledger=Ledger(database, settings.instance),
        catalog=make_catalog(settings, database),
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
            Invalidations(database, settings.instance),
            database=database,
            liveness=liveness,
            metrics=metrics,
        ),
        # boto3 takes the same name from the environment.
        public_check=PublicCheck(ca_bundle=os.environ.get("AWS_CA_BUNDLE"))
        if settings.verify_public_url
        else None,
        wake=lambda state: runners[state].wake() if state in runners else None,
    )
    janitor = Janitor(
        database=database,
        ledger=services.ledger,
        store=store,
        prefix=settings.aws_s3_videos_prefix,
        backoff=ROW_BACKOFF,
        liveness=liveness,
    )
    intake = Intake(services, path_template(settings))
    settler = Settler(
        examine=partial(_examine, services.tree, settings.settle_seconds),
        report=intake.take,
        database=database,
        liveness=liveness,
        clock=time.monotonic,
    )
    scanner = Scanner(
        tree=services.tree,
        template=path_template(settings),
        ledger=services.ledger,
        notice=settler.notice,
        missing=intake.reconsider_missing,
    )
    rescan = Rescan(
        scanner,
        database=database,
        period=lambda: policy.rescan_seconds,
        liveness=liveness,
        metrics=services.metrics,
    )
    runners |= _make_runners(settings, policy, services, liveness, look_again=settler.notice)
    return House(settings, policy, services, liveness, janitor, intake, settler, rescan, scanner, runners)


def _examine(tree: Tree, settle_seconds: float, path: str, previous: Sighting | None) -> Examination:
    return examine(tree, path, previous=previous, now=time.monotonic(), settle_seconds=settle_seconds)


def _make_runners(
    settings: Settings,
    policy: Policy,
    services: Services,
    liveness: Liveness,
    *,
    look_again: Callable[[str], None],
) -> dict[State, StageRunner]:
    crews: tuple[tuple[Stage, int, int], ...] = (
        (UploadStage(services), settings.upload_concurrency, 1),
        (PublishStage(services, policy), 1, 1),
        (ReleaseStage(services, policy), 1, RELEASE_BATCH),
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
            metrics=services.metrics,
        )
        runners[stage.state] = StageRunner(
            stage,
            database=services.database,
            ledger=services.ledger,
            guard=guard,
            liveness=liveness,
            threads=threads,
            batch=batch,
        )
    return runners
