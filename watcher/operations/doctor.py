"""Whether this machine is fit for the daemon: directory, database, and nobody else at the same work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from db import Database, DatabaseError, pending_migrations, schema_version
from storage import CheckResult, failed, not_tried, ok, warning
from watcher.app.factories import make_catalog, make_ledger, open_ledger_database
from watcher.filesystem import instance_lock
from watcher.operations.catalog_checks import NOBODY, check_catalog
from watcher.operations.directory_checks import check_directory, check_disk
from watcher.settings.model import CatalogKind, Settings
from watcher.telemetry.formatting import human_duration

ALIVE = timedelta(seconds=60)
"""A daemon writes a heartbeat every few seconds; one this old is of one that has ended."""


def check_host(settings: Settings, lock: str) -> Iterator[CheckResult]:
    """Every check that needs no S3, one after the other as it ends. `lock` is this instance's lock file."""
    yield from check_directory(settings.completed_dir)
    yield from _check_database(settings, lock)


def _check_database(settings: Settings, lock: str) -> Iterator[CheckResult]:
    name = "database"
    if (file := _ledger_file(settings)) is not None and not os.path.exists(file):
        yield _not_there_yet(file)
        yield from (not_tried(later, name) for later in ("schema", "catalog"))
        yield _daemon(settings, lock, None)
        return
    try:
        # Opened for writing, for a file that can only be read is of no use to the daemon.
        with closing(open_ledger_database(settings)) as database, database.session():
            with database.transaction("begin to write to the database"):
                pass
            pending = pending_migrations(database)
            found = [
                ok(name, f"{file or 'PostgreSQL'} can be reached."),
                _schema(database, pending),
                *_catalog(settings, database, is_current=not pending),
                _daemon(settings, lock, None if pending else database),
            ]
    except DatabaseError as exc:
        found = [
            failed(name, f"It cannot be used: {exc.reason.strip().rstrip('.')}.", exc.hint),
            *(not_tried(later, name) for later in ("schema", "catalog")),
            _daemon(settings, lock, None),
        ]
    yield from found
    if file is not None:
        yield check_disk("disk space of the ledger", os.path.dirname(file))


def _ledger_file(settings: Settings) -> str | None:
    """The ledger's file; None on PostgreSQL."""
    return None if settings.on_postgresql else unquote(urlsplit(settings.ledger_url).path)


def _not_there_yet(file: str) -> CheckResult:
    place = os.path.dirname(file)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        return failed(
            "database",
            f"{file} is not there and cannot be made: this user may not write in {place}.",
            "Run this as the user of the daemon, or let DATABASE_URL or STATE_DIRECTORY name another place.",
        )
    return warning("database", f"{file} is not there yet.", "`video-uploader run` makes it.")


def _schema(database: Database, pending: list[str]) -> CheckResult:
    version = schema_version(database) or "none"
    if pending:
        told = f"Its version is {version}, and these changes are due: {', '.join(pending)}."
        return warning(
            "schema",
            told,
            "`video-uploader db migrate` makes them; unless DATABASE_AUTO_MIGRATE is false, so does `run`.",
        )
    return ok("schema", f"Its version is {version}, the latest.")


def _catalog(settings: Settings, database: Database, *, is_current: bool) -> Iterator[CheckResult]:
    if settings.catalog_kind is CatalogKind.NONE:
        yield ok("catalog", "None is kept: CATALOG is none.")
    elif settings.catalog_kind is CatalogKind.COMPRESSOR:
        yield from check_catalog(settings, database, ledger_is_current=is_current)
    elif not is_current:
        yield not_tried("catalog", "schema")
    else:
        yield _own_catalog(settings, database)


def _own_catalog(settings: Settings, database: Database) -> CheckResult:
    try:
        make_catalog(settings, make_ledger(settings, database)).rows(NOBODY)
    except DatabaseError as exc:
        return failed("catalog", f"Its table cannot be read: {exc.reason.strip().rstrip('.')}.", exc.hint)
    return ok("catalog", "The table video_qualities is there (CATALOG is own).")


def _daemon(settings: Settings, lock: str, database: Database | None) -> CheckResult:
    """Whether exactly one daemon of this instance can be at work: its lock against the ledger's heartbeat."""
    try:
        is_held = instance_lock.is_held(lock)
    except instance_lock.LockUnavailableError as exc:
        return failed("daemon", "Whether it runs cannot be told.", str(exc))
    if is_held:
        return ok("daemon", f"The daemon of instance {settings.instance} is running.")
    if database is not None and (beat := _heartbeat(settings, database)) is not None:
        return warning(
            "daemon",
            f"A daemon of instance {settings.instance} wrote to the ledger {human_duration(beat)} ago, and "
            f"does not hold the lock {lock}: it runs on another machine or with another state directory.",
            "If a second one is to run, give it another INSTANCE_ID; to look at the first one, set its "
            "STATE_DIRECTORY.",
        )
    return ok("daemon", f"No daemon of instance {settings.instance} is running.")


def _heartbeat(settings: Settings, database: Database) -> timedelta | None:
    """How long ago a daemon that has not ended wrote its heartbeat; None if none lives."""
    ledger = make_ledger(settings, database)
    report = ledger.instance_report()
    if report is None or report.report.get("phase") == "stopped":
        return None
    age = ledger.now() - report.heartbeat_at
    return age if age < ALIVE else None
