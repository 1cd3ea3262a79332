"""Checks this machine for the daemon: directory, database, and that no other daemon does the same work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from db import (
    Database,
    DatabaseError,
    current_role,
    pending_migrations,
    schema_version,
    try_migration,
    unusable_tables,
)
from storage import CheckResult, failed, not_tried, ok, warning
from watcher.app.factories import make_catalog, make_ledger, open_ledger_database
from watcher.app.settings_record import differing_settings, running_settings
from watcher.filesystem import instance_lock
from watcher.operations.catalog_checks import NIL_VIDEO_ID, catalog_grants, check_catalog, reason_of
from watcher.operations.directory_checks import check_directory, check_disk
from watcher.settings import CatalogKind, Doubt, Settings, UnusedSetting, unused_settings
from watcher.supervision.liveness import FRESH
from watcher.telemetry import human_duration


def check_host(settings: Settings, lock: str, doubts: Sequence[Doubt]) -> Iterator[CheckResult]:
    """Make the checks that do not need S3, yielding each result as it is known.

    `lock` is the lock file; `doubts` are about the settings as they were written.
    """
    if unused := unused_settings(settings):
        yield _unused(unused)
    if doubts:
        detail = " ".join(doubt.sentence for doubt in doubts)
        yield warning("settings", f"Some may be a mistake. {detail}", "Correct them.")
    yield from _daemon_settings(settings, lock)
    yield from check_directory(settings.completed_dir)
    yield from _check_database(settings, lock)


def _daemon_settings(settings: Settings, lock: str) -> Iterator[CheckResult]:
    """Compare the settings that are checked with those of the daemon, if one is running."""
    if (running := running_settings(lock)) is None:
        return
    name = "settings of the daemon"
    if differing := differing_settings(settings, running):
        yield warning(
            name,
            "The running daemon has other values than those that are checked here: "
            + "; ".join(
                f"{setting} {other or '(none)'} instead of {own or '(none)'}"
                for setting, (own, other) in differing.items()
            )
            + ".",
            "Reload or restart the daemon if it has older ones, or give its settings file with --env-file.",
        )
    else:
        yield ok(name, "The running daemon has the values that are checked here.")


def _unused(settings: list[UnusedSetting]) -> CheckResult:
    found = " ".join(f"{unused.name}: {unused.reason}" for unused in settings)
    return warning(
        "settings", f"Some are set and have no effect. {found}", "Unset them, or set what they need."
    )


def _check_database(settings: Settings, lock: str) -> Iterator[CheckResult]:
    name = "database"
    file = None if settings.on_postgresql else unquote(urlsplit(settings.ledger_url).path)
    unreachable = [not_tried("schema", name), not_tried("catalog", name)]
    if file is not None and not os.path.exists(file):
        yield from (_missing_file(file), *unreachable, _daemon(settings, lock, None))
        return
    try:
        # Opened for writing, because the daemon cannot use a read-only file.
        with closing(open_ledger_database(settings)) as database, database.session():
            with database.transaction("begin to write to the database"):
                pass
            pending = pending_migrations(database)
            found = [
                ok(name, f"{file or 'PostgreSQL'} can be reached."),
                _schema(settings, database, pending),
                *_catalog(settings, database, is_current=not pending),
                _daemon(settings, lock, None if pending else database),
            ]
    except DatabaseError as exc:
        found = [
            failed(name, f"{file or 'PostgreSQL'} cannot be used: {reason_of(exc)}.", exc.hint),
            *unreachable,
            _daemon(settings, lock, None),
        ]
    yield from found
    if file is not None:
        yield check_disk("disk space of the ledger", os.path.dirname(file))


def _missing_file(file: str) -> CheckResult:
    directory = os.path.dirname(file)
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return failed(
            "database",
            f"{file} does not exist and cannot be created: this user may not write to {directory}.",
            "Run this as the daemon's user, or set DATABASE_URL or STATE_DIRECTORY to another place.",
        )
    return warning("database", f"{file} does not exist yet.", "`video-uploader run` creates it.")


def _schema(settings: Settings, database: Database, pending: list[str]) -> CheckResult:
    version = schema_version(database) or "none"
    if not pending:
        if unusable := unusable_tables(database):
            detail = f"Its version is {version}, and this role may not read and write {', '.join(unusable)}."
            return failed("schema", detail, _grants(settings, database))
        return ok("schema", f"Its version is {version}, the latest.")
    detail = f"Its version is {version}, and these migrations are pending: {', '.join(pending)}."
    if settings.database_auto_migrate:
        try:
            try_migration(database)
        except DatabaseError as exc:
            detail = f"{detail} `run` cannot apply them: {reason_of(exc)}."
            return failed("schema", detail, _grants(settings, database))
    return warning(
        "schema",
        detail,
        "`video-uploader db migrate` applies them; so does `run`, unless DATABASE_AUTO_MIGRATE is false.",
    )


def _grants(settings: Settings, database: Database) -> str:
    """What an administrator must execute: the statements of docs/compressor.md with the present names."""
    role, schema = current_role(database), settings.database_schema
    statements = [
        f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role};",
        f"ALTER SCHEMA {schema} OWNER TO {role};",
    ]
    if schema_version(database) is not None:
        statements += [
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};",
        ]
    if settings.catalog_kind is CatalogKind.COMPRESSOR:
        statements += catalog_grants(settings, role)
    return f"Have an administrator execute: {' '.join(statements)}"


def _catalog(settings: Settings, database: Database, *, is_current: bool) -> Iterator[CheckResult]:
    if settings.catalog_kind is CatalogKind.NONE:
        yield ok("catalog", "There is none: CATALOG is none.")
    elif settings.catalog_kind is CatalogKind.COMPRESSOR:
        yield from check_catalog(settings, database, ledger_is_current=is_current)
    elif not is_current:
        yield not_tried("catalog", "schema")
    else:
        yield _own_catalog(settings, database)


def _own_catalog(settings: Settings, database: Database) -> CheckResult:
    try:
        make_catalog(settings, make_ledger(settings, database)).rows(NIL_VIDEO_ID)
    except DatabaseError as exc:
        return failed("catalog", f"Its table cannot be read: {reason_of(exc)}.", exc.hint)
    return ok("catalog", "The table video_qualities exists (CATALOG is own).")


def _daemon(settings: Settings, lock: str, database: Database | None) -> CheckResult:
    """Check that the instance has at most one daemon: compare its lock with the ledger's heartbeat."""
    try:
        is_held = instance_lock.is_held(lock)
    except instance_lock.LockUnavailableError as exc:
        return failed("daemon", "Whether it is running is unknown.", str(exc))
    if is_held:
        return ok("daemon", f"The daemon of instance {settings.instance} is running.")
    if database is not None and (age := _heartbeat_age(settings, database)) is not None:
        return warning(
            "daemon",
            f"A daemon of instance {settings.instance} wrote to the ledger {human_duration(age)} ago, and "
            f"does not hold the lock {lock}: it runs on another machine or with another state directory.",
            "To run a second one, give it another INSTANCE_ID; to check the first one, set its "
            "STATE_DIRECTORY.",
        )
    return ok("daemon", f"No daemon of instance {settings.instance} is running.")


def _heartbeat_age(settings: Settings, database: Database) -> timedelta | None:
    """Return the age of a running daemon's last heartbeat; None if no daemon is running."""
    ledger = make_ledger(settings, database)
    report = ledger.instance_report()
    if report is None or report.report.get("phase") == "stopped":
        return None
    age = ledger.now() - report.heartbeat_at
    return age if age < FRESH else None
