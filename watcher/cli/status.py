"""`video-uploader status`: the state of one daemon or of all of them, and of the uploads, from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import typer

from db import JSON, InstanceReport, Ledger, State, format_time
from watcher.cli.invocation import daemon_is_running, open_ledger, settings_of
from watcher.cli.output import AsJson, echo, print_json, print_table
from watcher.settings import Settings
from watcher.telemetry import human_duration, human_size

ERRORS_SHOWN = 5

SILENT_AFTER = timedelta(seconds=30)
"""A daemon reports every few seconds; one without a report for this long has died or lost the database."""

STOPPED, RUNNING, SILENT = "stopped", "running", "silent"

_NO_UPLOADS: Mapping[State, int] = dict.fromkeys(State, 0)


def status(
    context: typer.Context,
    all_instances: Annotated[
        bool, typer.Option("--all", help="Show every daemon that uses the ledger's database, on any machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the daemon, the number of uploads by state, the oldest pending one, the last errors."""
    settings = settings_of(context)
    with open_ledger(settings, read_only=True) as ledger:
        match all_instances, as_json:
            case True, True:
                print_json(summarize_all(ledger))
            case True, False:
                print_all(ledger)
            case False, True:
                print_json(_summary(settings, ledger))
            case _:
                _print_status(settings, ledger)


