"""`video-uploader audit`: compares the bucket with ledger and catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from watcher.app import open_application
from watcher.app.factories import make_storage_config
from watcher.app.known_dialect import keep_dialect
from watcher.cli.exit_codes import EXIT_FAILED
from watcher.cli.ledger_access import open_ledger, settings_of
from watcher.cli.output import AsJson, echo, echo_error, print_json
from watcher.operations import Audit, Finding, Issue
from watcher.telemetry import configure_logging

MAX_SHOWN = 100
"""Findings of one kind that are printed; further ones are only counted."""


class _Tally:
    """Counts findings by kind, and limits how many of each are printed."""

    def __init__(self) -> None:
        self.found: Counter[Issue] = Counter()
        self.fixed: Counter[Issue] = Counter()
        self.is_clean = True

    def limit(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        for finding in findings:
            self.found[finding.issue] += 1
            self.fixed[finding.issue] += finding.is_fixed
            self.is_clean = self.is_clean and not finding.is_open
            if self.found[finding.issue] <= MAX_SHOWN:
                yield finding


def audit(
    context: typer.Context,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Repair what can be repaired: upload lost objects again, publish URLs again, and delete "
            "orphans if DELETE_ORPHANS is true.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare every object with the ledger and the catalog. Exits with 1 if differences remain."""
    settings = settings_of(context)
    configure_logging(settings.log_level, settings.log_format)
    with open_ledger(settings, read_only=True):
        pass
    tally = _Tally()
    with open_application(settings) as app, app.context.database.session():
        keep_dialect(app.context.database, make_storage_config(settings), app.context.store)
        auditing = Audit(app, fix=fix)
        shown = tally.limit(auditing.findings())
        if as_json:
            print_json(_as_json(auditing, tally, list(shown)))
        else:
            for finding in shown:
                echo(_line(finding))
            _print_totals(auditing, tally)
    if lost := tally.found[Issue.LOST]:
        echo_error(
            f"video-uploader: {lost} objects are LOST and have no local copy: restore them from a "
            "backup, or have the videos compressed again."
        )
    if not tally.is_clean:
        raise typer.Exit(EXIT_FAILED)


def _line(finding: Finding) -> str:
    prefix = "fixed " if finding.is_fixed else ""
    name = f"{finding.upload.path} ({finding.key})" if finding.upload else finding.key
    return f"{prefix}{finding.issue}: {name}: {finding.detail}"


def _print_totals(auditing: Audit, tally: _Tally) -> None:
    for issue, number in tally.found.items():
        if number > MAX_SHOWN:
            echo(f"{issue}: {number - MAX_SHOWN} more are not shown.")
    elsewhere = tally.found[Issue.ELSEWHERE]
    beside = f", {elsewhere} were confirmed elsewhere" if elsewhere else ""
    echo(f"{auditing.confirmed} uploads were confirmed{beside}, {auditing.listed} objects were listed.")
    for issue in Issue:
        if number := tally.found[issue]:
            fixed = f", {tally.fixed[issue]} fixed" if tally.fixed[issue] else ""
            echo(f"{issue}: {number}{fixed}")
    if tally.is_clean:
        echo("Nothing is left to do.")


def _as_json(auditing: Audit, tally: _Tally, shown: list[Finding]) -> dict[str, object]:
    return {
        "confirmed": auditing.confirmed,
        "listed": auditing.listed,
        "counts": {
            issue.value: {"found": tally.found[issue], "fixed": tally.fixed[issue]} for issue in Issue
        },
        "findings": [
            {
                "issue": finding.issue.value,
                "key": finding.key,
                "upload": finding.upload.id if finding.upload else None,
                "path": finding.upload.path if finding.upload else None,
                "detail": finding.detail,
                "fixed": finding.is_fixed,
            }
            for finding in shown
        ],
    }
