"""`video-uploader status`: the state of one daemon, or of all, and of their uploads, from the ledger."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from io import StringIO
from shutil import get_terminal_size
from threading import Event
from typing import Annotated

import typer

from db import JSON, OUTCOME_PERIODS, DatabaseError, InstanceReport, Ledger, State, Steering, format_time
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_is_running, open_ledger, settings_of
from watcher.cli.output import AsJson, echo, print_json, print_table
from watcher.operations.daemons import (
    NO_UPLOADS,
    RUNNING,
    Instance,
    daemons_by_ledger,
    instances_of,
    paused_stages,
    summarize_all,
)
from watcher.operations.ignored import IgnoredListing, compare_with_catalog, list_ignored
from watcher.settings import CatalogKind, Settings
from watcher.telemetry import human_duration, human_size, human_time, printable
from watcher.telemetry.formatting import BY_HAND, describe_pause

ERRORS_SHOWN = 5
HELD_SHOWN = 20
WATCH_SECONDS = 2.0


def status(
    context: typer.Context,
    all_instances: Annotated[
        bool, typer.Option("--all", help="Show every daemon that uses the ledger's database, on any machine.")
    ] = False,
    ignored: Annotated[
        bool,
        typer.Option(
            "--ignored",
            help="List the files that are never uploaded, and why, and the ready rows of the compressor's "
            "catalog that have no file; at most 1000 of each.",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until interrupted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the daemon, the number of uploads by state, the oldest pending one, the last errors."""
    settings = settings_of(context)
    if watch and (as_json or ignored):
        raise CommandError("--watch is for people; omit --json and --ignored.", EXIT_USAGE)
    if ignored:
        _list_ignored(settings, as_json=as_json)
        return
    with open_ledger(settings, read_only=True) as ledger:
        if watch:
            _watch(lambda: print_all(ledger) if all_instances else _print_status(settings, ledger))
            return
        match all_instances, as_json:
            case True, True:
                print_json(summarize_all(ledger))
            case True, False:
                print_all(ledger)
            case False, True:
                print_json(_summary(settings, ledger))
            case _:
                _print_status(settings, ledger)


def _watch(show: Callable[[], None]) -> None:
    """Print what `show` prints again and again, on a terminal each time in place of the last."""
    never = Event()
    with suppress(KeyboardInterrupt):
        while True:
            shown = StringIO()
            with redirect_stdout(shown):
                show()
            lines = shown.getvalue().splitlines()
            if sys.stdout.isatty():
                # Home, and clear what is below (ECMA-48); no more than fits, or the beginning scrolls away.
                lines = ["\x1b[H\x1b[J" + lines[0], *lines[1 : get_terminal_size().lines - 1]]
            print("\n".join(lines), flush=True)
            never.wait(WATCH_SECONDS)


def _list_ignored(settings: Settings, *, as_json: bool) -> None:
    listing = list_ignored(settings)
    problem = None
    if settings.catalog_kind is CatalogKind.COMPRESSOR:
        try:
            with open_ledger(settings, read_only=True) as ledger:
                compare_with_catalog(listing, settings, ledger)
        except (CommandError, DatabaseError) as exc:
            # The files are listed all the same.
            problem = str(exc)
    _print_ignored(listing, problem, as_json=as_json)


def _print_ignored(listing: IgnoredListing, problem: str | None, *, as_json: bool) -> None:
    """Print a listing; `problem` says why the catalog could not be read."""
    left_out = listing.counts.total() - len(listing.files)
    missing_left_out = listing.missing_rows - len(listing.missing)
    if as_json:
        files = [
            {
                "path": path,
                "kind": found.kind,
                "reason": found.reason,
                "row_is_ready": path in listing.ready,
            }
            for path, found in sorted(listing.files.items())
        ]
        missing = [{"path": path, "reason": reason} for path, reason in sorted(listing.missing.items())]
        print_json(
            {
                "counts": listing.counts,
                "files": files,
                "left_out": left_out,
                "missing": missing,
                "missing_left_out": missing_left_out,
                "catalog_problem": problem,
            }
        )
        return
    for path, found in sorted(listing.files.items()):
        ready = "; its catalog row is ready" if path in listing.ready else ""
        echo(f"{printable(path)}: {found.reason}{ready}")
    if left_out:
        echo(f"{left_out} more are not listed.")
    for path, reason in sorted(listing.missing.items()):
        echo(f"{printable(path)}: it does not exist; {reason}")
    if missing_left_out:
        echo(f"{missing_left_out} more rows without a file are not listed.")
    if problem:
        echo(f"The catalog could not be compared: {problem}")
    counted = [[kind.value, str(number)] for kind, number in sorted(listing.counts.items())]
    counted += [["missing", str(listing.missing_rows)]] * (listing.missing_rows > 0)
    print_table(["REASON", "FILES"], counted)


