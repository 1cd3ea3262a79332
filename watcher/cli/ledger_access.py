"""Access to what commands work on: the settings, the watched directory, the ledger, the daemon's lock.

And the errors of all of it that end a command with a sentence instead of a traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

import typer

from db import DatabaseError, Ledger, LedgerError, pending_migrations, schema_version
from storage import StorageError
from watcher import filesystem
from watcher.app.factories import make_ledger, open_ledger_database
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, CommandError
from watcher.settings import Settings, SettingsError, load_settings, state_directory
from watcher.settings.report import mask_url


def env_files_of(context: typer.Context) -> tuple[str, ...]:
    """Return the paths of the settings files, which precede the command as `--env-file`."""
    env_files = context.find_object(tuple)
    if env_files is None:
        raise CommandError("The command was called without its program.", EXIT_USAGE)
    return env_files


def settings_of(context: typer.Context) -> Settings:
    """Load the settings of a command; raises `watcher.settings.SettingsError`."""
    return load_settings(*env_files_of(context))


def path_below(settings: Settings, path: str) -> str:
    """Return a path relative to the watched directory; a relative path is taken to be that already.

    Raises `CommandError` for a path outside of the directory.
    """
    if not os.path.isabs(path):
        return os.path.normpath(path)
    parent = os.path.realpath(os.path.dirname(path))
    relative = os.path.relpath(
        os.path.join(parent, os.path.basename(path)), os.path.realpath(settings.completed_dir)
    )
    if relative.startswith(".."):
        raise CommandError(f"{path} is not below COMPLETED_DIR, {settings.completed_dir}.")
    return relative


@contextmanager
def open_ledger(settings: Settings, *, read_only: bool) -> Iterator[Ledger]:
    """Open a ledger whose schema is up to date; raises `CommandError` and `db.DatabaseError`."""
    if not read_only:
        # Opening an SQLite file for writing creates it: check read-only first.
        with open_ledger(settings, read_only=True):
            pass
    with closing(open_ledger_database(settings, read_only=read_only)) as database, database.session():
        if not database.exists():
            raise CommandError(_missing_ledger(settings))
        if pending_migrations(database):
            version = schema_version(database)
            tables = f"the old tables {version}" if version else "no tables"
            raise CommandError(
                f"The ledger, {_place_of(settings)}, has {tables}; start `video-uploader run` once, which "
                "brings it up to date, or run `video-uploader db migrate`."
            )
        yield make_ledger(settings, database)


def _place_of(settings: Settings) -> str:
    """Where the ledger is, for messages."""
    url = mask_url(settings.ledger_url)
    return f"the schema {settings.database_schema} of {url}" if settings.on_postgresql else url


def _missing_ledger(settings: Settings) -> str:
    """Why there is no ledger, most likely; only a SQLite file can be missing."""
    file = unquote(urlsplit(settings.ledger_url).path)
    try:
        os.stat(file)
    except PermissionError:
        return (
            f"The ledger {file} cannot be reached: this user may not look into its directory. Run this as the"
            " user of the daemon; beside an installed service, root does."
        )
    except OSError:
        pass
    elsewhere = (
        f"it has another STATE_DIRECTORY than {state_directory()}, as a service has: run this as its user, "
        "or as root"
    )
    if settings.database_url is not None:
        elsewhere = "its settings have another DATABASE_URL: give the file of its settings with --env-file"
    return (
        f"There is no ledger at {file}. Either the daemon has not run yet (start `video-uploader run` "
        f"once, which makes it), or {elsewhere}."
    )


def daemon_is_running(settings: Settings) -> bool:
    """Whether this instance's daemon holds its lock on this machine."""
    return bool(_instance_lock().is_held(daemon_lock(settings)))


def daemon_lock(settings: Settings) -> str:
    """Return the path of this instance's lock file."""
    return str(_instance_lock().lock_path(state_directory(), settings.instance, settings.completed_dir))


def _instance_lock() -> Any:
    """The module, which only some commands need."""
    return import_module("watcher.filesystem.instance_lock")


def refusal_of(error: Exception) -> tuple[list[str], int] | None:
    """The sentences that tell an error to the user, and the exit code; None for an unexpected error."""
    if isinstance(error, SettingsError):
        return error.problems, EXIT_USAGE
    lock = _instance_lock()
    of_others = DatabaseError, LedgerError, StorageError, filesystem.TreeError
    is_expected = isinstance(error, (*of_others, lock.InstanceRunningError, lock.LockUnavailableError))
    return ([str(error)], EXIT_FAILED) if is_expected else None
