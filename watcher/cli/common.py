"""What the commands share: settings, the ledger, tables, and errors said in one sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db import Ledger, pending_migrations
from watcher.app.factories import make_ledger, open_ledger_database
from watcher.filesystem import instance_lock
from watcher.settings.loading import load_settings
from watcher.settings.model import Settings, state_directory
from watcher.telemetry.formatting import printable

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
"""Exit codes: all is well; something could not be done; usage or configuration."""


class CommandError(Exception):
    """A command could not do what it was asked; the message is the sentence the user reads."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the options before the command say."""

    env_file: str

    def settings(self) -> Settings:
        """The settings; raises `watcher.settings.model.SettingsError`."""
        return load_settings(self.env_file)


def invocation(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    found = context.find_object(Invocation)
    if found is None:
        raise CommandError("The command was called without its program.", EXIT_USAGE)
    return found


@contextmanager
def open_ledger(settings: Settings, *, read_only: bool) -> Iterator[Ledger]:
    """The ledger as it is, up to date or refused; raises `CommandError` and `db.DatabaseError`."""
    if not read_only:
        # To open a SQLite file for writing makes it; this looks first, and refuses.
        with open_ledger(settings, read_only=True):
            pass
    database = open_ledger_database(settings, read_only=read_only)
    try:
        with database.session():
            if not database.exists() or pending_migrations(database):
                raise CommandError(
                    "The ledger is not there yet or of an older version; start `video-uploader run` once, "
                    "which brings it up to date, or call `video-uploader db migrate`."
                )
            yield make_ledger(settings, database)
    finally:
        database.close()


def daemon_is_running(settings: Settings) -> bool:
    """Whether this instance's daemon holds its lock on this machine."""
    return instance_lock.is_held(daemon_lock(settings))


def daemon_lock(settings: Settings) -> str:
    """The path of this instance's lock."""
    return instance_lock.lock_path(state_directory(), settings.instance, settings.completed_dir)


def path_below(settings: Settings, path: str) -> str:
    """The path below the watched directory; one that is not absolute is taken to be that already.

    Raises `CommandError` for a path that leads elsewhere.
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


def echo(text: str) -> None:
    """Print a line that may hold file names."""
    print(printable(text))


def echo_error(text: str) -> None:
    """Print a line to standard error."""
    print(printable(text), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as JSON in ASCII, one document."""
    print(json.dumps(value, indent=2))


def print_json_array(values: Iterable[Any]) -> None:
    """Print values as one JSON array, one by one, so that memory does not grow with their number."""
    separator = "["
    for value in values:
        print(separator, json.dumps(value), sep="\n", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; on anything but a terminal nothing is cut off."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)
