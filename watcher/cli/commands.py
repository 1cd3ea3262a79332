"""The commands, each imported when it is called: the program's help and its version need none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("run:run", "Watch the directory and upload finished files until stopped."),
    "status": (
        "status:status",
        "Show the daemon, the number of uploads by state, the oldest pending one, the last errors.",
    ),
    "list": ("list:list_uploads", "List the uploads, newest first."),
    "explain": (
        "explain:explain",
        "Show everything known about a file, or about all files of a video, in chronological order.",
    ),
    "retry": (
        "retry:retry",
        "Retry uploads now: stopped ones become pending, ones that wait after an error become due.",
    ),
    "upload": ("objects:upload", "Upload one finished file, confirm the object, and print its public URL."),
    "exists": (
        "objects:exists",
        "Print the public URL of an object, or exit with 1 if it does not exist.",
    ),
    "delete": (
        "objects:delete",
        "Delete an object after confirmation. The daemon uploads it again if its local copy still exists.",
    ),
    "audit": (
        "audit:audit",
        "Compare every object with the ledger and the catalog. Exits with 1 if differences remain.",
    ),
    "config": ("config:config", "Show every setting, secrets masked, and where its value came from."),
    "doctor": (
        "doctor:doctor",
        "Check credentials, bucket, permissions, public URLs, this machine and the database.",
    ),
    "bucket": ("bucket:bucket", "The bucket's configuration: public access, CORS, lifecycle."),
    "db": ("database:database", "The uploader's tables: their version and pending migrations."),
}
"""By name: the module and the name in it of what implements the command, and the first line of its help."""


class CommandGroup(TyperGroup):
    """The program's commands."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {name: _Unloaded(name, help=COMMANDS[name][1]) for name in COMMANDS}
        super().__init__(**attributes)


class _Unloaded(TyperCommand):
    """A command that is imported once it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command that it stands for."""
        return loaded(str(self.name)).make_context(info_name, args, parent, **extra)


def loaded(name: str) -> Any:
    """The command of a name, with its options, or the group."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"watcher.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)
