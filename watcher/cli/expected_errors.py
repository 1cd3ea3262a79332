"""The errors of every package that end a command with a sentence instead of a traceback."""

from __future__ import annotations

from db import DatabaseError, LedgerError
from storage import StorageError
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_USAGE
from watcher.filesystem import TreeError
from watcher.filesystem.instance_lock import InstanceRunningError, LockUnavailableError
from watcher.settings import SettingsError

_EXPECTED = (
    DatabaseError,
    LedgerError,
    StorageError,
    TreeError,
    InstanceRunningError,
    LockUnavailableError,
)


def refusal_of(error: Exception) -> tuple[list[str], int] | None:
    """The sentences that tell an error to the user, and the exit code; None for an unexpected error."""
    if isinstance(error, SettingsError):
        return error.problems, EXIT_USAGE
    return ([str(error)], EXIT_FAILED) if isinstance(error, _EXPECTED) else None
