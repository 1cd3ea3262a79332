"""`video-uploader db` and `ledger`: the version of the uploader's tables, and a lost ledger made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer
from pydantic import SecretStr

from db import MIGRATIONS, Ledger, migrate, pending_migrations, schema_version, sqlite_url
from watcher.app import Application, open_application
from watcher.app.factories import make_storage_config, open_ledger_database
from watcher.app.known_dialect import keep_dialect
from watcher.app.sole_instance import SoleInstance
from watcher.cli.exit_codes import EXIT_FAILED, CommandError
from watcher.cli.ledger_access import daemon_lock, settings_of
from watcher.cli.output import AsJson, echo, print_json
from watcher.filesystem import instance_lock
from watcher.operations.daemons import others_alive
from watcher.operations.rebuild import Entry, Outcome, Rebuild
from watcher.settings import CatalogKind, Settings
from watcher.telemetry import configure_logging, human_duration

MAX_SHOWN = 20
"""How many objects of each outcome are shown."""

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


ledger = typer.Typer(
    help="The ledger: made again if it was lost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@ledger.callback()
def _group() -> None:
    """The ledger: made again if it was lost."""


@ledger.command("rebuild")
def rebuild(
    context: typer.Context,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add what is missing to a ledger that has uploads; changes no upload."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be recorded, and record nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a lost ledger again from bucket, catalog and disk; the daemon must be stopped.

    Records a released upload of every object of this program that has no local file. Sends, deletes and
    overwrites nothing. Exits with 1 if the server does not prove what an object of this program holds.
    """
    settings = settings_of(context)
    configure_logging(settings.log_level, settings.log_format)
    shown: list[Entry] = []
    told: Counter[Outcome] = Counter()
    with _only_application(settings, dry_run=dry_run) as app:
        if not add and any(app.ledger.counts().values()):
            raise CommandError(
                "The ledger has uploads already: `video-uploader ledger rebuild --add` adds those that it "
                "lacks."
            )
        rebuilding = Rebuild(app, dry_run=dry_run)
        for entry in rebuilding.entries():
            told[entry.outcome] += 1
            if entry.outcome is not Outcome.LOCAL and told[entry.outcome] <= MAX_SHOWN:
                shown.append(entry)
                if not as_json:
                    echo(f"{entry.outcome}: {entry.key}: {entry.detail}")
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "counts": {outcome.value: rebuilding.counts[outcome] for outcome in Outcome},
                "unshown": rebuilding.unshown,
                "objects": [
                    {"key": entry.key, "outcome": entry.outcome.value, "detail": entry.detail}
                    for entry in shown
                ],
            }
        )
    else:
        _print_totals(rebuilding, dry_run=dry_run)
    if rebuilding.counts[Outcome.UNPROVEN] or rebuilding.counts[Outcome.UNKNOWN]:
        raise typer.Exit(EXIT_FAILED)


def _require_none_beside(ledger: Ledger) -> None:
    """Raise `CommandError` if another daemon of a shared directory is alive, by its heartbeat."""
    if others := others_alive(ledger):
        names = ", ".join(
            f"{one.report.instance} (heartbeat {human_duration(one.silence)} ago)" for one in others
        )
        raise CommandError(
            f"Other daemons work on this ledger: {names}. Stop them first; one that was killed counts as "
            "stopped half a minute after its last heartbeat."
        )


@contextmanager
def _only_application(settings: Settings, *, dry_run: bool) -> Iterator[Application]:
    """Open the application while no daemon of the instance runs, with a ledger that is made if there is none.

    A dry run without a ledger has an empty one that is thrown away, and no catalog.
    """
    with ExitStack() as stack:
        if dry_run and version_of(settings)[1]:
            url = sqlite_url(f"{stack.enter_context(TemporaryDirectory())}/ledger.sqlite3")
            settings = settings.model_copy(
                update={"database_url": SecretStr(url), "catalog": CatalogKind.NONE}
            )
        elif dry_run or not settings.database_auto_migrate:
            require_up_to_date(settings)
        if not dry_run:
            stack.enter_context(instance_lock.held(daemon_lock(settings)))
        app = stack.enter_context(open_application(settings))
        migrate(app.context.database)
        stack.enter_context(app.context.database.session())
        if not dry_run:
            SoleInstance(app.ledger, app.context.metrics).require(Event().wait)
            _require_none_beside(app.ledger)
        keep_dialect(app.context.database, make_storage_config(settings), app.context.store)
        yield app


def _print_totals(rebuilding: Rebuild, *, dry_run: bool) -> None:
    counts = rebuilding.counts
    for outcome in Outcome:
        if outcome not in {Outcome.LOCAL, Outcome.KNOWN} and counts[outcome] > MAX_SHOWN:
            echo(f"{outcome}: {counts[outcome] - MAX_SHOWN} more are not shown.")
    done = "would be rebuilt; nothing was recorded" if dry_run else "were rebuilt"
    echo(f"{counts[Outcome.REBUILT]} uploads {done}; no catalog row shows {rebuilding.unshown} of them.")
    echo(
        f"{counts[Outcome.LOCAL]} objects have a local file, with which the daemon compares them; "
        f"{counts[Outcome.KNOWN]} were in the ledger, {counts[Outcome.FOREIGN]} are not of this program, "
        f"{counts[Outcome.UNPROVEN]} are not proven, {counts[Outcome.UNKNOWN]} are unknown."
    )
    if not dry_run:
        echo("`video-uploader audit` compares bucket, ledger and catalog.")