def print_all(ledger: Ledger) -> None:
    """Print a table of the daemons and one of each ledger's uploads. Raises `db.DatabaseError`."""
    instances, counts = instances_of(ledger), ledger.counts_by_instance()
    print_table(
        ["INSTANCE", "IS", "HEARTBEAT", "SENDS", "PUBLISHES", "DIRECTORY"],
        [_row(one) for one in instances],
    )
    for one in instances:
        if one.condition == RUNNING and (conflict := one.reported("conflict")):
            echo(f"{one.report.instance}: {conflict}")
        for name, reason in paused_stages(one.report).items() if one.condition == RUNNING else ():
            echo(f"{one.report.instance}: {name} paused: {reason}")
    echo("")
    by_ledger = daemons_by_ledger(instances, counts)
    rows = [
        [" + ".join(daemons) or name, *map(str, counts.get(name, NO_UPLOADS).values())]
        for name, daemons in by_ledger.items()
    ]
    print_table(["UPLOADS OF", *(state.upper() for state in State)], rows)
    if any(len(daemons) > 1 for daemons in by_ledger.values()):
        echo("Daemons joined by '+' share one directory and these uploads.")


def _row(one: Instance) -> list[str]:
    sends = publishes = "-"
    if one.condition == RUNNING:
        sends = f"{human_size(int(str(one.reported('bytes_per_second') or 0)))}/s"
        publishes = f"{one.reported('published_per_minute') or 0} a minute"
    ago = f"{human_duration(one.silence)} ago"
    return [one.report.instance, one.condition, ago, sends, publishes, str(one.reported("directory") or "-")]


def _summary(settings: Settings, ledger: Ledger) -> dict[str, object]:
    report = ledger.instance_report()
    oldest = ledger.oldest_pending()
    waiting, overdue, since = _waiting_at_gate(settings, ledger)
    steering = Steering(ledger)
    pause = steering.orders().pause
    return {
        "instance": ledger.worker,
        "ledger": ledger.instance,
        "directory": settings.completed_dir,
        "running": daemon_is_running(settings),
        "heartbeat_at": format_time(report.heartbeat_at) if report else None,
        "report": report.report if report else None,
        "counts": ledger.counts(),
        "bytes": ledger.sizes(),
        "outcomes": {
            name: {**asdict(outcomes), "success_rate": outcomes.success_rate}
            for name, period in OUTCOME_PERIODS.items()
            for outcomes in (ledger.outcomes(period),)
        },
        "oldest_pending": oldest.as_dict() if oldest else None,
        "awaiting_row": {
            "uploads": waiting,
            "overdue": overdue,
            "oldest_since": format_time(since) if since else None,
        },
        "orphans": _orphans(report),
        "pause": {"at": format_time(pause.at), "reason": pause.reason} if pause else None,
        "held": {path: format_time(at) for path, at in steering.held_paths().items()},
        "last_errors": [upload.as_dict() for upload in ledger.last_errors(ERRORS_SHOWN)],
    }


def _waiting_at_gate(settings: Settings, ledger: Ledger) -> tuple[int, int, datetime | None]:
    """Return how many uploads wait for their rows, how many are overdue, and since when the oldest waits."""
    timeout = timedelta(seconds=settings.catalog_row_timeout)
    overdue = ledger.count_awaiting_row(longer_than=timeout)
    return ledger.count_awaiting_row(), overdue, ledger.awaiting_row_since()


