"""`video-uploader config`: every setting and its source."""

from __future__ import annotations

import typer

from watcher.app.known_dialect import known_dialect
from watcher.cli.ledger_access import env_files_of
from watcher.cli.output import AsJson, echo_error, print_json, print_table
from watcher.settings import doubtful_settings, load_settings, report_settings, unused_settings
from watcher.telemetry import human_time


def config(context: typer.Context, as_json: AsJson = False) -> None:
    """Show every setting, secrets masked, and where its value came from.

    Standard error names those that have no effect or may be a mistake, and what the server was found to
    refuse.
    """
    env_files = env_files_of(context)
    settings = load_settings(*env_files)
    reports = report_settings(settings, *env_files)
    if as_json:
        print_json({report.name: {"value": report.value, "source": report.source} for report in reports})
    else:
        print_table(["NAME", "VALUE", "FROM"], reports)
    for found in known_dialect(settings):
        if not found.said:
            continue
        echo_error(
            f"video-uploader: the server refuses {found.feature} (it said {found.said}); it is done without "
            f"since {human_time(found.found_at)}"
        )
    for unused in unused_settings(settings):
        echo_error(f"video-uploader: {unused.name} is set and has no effect: {unused.reason}")
    for doubt in doubtful_settings(*env_files):
        echo_error(f"video-uploader: {doubt.sentence}")
