"""`video-uploader db`: migrates the uploader's tables and shows their version."""

from __future__ import annotations

from contextlib import closing

import typer

from db import MIGRATIONS, migrate, pending_migrations, schema_version
from watcher.app.factories import open_ledger_database
from watcher.cli.exit_codes import EXIT_FAILED, CommandError
from watcher.cli.ledger_access import settings_of
from watcher.cli.output import AsJson, echo, print_json
from watcher.settings import Settings

database = typer.Typer(
    help="The uploader's tables: their version and pending migrations.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@database.command("migrate")
def apply_migrations(context: typer.Context) -> None:
    """Apply all pending migrations in one transaction; safe to run concurrently."""
    with closing(open_ledger_database(settings_of(context))) as opened:
        applied = migrate(opened)
    for name in applied:
        echo(f"Applied {name}.")
    if not applied:
        echo("Nothing to apply: the tables are up to date.")


@database.command("status")
def show_version(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the version of the tables and the pending migrations. Exits with 1 if any are pending."""
    version, pending = version_of(settings_of(context))
    if as_json:
        print_json({"version": version, "pending": pending})
    else:
        echo(f"Version: {version or 'none, there are no tables yet'}")
        for name in pending:
            echo(f"Pending: {name}")
        echo("`video-uploader db migrate` applies them." if pending else "No migration is pending.")
    if pending:
        raise typer.Exit(EXIT_FAILED)


def version_of(settings: Settings) -> tuple[str | None, list[str]]:
    """Return the version of the tables and the pending migrations; creates nothing, not even an SQLite file.

    Raises `db.DatabaseError`.
    """
    with closing(open_ledger_database(settings, read_only=True)) as opened, opened.session():
        if not opened.exists():
            return None, list(MIGRATIONS)
        return schema_version(opened), pending_migrations(opened)


def require_up_to_date(settings: Settings) -> None:
    """Raise `CommandError` if a migration is pending, and `db.DatabaseError`."""
    _, pending = version_of(settings)
    if pending:
        raise CommandError(
            f"The tables are not up to date ({', '.join(pending)} pending) and DATABASE_AUTO_MIGRATE is "
            "false: run `video-uploader db migrate` first."
        )
