"""What every command takes from its invocation: the settings, and paths in the watched directory."""

from __future__ import annotations

import os

import typer

from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.settings import Settings, load_settings


def env_file_of(context: typer.Context) -> str:
    """Return the path of the settings file, which precedes the command as `--env-file`."""
    env_file = context.find_object(str)
    if env_file is None:
        raise CommandError("The command was called without its program.", EXIT_USAGE)
    return env_file


def settings_of(context: typer.Context) -> Settings:
    """Load the settings of a command; raises `watcher.settings.SettingsError`."""
    return load_settings(env_file_of(context))


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
