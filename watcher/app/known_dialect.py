"""Keeps what was found out about the object store in the ledger's database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress

import structlog

from db import Database, DatabaseError, DialectFinding, ServerDialects, pending_migrations
from storage import ObjectStore, ServerTrait, StorageConfig
from watcher.app.factories import make_storage_config, open_ledger_database
from watcher.settings import Settings

log = structlog.get_logger()


def remembered(database: Database, config: StorageConfig) -> list[ServerTrait]:
    """What earlier processes found out about the configured server. Raises `db.DatabaseError`."""
    return [ServerTrait(*finding) for finding in _of_server(database, config).findings()]


def keep_dialect(database: Database, config: StorageConfig, store: ObjectStore) -> None:
    """Give `store` what is remembered, and have the database remember what it finds out from now on.

    Raises `db.DatabaseError`. A finding that cannot be recorded is found out again after a restart.
    """
    dialects = _of_server(database, config)

    def record(found: Sequence[ServerTrait]) -> None:
        try:
            dialects.replace(_findings(found))
        except DatabaseError as exc:
            log.info("dialect_unrecorded", reason=str(exc))

    store.dialect.restore(remembered(database, config))
    store.dialect.on_changed = record


def known_dialect(settings: Settings) -> list[ServerTrait]:
    """What is remembered of the configured server; nothing if there is no ledger that can be read."""
    with suppress(DatabaseError), closing(open_ledger_database(settings, read_only=True)) as database:
        if database.exists() and not pending_migrations(database):
            return remembered(database, make_storage_config(settings))
    return []


def remember_anew(settings: Settings, found: Sequence[ServerTrait]) -> None:
    """Replace what is remembered by what a check has just found out, if there is a ledger.

    A daemon that is running has found out the same, or does at its next start.
    """
    with suppress(DatabaseError), closing(open_ledger_database(settings)) as database:
        if database.exists() and not pending_migrations(database):
            dialects = _of_server(database, make_storage_config(settings))
            dialects.replace(_findings(found))


def _findings(found: Sequence[ServerTrait]) -> list[DialectFinding]:
    return [DialectFinding(each.feature, each.said, each.found_at) for each in found]


def _of_server(database: Database, config: StorageConfig) -> ServerDialects:
    return ServerDialects(database, config.endpoint_url or f"AWS {config.region}", config.bucket)
