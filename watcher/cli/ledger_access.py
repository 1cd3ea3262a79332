"""Opens the ledger for a command, and looks for the daemon that writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from db import Ledger, pending_migrations
from watcher.app.factories import make_ledger, open_ledger_database
from watcher.cli.exit_codes import CommandError
from watcher.filesystem import instance_lock
from watcher.settings import Settings, state_directory


@contextmanager
def open_ledger(settings: Settings, *, read_only: bool) -> Iterator[Ledger]:
    """Open a ledger whose schema is up to date; raises `CommandError` and `db.DatabaseError`."""
    if not read_only:
        # Opening an SQLite file for writing creates it: check read-only first.
        with open_ledger(settings, read_only=True):
            pass
    with closing(open_ledger_database(settings, read_only=read_only)) as database, database.session():
        if not database.exists() or pending_migrations(database):
            raise CommandError(
                "The ledger does not exist yet or has an old schema; start `video-uploader run` once, "
                "which brings it up to date, or run `video-uploader db migrate`."
            )
        yield make_ledger(settings, database)


def daemon_is_running(settings: Settings) -> bool:
    """Whether this instance's daemon holds its lock on this machine."""
    return instance_lock.is_held(daemon_lock(settings))


def daemon_lock(settings: Settings) -> str:
    """Return the path of this instance's lock file."""
    return instance_lock.lock_path(state_directory(), settings.instance, settings.completed_dir)