def _orphans(report: InstanceReport | None) -> int:
    """Return the number of objects whose catalog rows were deleted, as of the daemon's last report."""
    return int(str(report.report.get("orphans", 0))) if report else 0


def _print_status(settings: Settings, ledger: Ledger) -> None:
    report = ledger.instance_report()
    is_running = daemon_is_running(settings)
    echo(f"Instance {ledger.worker} on {settings.completed_dir}: {daemon_state(report, is_running, ledger)}")
    for line in report_lines(report) if is_running else ():
        echo(f"  {line}")
    if settings.shared_directory:
        echo("The uploads are those of every daemon on this directory; `status --all` shows each daemon.")
    print_table(["STATE", "UPLOADS"], [[state, str(number)] for state, number in ledger.counts().items()])
    if line := _success_line(ledger):
        echo(line)
    if oldest := ledger.oldest_pending():
        waited = human_duration(ledger.now() - oldest.discovered_at)
        echo(f"Oldest pending: {oldest.path}, for {waited} (id {oldest.id})")
    waiting, overdue, since = _waiting_at_gate(settings, ledger)
    if waiting and since is not None:
        timeout = human_duration(timedelta(seconds=settings.catalog_row_timeout))
        late = f", {overdue} for longer than CATALOG_ROW_TIMEOUT ({timeout})" if overdue else ""
        waited = human_duration(ledger.now() - since)
        echo(f"Waiting for their catalog rows: {waiting}{late}; the oldest for {waited}")
    _print_orders(Steering(ledger), is_running=is_running)
    if kept := _orphans(report):
        echo(f"Objects whose catalog rows were deleted: {kept}; `video-uploader audit` lists them")
    if doubt := report and report.report.get("orphans_doubted"):
        echo(f"No object is deleted for missing catalog rows: {doubt}")
    if errors := ledger.last_errors(ERRORS_SHOWN):
        echo("Last errors:")
        for upload in errors:
            echo(f"  {upload.id} {upload.path} ({upload.state}): {upload.last_error}")


def _print_orders(steering: Steering, *, is_running: bool) -> None:
    """Print what operators have ordered; a running daemon has said that it is paused."""
    if (pause := steering.orders().pause) and not is_running:
        echo(f"{BY_HAND} paused: {describe_pause(pause)}")
    held = steering.held_paths()
    for path, since in list(held.items())[:HELD_SHOWN]:
        echo(f"Held by hand since {human_time(since)}: {path}")
    if len(held) > HELD_SHOWN:
        echo(f"{len(held) - HELD_SHOWN} more files are held; --json lists them.")


def _success_line(ledger: Ledger) -> str:
    """Return the success rates in a line; an empty text if nothing was decided within a day."""
    said = [
        f"{outcomes.success_rate:.1%} of {outcomes.published + outcomes.failed + outcomes.rejected} in the "
        f"last {name}"
        for name, period in OUTCOME_PERIODS.items()
        if (outcomes := ledger.outcomes(period)).success_rate is not None
    ]
    return f"Published: {', '.join(said)}" if said else ""


def daemon_state(report: InstanceReport | None, is_running: bool, ledger: Ledger) -> str:
    """Return whether the daemon runs, in a sentence, and when it was heard of last."""
    if report is None:
        return "the daemon is running." if is_running else "the daemon has never run."
    ago = human_duration(ledger.now() - report.heartbeat_at)
    if is_running:
        return f"the daemon is running (process {report.pid}, heartbeat {ago} ago)."
    return f"the daemon is not running (last heartbeat {ago} ago)."


_COUNTS = {
    "settling": "{} files are not known to be finished yet",
    "to_hash_again": "{} of them are known, were touched since, and are being hashed again",
    "max_bandwidth": "MAX_BANDWIDTH allows {} bytes per second now",
    "slow_line": "the line to S3 is slow, {} bytes per second: fewer and smaller parts are sent at once",
}
"""The lines about numbers of a report that are neither 0 nor missing."""


