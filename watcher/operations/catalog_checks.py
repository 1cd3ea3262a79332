"""Checks of the compressor's catalog: access to its table, its index, and the clock of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from db import CompressorTable, Database, DatabaseError, current_role
from storage import CheckResult, failed, not_tried, ok, warning
from watcher.app.factories import make_ledger
from watcher.settings import Settings
from watcher.telemetry import human_duration

NIL_VIDEO_ID = str(UUID(int=0))
"""The nil UUID (RFC 9562), which identifies no video."""
MAX_CLOCK_LEAD = timedelta(minutes=15)
"""A row further ahead of the database's clock indicates another time zone."""


def check_catalog(
    settings: Settings, database: Database, *, ledger_is_current: bool
) -> Iterator[CheckResult]:
    """Check that the table can be read and `url` be updated, that `video_id` is indexed and times agree."""
    table = CompressorTable(database, settings.ledger_instance)
    name = f"{settings.catalog_schema}.video_qualities"
    try:
        table.rows_of_video(NIL_VIDEO_ID)
    except DatabaseError as exc:
        yield failed(
            "catalog",
            f"The compressor's table {name} cannot be read: {reason_of(exc)}.",
            "Set CATALOG_SCHEMA and the database URL to those of the compressor, and have an administrator "
            f"execute: {' '.join(catalog_grants(settings, current_role(database)))}",
        )
        yield from (
            not_tried(later, "catalog") for later in ("catalog URL", "catalog index", "catalog clock")
        )
        return
    yield ok("catalog", f"The compressor's table {name} can be read.")
    yield _url(table, name, database)
    yield _index(table, name)
    if ledger_is_current:
        yield _clock(settings, database)
    else:
        yield not_tried("catalog clock", "schema")


def catalog_grants(settings: Settings, role: str) -> list[str]:
    """The statements that let a role read the compressor's table and update `url` in it."""
    schema = settings.catalog_schema
    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {role};",
        f"GRANT SELECT, UPDATE (url) ON {schema}.video_qualities TO {role};",
    ]


def _url(table: CompressorTable, name: str, database: Database) -> CheckResult:
    if table.can_set_url():
        return ok("catalog URL", "This role may update url in it.")
    return failed(
        "catalog URL",
        "This role may not update url in it, so nothing can be published.",
        f"Have an administrator execute: GRANT UPDATE (url) ON {name} TO {current_role(database)};",
    )


def _index(table: CompressorTable, name: str) -> CheckResult:
    if table.has_video_index():
        return ok("catalog index", "An index on video_id exists.")
    return warning(
        "catalog index",
        "No index starts with video_id, so each check of the gate reads the whole table.",
        f"Have its owner run CREATE INDEX CONCURRENTLY ON {name} (video_id).",
    )


def _clock(settings: Settings, database: Database) -> CheckResult:
    """Check the compressor's times, which have no time zone and are read in that of this role."""
    ledger = make_ledger(settings, database)
    admitted = ledger.last_admitted()
    if admitted is None or admitted.catalog_row_at is None:
        return ok("catalog clock", "No file has passed the gate yet, so the time zones cannot be compared.")
    ahead = admitted.catalog_row_at - ledger.now()
    if ahead <= MAX_CLOCK_LEAD:
        return ok("catalog clock", "The times of its rows are plausible.")
    return warning(
        "catalog clock",
        f"Row {admitted.catalog_row_id} is dated {human_duration(ahead)} in the future: the compressor "
        "and this role use different time zones.",
        "Set the same one for both roles: ALTER ROLE … SET TimeZone = ….",
    )


def reason_of(exc: DatabaseError) -> str:
    """Return the reason of a database error as part of a sentence."""
    return exc.reason.strip().rstrip(".")
