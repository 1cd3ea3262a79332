"""`video-uploader db`: our own tables, which `run` brings up to date by itself unless it is told not to."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from db import MIGRATIONS, migrate, pending_migrations, schema_version
from watcher.app.factories import open_ledger_database
from watcher.cli.common import EXIT_FAILED, CommandError, echo, invocation, print_json
from watcher.settings.model import Settings

database = typer.Typer(help="Our own tables: their version, and what is missing.", no_args_is_help=True)


@database.command("migrate")
def bring_up_to_date(context: typer.Context) -> None:
    """Bring our tables up to date, all or nothing, whoever else does so at the same moment."""
    with closing(open_ledger_database(invocation(context).settings())) as opened:
        applied = migrate(opened)
    for name in applied:
        echo(f"Applied {name}.")
    if not applied:
        echo("Nothing was missing: the tables are up to date.")


@database.command("status")
def show_version(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """The version of our tables, and the migrations that are missing. 1 if any is."""
    version, pending = version_of(invocation(context).settings())
    if as_json:
        print_json({"version": version, "pending": pending})
    else:
        echo(f"Version: {version or 'none, there are no tables yet'}")
        for name in pending:
            echo(f"Missing: {name}")
        echo("`video-uploader db migrate` applies what is missing." if pending else "Nothing is missing.")
    if pending:
        raise typer.Exit(EXIT_FAILED)


def version_of(settings: Settings) -> tuple[str | None, list[str]]:
    """The version of the tables and the migrations that are missing; makes nothing, not even a SQLite file.

    Raises `db.DatabaseError`.
    """
    with closing(open_ledger_database(settings, read_only=True)) as opened, opened.session():
        if not opened.exists():
            return None, list(MIGRATIONS)
        return schema_version(opened), pending_migrations(opened)


def require_up_to_date(settings: Settings) -> None:
    """Refuse tables that are not up to date: an operator wants to change them himself.

    Raises `CommandError` and `db.DatabaseError`.
    """
    _, pending = version_of(settings)
    if pending:
        raise CommandError(
            f"The tables are not up to date ({', '.join(pending)} missing) and DATABASE_AUTO_MIGRATE is "
            "false: run `video-uploader db migrate` first."
        )