def _summary(settings: Settings, ledger: Ledger) -> dict[str, object]:
    report = ledger.instance_report()
    oldest = ledger.oldest_pending()
    waiting, overdue, since = _waiting_at_gate(settings, ledger)
    return {
        "instance": ledger.worker,
        "ledger": ledger.instance,
        "directory": settings.completed_dir,
        "running": daemon_is_running(settings),
        "heartbeat_at": format_time(report.heartbeat_at) if report else None,
        "report": report.report if report else None,
        "counts": ledger.counts(),
        "oldest_pending": oldest.as_dict() if oldest else None,
        "awaiting_row": {
            "uploads": waiting,
            "overdue": overdue,
            "oldest_since": format_time(since) if since else None,
        },
        "orphans": _orphans(report),
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
    echo(f"Instance {ledger.worker} on {settings.completed_dir}: {_daemon_state(report, is_running, ledger)}")
    for line in report_lines(report) if is_running else ():
        echo(f"  {line}")
    if settings.shared_directory:
        echo("The uploads are those of every daemon on this directory; `status --all` shows each daemon.")
    print_table(["STATE", "UPLOADS"], [[state, str(number)] for state, number in ledger.counts().items()])
    if oldest := ledger.oldest_pending():
        waited = human_duration(ledger.now() - oldest.discovered_at)
        echo(f"Oldest pending: {oldest.path}, for {waited} (id {oldest.id})")
    waiting, overdue, since = _waiting_at_gate(settings, ledger)
    if waiting and since is not None:
        timeout = human_duration(timedelta(seconds=settings.catalog_row_timeout))
        late = f", {overdue} for longer than CATALOG_ROW_TIMEOUT ({timeout})" if overdue else ""
        waited = human_duration(ledger.now() - since)
        echo(f"Waiting for their catalog rows: {waiting}{late}; the oldest for {waited}")
    if kept := _orphans(report):
        echo(f"Objects whose catalog rows were deleted: {kept}; `video-uploader audit` lists them")
    if errors := ledger.last_errors(ERRORS_SHOWN):
        echo("Last errors:")
        for upload in errors:
            echo(f"  {upload.id} {upload.path} ({upload.state}): {upload.last_error}")


def _daemon_state(report: InstanceReport | None, is_running: bool, ledger: Ledger) -> str:
    if report is None:
        return "the daemon is running." if is_running else "the daemon has never run."
    ago = human_duration(ledger.now() - report.heartbeat_at)
    if is_running:
        return f"the daemon is running (process {report.pid}, heartbeat {ago} ago)."
    return f"the daemon is not running (last heartbeat {ago} ago)."


def report_lines(report: InstanceReport | None) -> list[str]:
    """Return a running daemon's last report as lines of text."""
    if report is None:
        return []
    lines = [f"{name} paused: {reason}" for name, reason in paused_stages(report).items()]
    if settling := report.report.get("settling"):
        lines.append(f"{settling} files are not known to be finished yet")
    disk = report.report.get("disk")
    if isinstance(disk, Mapping) and disk.get("is_high"):
        lines.append(
            f"the disk of the directory is {disk['used_percent']} % full (DISK_PRESSURE_PERCENT is "
            f"{disk['limit_percent']}): published copies are released at once, unless KEEP_LOCAL is set"
        )
    internal_errors = report.report.get("internal_errors")
    if isinstance(internal_errors, Sequence):
        lines += [_internal_error_line(error) for error in internal_errors if isinstance(error, Mapping)]
    unreadable = report.report.get("unreadable")
    if isinstance(unreadable, Mapping):
        lines += [f"{path} cannot be read: {reason}" for path, reason in unreadable.items()]
    uploads = report.report.get("uploads")
    if isinstance(uploads, Sequence):
        lines += [_upload_line(upload) for upload in uploads if isinstance(upload, Mapping)]
    return lines


def _internal_error_line(error: Mapping[str, JSON]) -> str:
    return (
        f"internal error in thread {error['thread']} at {error['at']}: {error['error']} "
        f"({error['count']} since the start). The log has the traceback; please report it"
    )


def _upload_line(upload: Mapping[str, JSON]) -> str:
    size, sent = int(str(upload["size"])), int(str(upload["bytes_sent"]))
    rate, left = int(str(upload["bytes_per_second"])), upload["seconds_left"]
    rest = "" if left is None else f", {human_duration(timedelta(seconds=int(str(left))))} left"
    return f"{upload['path']}: {human_size(sent)} of {human_size(size)}, {human_size(rate)}/s{rest}"


def paused_stages(report: InstanceReport | None) -> Mapping[str, str]:
    """Return the paused parts of the daemon by name, with the reasons."""
    paused = report.report.get("paused") if report else None
    return {str(name): str(reason) for name, reason in paused.items()} if isinstance(paused, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Instance:
    """One daemon, by its last report."""

    report: InstanceReport
    silence: timedelta
    """Time since its last heartbeat, by the database's clock."""

    @property
    def ledger(self) -> str:
        """The instance whose uploads it works on: its own, or a shared directory's."""
        return str(self.reported("ledger") or self.report.instance)

    @property
    def condition(self) -> str:
        """One of `STOPPED`, `SILENT` and `RUNNING`."""
        if self.reported("phase") == "stopped":
            return STOPPED
        return SILENT if self.silence > SILENT_AFTER else RUNNING

    def reported(self, name: str) -> object:
        """Return a value of its report; None if its version of the program does not report it."""
        return self.report.report.get(name)

    def as_dict(self, others: Sequence[str], counts: Mapping[State, int]) -> dict[str, object]:
        """Return the daemon for JSON; `others` work on the same uploads, whose number is in `counts`."""
        is_running = self.condition == RUNNING
        return {
            "instance": self.report.instance,
            "condition": self.condition,
            "heartbeat_at": format_time(self.report.heartbeat_at),
            "heartbeat_seconds_ago": round(self.silence.total_seconds(), 1),
            "started_at": format_time(self.report.started_at),
            "pid": self.report.pid,
            "directory": self.reported("directory"),
            "bytes_per_second": self.reported("bytes_per_second") if is_running else 0,
            "published_per_minute": self.reported("published_per_minute") if is_running else 0,
            "paused": paused_stages(self.report) if is_running else {},
            "ledger": self.ledger,
            "shares_ledger_with": list(others),
            "counts": counts,
        }


def summarize_all(ledger: Ledger) -> dict[str, object]:
    """Return every daemon, and every ledger once, for JSON. Raises `db.DatabaseError`."""
    instances, counts = _instances(ledger), ledger.counts_by_instance()
    by_ledger = _daemons_by_ledger(instances, counts)
    return {
        "instances": [
            one.as_dict(
                [name for name in by_ledger[one.ledger] if name != one.report.instance],
                counts.get(one.ledger, _NO_UPLOADS),
            )
            for one in instances
        ],
        "ledgers": [
            {
                "ledger": name,
                "instances": daemons,
                "counts": counts.get(name, _NO_UPLOADS),
            }
            for name, daemons in by_ledger.items()
        ],
    }


def print_all(ledger: Ledger) -> None:
    """Print a table of the daemons and one of each ledger's uploads. Raises `db.DatabaseError`."""
    instances, counts = _instances(ledger), ledger.counts_by_instance()
    print_table(
        ["INSTANCE", "IS", "HEARTBEAT", "SENDS", "PUBLISHES", "DIRECTORY"], [_row(one) for one in instances]
    )
    for one in instances:
        for name, reason in paused_stages(one.report).items() if one.condition == RUNNING else ():
            echo(f"{one.report.instance}: {name} paused: {reason}")
    echo("")
    by_ledger = _daemons_by_ledger(instances, counts)
    rows = [
        [" + ".join(daemons) or name, *map(str, counts.get(name, _NO_UPLOADS).values())]
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


def _instances(ledger: Ledger) -> list[Instance]:
    now = ledger.now()
    return [Instance(report, now - report.heartbeat_at) for report in ledger.instance_reports()]


def _daemons_by_ledger(
    instances: Sequence[Instance], counts: Mapping[str, Mapping[State, int]]
) -> dict[str, list[str]]:
    """Return the daemons of each ledger; a ledger with uploads and without a daemon has none."""
    found: dict[str, list[str]] = {name: [] for name in sorted({*counts, *(one.ledger for one in instances)})}
    for one in instances:
        found[one.ledger].append(one.report.instance)
    return found
