"""Keeps what the object store was found not to take in the ledger's database."""

from __future__ import annotations

import structlog

from db import Database, DatabaseError, DialectFinding, ServerDialects
from storage import ObjectStore, StorageConfig, Unsupported

log = structlog.get_logger()


def remembered(database: Database, config: StorageConfig) -> list[Unsupported]:
    """What earlier processes found out about the configured server. Raises `db.DatabaseError`."""
    return [Unsupported(*finding) for finding in _of_server(database, config).findings()]


def keep_dialect(database: Database, config: StorageConfig, store: ObjectStore) -> None:
    """Give `store` what is remembered, and have the database remember what it finds out from now on.

    Raises `db.DatabaseError`. A finding that cannot be recorded is found out again after a restart.
    """
    dialects = _of_server(database, config)

    def record(found: Unsupported) -> None:
        try:
            dialects.record(DialectFinding(found.feature, found.said, found.found_at))
        except DatabaseError as exc:
            log.info("dialect_unrecorded", feature=found.feature, reason=str(exc))

    store.dialect.restore(remembered(database, config))
    store.dialect.on_learned = record


def _of_server(database: Database, config: StorageConfig) -> ServerDialects:
    return ServerDialects(database, config.endpoint_url or f"AWS {config.region}", config.bucket)
