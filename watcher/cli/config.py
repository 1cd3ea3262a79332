"""`video-uploader config`: every setting and its source."""

from __future__ import annotations

import typer

from watcher.app.known_dialect import known_dialect
from watcher.app.settings_record import differing_settings, running_settings
from watcher.cli.ledger_access import daemon_lock, env_files_of
from watcher.cli.output import AsJson, echo_error, print_json, print_table
from watcher.settings import doubtful_settings, load_settings, report_settings, unused_settings
from watcher.telemetry import human_time


def config(context: typer.Context, as_json: AsJson = False) -> None:
    """Show every setting, secrets masked, where its value came from, and what a running daemon has.

    Standard error names those that have no effect, may be a mistake or differ from the daemon's, and what the
    server was found to refuse.
    """
    env_files = env_files_of(context)
    settings = load_settings(*env_files)
    reports = report_settings(settings, *env_files)
    running = running_settings(daemon_lock(settings))
    differing = differing_settings(settings, running or {})
    if as_json:
        print_json(
            {
                report.name: {"value": report.value, "source": report.source}
                | ({} if running is None else {"daemon": running.get(report.name)})
                for report in reports
            }
        )
    elif running is None:
        print_table(["NAME", "VALUE", "FROM"], reports)
    else:
        print_table(
            ["NAME", "VALUE", "FROM", "DAEMON"],
            [(*report, differing.get(report.name, ("", "the same"))[1]) for report in reports],
        )
    for name, (own, other) in differing.items():
        echo_error(
            f"video-uploader: the running daemon has another {name}: {other or '(none)'} instead of "
            f"{own or '(none)'}"
        )
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
