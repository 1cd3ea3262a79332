"""What every command takes from its invocation: the settings, and paths in the watched directory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import typer

from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options that precede the command."""

    env_file: str

    def settings(self) -> Settings:
        """Load the settings; raises `watcher.settings.SettingsError`."""
        return load_settings(self.env_file)


def invocation(context: typer.Context) -> Invocation:
    """Return the invocation that a command belongs to."""
    found = context.find_object(Invocation)
    if found is None:
        raise CommandError("The command was called without its program.", EXIT_USAGE)
    return found


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
