"""Whether the compressor's table is as the gate and the publication need it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from db import CompressorTable, Database, DatabaseError
from storage import CheckResult, failed, not_tried, ok, warning
from watcher.app.factories import make_ledger
from watcher.settings.model import Settings
from watcher.telemetry.formatting import human_duration

NOBODY = str(UUID(int=0))
"""The id of no video."""
NAMES = ("catalog URL", "catalog index", "catalog clock")
AHEAD = timedelta(minutes=15)
"""So far ahead of the database's clock no row can have been made."""


def check_catalog(
    settings: Settings, database: Database, *, ledger_is_current: bool
) -> Iterator[CheckResult]:
    """The table can be read, its `url` changed, a video's rows found by an index, its times believed."""
    table = CompressorTable(database, settings.ledger_instance)
    name = f"{settings.catalog_schema}.video_qualities"
    try:
        table.of_video(NOBODY)
    except DatabaseError as exc:
        yield failed(
            "catalog",
            f"The compressor's table {name} cannot be read: {exc.reason.strip().rstrip('.')}.",
            "Let CATALOG_SCHEMA and the database URL lead to the compressor's database, and grant this role "
            f"USAGE on the schema and SELECT, UPDATE (url) on {name}.",
        )
        yield from (not_tried(later, "catalog") for later in NAMES)
        return
    yield ok("catalog", f"The compressor's table {name} can be read.")
    yield _url(table, name)
    yield _index(table, name)
    if ledger_is_current:
        yield _clock(settings, database)
    else:
        yield not_tried("catalog clock", "schema")


def _url(table: CompressorTable, name: str) -> CheckResult:
    if table.may_set_url():
        return ok("catalog URL", "This role may change url in it.")
    return failed(
        "catalog URL",
        "This role may not change url in it: nothing can be published.",
        f"GRANT UPDATE (url) ON {name} TO this role.",
    )


def _index(table: CompressorTable, name: str) -> CheckResult:
    if table.has_video_index():
        return ok("catalog index", "A video's rows are found by an index.")
    return warning(
        "catalog index",
        "No index leads with video_id: the gate reads the whole table each time it asks.",
        f"Have its owner run CREATE INDEX CONCURRENTLY ON {name} (video_id).",
    )


def _clock(settings: Settings, database: Database) -> CheckResult:
    """The compressor's times have no zone: if they are not of this role's, a row may be of the future."""
    ledger = make_ledger(settings, database)
    admitted = ledger.last_admitted()
    if admitted is None or admitted.catalog_row_at is None:
        return ok("catalog clock", "No row has let a file through yet that would tell of another time zone.")
    ahead = admitted.catalog_row_at - ledger.now()
    if ahead <= AHEAD:
        return ok("catalog clock", "Its rows are of times that can be.")
    return warning(
        "catalog clock",
        f"Row {admitted.catalog_row_id} seems to be made {human_duration(ahead)} from now: the compressor "
        "and this role have different time zones.",
        "Give both roles the same one: ALTER ROLE … SET TimeZone = ….",
    )