def report_lines(report: InstanceReport | None) -> list[str]:
    """Return a running daemon's last report as lines of text."""
    if report is None:
        return []
    lines = [str(conflict)] if (conflict := report.report.get("conflict")) else []
    lines += [f"{name} paused: {reason}" for name, reason in paused_stages(report).items()]
    if database := report.report.get("database"):
        lines.append(f"the database is {database}")
    lines += [
        sentence.format(count) for name, sentence in _COUNTS.items() if (count := report.report.get(name))
    ]
    disk = report.report.get("disk")
    if isinstance(disk, Mapping) and disk.get("is_high"):
        lines.append(
            f"the disk of the directory is {disk['used_percent']} % full (DISK_PRESSURE_PERCENT is "
            f"{disk['limit_percent']}): published copies are released at once, unless KEEP_LOCAL is set"
        )
    internal_errors = report.report.get("internal_errors")
    if isinstance(internal_errors, Sequence):
        lines += [_internal_error_line(error) for error in internal_errors if isinstance(error, Mapping)]
    notifications = report.report.get("notifications")
    if isinstance(notifications, Mapping):
        lines += [
            f"{channel} fails: {told['failure']} ({told['waiting']} events wait for it{_since(told)})"
            for channel, told in notifications.items()
            if isinstance(told, Mapping) and told["failure"]
        ]
    lines += _ignored_lines(report.report)
    set_aside = report.report.get("set_aside")
    if isinstance(set_aside, Sequence):
        lines += [_set_aside_line(kind) for kind in set_aside if isinstance(kind, Mapping)]
    unreadable = report.report.get("unreadable")
    if isinstance(unreadable, Mapping):
        lines += [f"{path} cannot be read: {reason}" for path, reason in unreadable.items()]
    quarantined = report.report.get("quarantined")
    if isinstance(quarantined, Mapping):
        lines += [f"{path} stays in quarantine: {reason}" for path, reason in quarantined.items()]
    uploads = report.report.get("uploads")
    if isinstance(uploads, Sequence):
        lines += [_upload_line(upload) for upload in uploads if isinstance(upload, Mapping)]
    return lines


def _since(told: Mapping[str, JSON]) -> str:
    seconds = told.get("oldest_seconds")
    if not isinstance(seconds, float):
        return ""
    return f", the oldest for {human_duration(timedelta(seconds=seconds))}"


def _ignored_lines(report: Mapping[str, JSON]) -> list[str]:
    lines = []
    by_kind = report.get("ignored")
    if isinstance(by_kind, Mapping) and any(by_kind.values()):
        counted = ", ".join(f"{number} ({kind})" for kind, number in by_kind.items() if number)
        lines.append(f"ignored files by reason: {counted}; `video-uploader status --ignored` lists them")
    ignored = report.get("ready_files_ignored")
    if isinstance(ignored, Mapping) and isinstance(first := ignored.get("first"), Mapping) and first:
        lines.append(f"{ignored['count']} files of ready catalog rows are ignored, among them:")
        lines += [f"  {path}: {reason}" for path, reason in first.items()]
    missing = report.get("ready_files_missing")
    if isinstance(missing, Mapping) and isinstance(first := missing.get("first"), Mapping) and first:
        lines.append(f"{missing['count']} ready catalog rows have no file and no object, among them:")
        lines += [f"  {printable(path)}: {reason}" for path, reason in first.items()]
    return lines


def _internal_error_line(error: Mapping[str, JSON]) -> str:
    return (
        f"internal error in thread {error['thread']} at {error['at']}: {error['error']} "
        f"({error['count']} since the start). The log has the traceback; please report it"
    )


def _set_aside_line(kind: Mapping[str, JSON]) -> str:
    return f"{kind['count']} {kind['items']} are set aside after errors, and are tried again: {kind['error']}"


def _upload_line(upload: Mapping[str, JSON]) -> str:
    size, sent = int(str(upload["size"])), int(str(upload["bytes_sent"]))
    rate, left = int(str(upload["bytes_per_second"])), upload["seconds_left"]
    rest = "" if left is None else f", {human_duration(timedelta(seconds=int(str(left))))} left"
    return f"{upload['path']}: {human_size(sent)} of {human_size(size)}, {human_size(rate)}/s{rest}"
