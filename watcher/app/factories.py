"""Factories: make each collaborator from the settings. What few commands need is imported when it is made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from db import Catalog, CompressorTable, Database, Ledger, NoCatalog, OwnCatalog, State, open_database
from storage import QUALITIES, AccessKey, StorageConfig
from watcher import catalog, filesystem
from watcher.renditions import Naming, PathTemplate
from watcher.settings import CatalogKind, Settings, local_time

if TYPE_CHECKING:
    from storage import ObjectStore
    from watcher.catalog import CatalogGate
    from watcher.filesystem import Packages, Tree

OTHER_THREADS = 20
"""Database connections of the threads other than the upload workers."""
SMALL_UPLOADS = 32
"""How many small files are uploaded at once beside UPLOAD_CONCURRENCY large ones; they wait for answers."""
SMALL_UPLOADS_ON_POSTGRESQL = 1
"""The same where each thread keeps a connection: in session mode PgBouncer has 20 by default."""


def small_uploads(settings: Settings) -> int:
    """How many small files may be uploaded at once beside the large ones."""
    return SMALL_UPLOADS_ON_POSTGRESQL if settings.on_postgresql else SMALL_UPLOADS


def make_path_template(settings: Settings, packages: Packages | None = None) -> PathTemplate:
    """The template that the settings describe; without `packages` it classifies by name alone."""
    return PathTemplate(
        settings.path_template,
        qualities=settings.qualities,
        extensions=settings.video_extensions,
        ignore=settings.ignore_patterns,
        rows_decide=settings.catalog_kind is CatalogKind.COMPRESSOR,
        package_reason=packages.reason if packages is not None else lambda _: None,
    )


def make_live_acceptance(settings: Settings, template: PathTemplate) -> Callable[[str], bool]:
    """Whether the file at a path may be a live container: only an original, and no row may decide instead."""
    if not settings.accept_live_containers or settings.catalog_kind is CatalogKind.COMPRESSOR:
        return lambda _: False
    return template.is_original


def make_access_key(settings: Settings) -> AccessKey | None:
    """The access key that the settings name; None where boto3 finds one."""
    key, secret, token = (
        settings.aws_access_key_id,
        settings.aws_secret_access_key,
        settings.aws_session_token,
    )
    if key is None or secret is None:
        return None
    return AccessKey(
        key.get_secret_value(), secret.get_secret_value(), token.get_secret_value() if token else None
    )


def make_storage_config(settings: Settings) -> StorageConfig:
    """The configuration of storage, complete: boto3 reads neither ``.env`` nor ``AWS_REGION``."""
    key = make_access_key(settings)
    return StorageConfig(
        bucket=settings.aws_s3_bucket,
        region=settings.aws_region,
        prefix=settings.aws_s3_videos_prefix,
        endpoint_url=settings.aws_endpoint_url,
        access_key_id=key.access_key_id if key else None,
        secret_access_key=key.secret_access_key if key else None,
        session_token=key.session_token if key else None,
        acl=None if settings.aws_s3_acl == "none" else settings.aws_s3_acl,
        cache_control=settings.aws_s3_cache_control,
        base_url=settings.aws_s3_base_url,
        cloudfront_domain=settings.cloudfront_domain,
        cloudfront_distribution_id=settings.cloudfront_distribution_id,
        cloudfront_endpoint_url=settings.aws_endpoint_url_cloudfront,
        connections=settings.upload_concurrency + small_uploads(settings) + 2,
        storage_class=settings.aws_s3_storage_class,
        sse=settings.aws_s3_sse,
        sse_kms_key_id=settings.aws_s3_sse_kms_key_id,
        tags=dict(parse_qsl(settings.aws_s3_tags or "", keep_blank_values=True)),
        expected_bucket_owner=settings.aws_s3_expected_bucket_owner,
        max_bandwidth=settings.bandwidth_at(local_time()),
        stall_seconds=settings.stall_seconds,
        uploads=settings.upload_concurrency + small_uploads(settings),
        qualities=settings.qualities,
        checksum=settings.aws_s3_checksum,
        addressing=settings.aws_s3_addressing,
        max_parts=settings.aws_s3_max_parts,
        prove_by_reading=settings.aws_s3_prove_by_reading,
    )


def make_naming(settings: Settings, store: ObjectStore | None = None) -> Naming:
    """The object keys and URLs that the settings give to renditions, or what `store` finds out."""
    config = make_storage_config(settings)
    return Naming(
        prefix=settings.aws_s3_videos_prefix,
        public_base=config.public_base_url,
        virtual_base=config.virtual_base_url,
        is_virtual=(lambda: store.is_virtual) if store is not None else bool,
        local_base=settings.local_base,
        # A row of the compressor's catalog may have a quality that QUALITIES leaves out.
        qualities=(*QUALITIES, *settings.qualities),
    )


def open_ledger_database(settings: Settings, *, read_only: bool = False) -> Database:
    """The ledger's database; the first query connects to it."""
    return open_database(
        settings.ledger_url,
        schema=settings.database_schema if settings.on_postgresql else None,
        catalog_schema=settings.catalog_schema,
        read_only=read_only,
        max_connections=settings.upload_concurrency + small_uploads(settings) + OTHER_THREADS,
    )


def make_ledger(settings: Settings, database: Database) -> Ledger:
    """The ledger of this daemon, or that of all daemons that share the directory."""
    return Ledger(database, settings.ledger_instance, worker=settings.instance)


def make_tree(settings: Settings) -> Tree:
    """The watched directory; raises `watcher.filesystem.openat.RootUnavailableError`."""
    return filesystem.Tree(
        settings.completed_dir,
        is_shared=settings.shared_directory,
        allows_hard_links=settings.allow_hard_links,
    )


def make_catalog(settings: Settings, ledger: Ledger, naming: Naming | None = None) -> Catalog:
    """The catalog that CATALOG selects."""
    match settings.catalog_kind:
        case CatalogKind.OWN:
            return OwnCatalog(ledger.database)
        case CatalogKind.NONE:
            return NoCatalog()
        case CatalogKind.COMPRESSOR:
            return catalog.CompressorCatalog(
                ledger.database,
                ledger,
                naming or make_naming(settings),
                local_fallback=settings.local_base_url is not None,
            )


def make_gate(
    settings: Settings, ledger: Ledger, naming: Naming, *, wake: Callable[[State], None]
) -> CatalogGate | None:
    """The gate of the compressor's catalog; None where another catalog is configured."""
    if settings.catalog_kind is not CatalogKind.COMPRESSOR:
        return None
    return catalog.CatalogGate(
        CompressorTable(ledger.database, ledger.instance),
        ledger,
        naming,
        row_timeout=timedelta(seconds=settings.catalog_row_timeout),
        wake=wake,
    )
