"""`video-uploader status`, `list` and `config`: what there is, while the daemon runs and when it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

from db import JSON, InstanceReport, Ledger, State, Upload, format_time
from watcher.cli import instances
from watcher.cli.common import (
    EXIT_USAGE,
    CommandError,
    daemon_is_running,
    echo,
    invocation,
    open_ledger,
    print_json,
    print_json_array,
    print_table,
)
from watcher.settings.model import Settings
from watcher.settings.report import report_settings
from watcher.telemetry.formatting import human_duration, human_size, human_time

ERRORS_SHOWN = 5

_LINE = "{:>8}  {:10}  {:8}  {:>10}  {:>5}  {:20}  {}"

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def status(
    context: typer.Context,
    everybody: Annotated[
        bool, typer.Option("--all", help="Every daemon that uses the ledger's database, on any machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """How it goes: the daemon, counts by state, what waits longest, the last errors."""
    settings = invocation(context).settings()
    with open_ledger(settings, read_only=True) as ledger:
        match everybody, as_json:
            case True, True:
                print_json(instances.summary(ledger))
            case True, False:
                instances.print_all(ledger)
            case False, True:
                print_json(_summary(settings, ledger))
            case _:
                _print_status(settings, ledger)


def _summary(settings: Settings, ledger: Ledger) -> dict[str, object]:
    report = ledger.instance_report()
    oldest = ledger.oldest_pending()
    return {
        "instance": ledger.worker,
        "ledger": ledger.instance,
        "directory": settings.completed_dir,
        "running": daemon_is_running(settings),
        "heartbeat_at": format_time(report.heartbeat_at) if report else None,
        "report": report.report if report else None,
        "counts": {state.value: number for state, number in ledger.counts().items()},
        "oldest_pending": oldest.as_dict() if oldest else None,
        "awaiting_row": _gate_summary(settings, ledger),
        "orphans": orphans(report),
        "last_errors": [upload.as_dict() for upload in ledger.last_errors(ERRORS_SHOWN)],
    }


def _gate_summary(settings: Settings, ledger: Ledger) -> dict[str, JSON]:
    since = ledger.oldest_awaiting_row()
    timeout = timedelta(seconds=settings.catalog_row_timeout)
    return {
        "uploads": ledger.count_awaiting_row(),
        "overdue": ledger.count_awaiting_row(longer_than=timeout),
        "oldest_since": format_time(since) if since else None,
    }


def orphans(report: InstanceReport | None) -> int:
    """How many objects no catalog row leads to any more, as of the daemon's last look."""
    return int(str(report.report.get("orphans", 0))) if report else 0


def _print_gate(settings: Settings, ledger: Ledger) -> None:
    waiting, since = ledger.count_awaiting_row(), ledger.oldest_awaiting_row()
    if not waiting or since is None:
        return
    timeout = timedelta(seconds=settings.catalog_row_timeout)
    overdue = ledger.count_awaiting_row(longer_than=timeout)
    late = f", {overdue} for longer than CATALOG_ROW_TIMEOUT ({human_duration(timeout)})" if overdue else ""
    waited = human_duration(ledger.now() - since)
    echo(f"Waiting for their catalog rows: {waiting}{late}; the oldest for {waited}")


def _print_status(settings: Settings, ledger: Ledger) -> None:
    now = ledger.now()
    report = ledger.instance_report()
    is_running = daemon_is_running(settings)
    words = _daemon_words(report, is_running, ledger)
    echo(f"Instance {ledger.worker} on {settings.completed_dir}: {words}")
    for line in report_lines(report) if is_running else ():
        echo(f"  {line}")
    if settings.shared_directory:
        echo("The uploads are those of every daemon on this directory; `status --all` tells of each.")
    print_table(["STATE", "UPLOADS"], [[state, str(number)] for state, number in ledger.counts().items()])
    if oldest := ledger.oldest_pending():
        waited = human_duration(now - oldest.discovered_at)
        echo(f"Oldest pending: {oldest.path}, for {waited} (id {oldest.id})")
    _print_gate(settings, ledger)
    if kept := orphans(report):
        echo(f"Objects whose catalog rows were deleted: {kept}; `video-uploader audit` tells which")
    if errors := ledger.last_errors(ERRORS_SHOWN):
        echo("Last errors:")
        for upload in errors:
            echo(f"  {upload.id} {upload.path} ({upload.state}): {upload.last_error}")


def _daemon_words(report: InstanceReport | None, is_running: bool, ledger: Ledger) -> str:
    if report is None:
        return "the daemon is running." if is_running else "the daemon has never run."
    ago = human_duration(ledger.now() - report.heartbeat_at)
    if is_running:
        return f"the daemon is running (process {report.pid}, heartbeat {ago} ago)."
    return f"the daemon is not running (last heartbeat {ago} ago)."


def report_lines(report: InstanceReport | None) -> list[str]:
    """What a running daemon last said about itself, in words."""
    if report is None:
        return []
    lines = [f"{name} paused: {reason}" for name, reason in paused_stages(report).items()]
    if settling := report.report.get("settling"):
        lines.append(f"{settling} files are not known to be finished yet")
    lines += _disk_words(report.report.get("disk"))
    internal_errors = report.report.get("internal_errors")
    if isinstance(internal_errors, Sequence):
        lines += [_internal_error_words(error) for error in internal_errors if isinstance(error, Mapping)]
    unreadable = report.report.get("unreadable")
    if isinstance(unreadable, Mapping):
        lines += [f"{path} cannot be looked into: {reason}" for path, reason in unreadable.items()]
    uploads = report.report.get("uploads")
    if isinstance(uploads, Sequence):
        lines += [_upload_words(upload) for upload in uploads if isinstance(upload, Mapping)]
    return lines


def _disk_words(disk: JSON) -> list[str]:
    if not isinstance(disk, Mapping) or not disk.get("is_high"):
        return []
    told = f"the disk of the directory is {disk['used_percent']} % full (DISK_PRESSURE_PERCENT"
    return [f"{told} is {disk['limit_percent']}): published copies go at once, unless KEEP_LOCAL keeps them"]


def _internal_error_words(error: Mapping[str, JSON]) -> str:
    return (
        f"internal error in thread {error['thread']} at {error['at']}: {error['error']} "
        f"({error['count']} since the start). The log has the traceback; please report it"
    )


def _upload_words(upload: Mapping[str, JSON]) -> str:
    size, sent = int(str(upload["size"])), int(str(upload["bytes_sent"]))
    rate, left = int(str(upload["bytes_per_second"])), upload["seconds_left"]
    rest = "" if left is None else f", {human_duration(timedelta(seconds=int(str(left))))} left"
    return f"{upload['path']}: {human_size(sent)} of {human_size(size)}, {human_size(rate)}/s{rest}"


def paused_stages(report: InstanceReport | None) -> Mapping[str, str]:
    """The paused parts of the daemon by name, with their reasons."""
    paused = report.report.get("paused") if report else None
    return {str(name): str(reason) for name, reason in paused.items()} if isinstance(paused, Mapping) else {}


def list_uploads(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only uploads in this state.")] = None,
    video: Annotated[str | None, typer.Option(metavar="UUID", help="Only uploads of this video.")] = None,
    as_json: AsJson = False,
) -> None:
    """The uploads, oldest first."""
    video_id = _canonical(video)
    with open_ledger(invocation(context).settings(), read_only=True) as ledger:
        uploads = ledger.iter_uploads(state=state, video_id=video_id)
        if as_json:
            print_json_array(upload.as_dict() for upload in uploads)
            return
        print(_LINE.format("ID", "STATE", "QUALITY", "SIZE", "SENT", "CHANGED", "PATH"))
        for upload in uploads:
            echo(_LINE.format(*_row(upload)))


def _canonical(video: str | None) -> str | None:
    try:
        return None if video is None else str(UUID(video))
    except ValueError as exc:
        raise CommandError(f"{video} is not a UUID; --video takes a video's id.", EXIT_USAGE) from exc


def _row(upload: Upload) -> list[str]:
    done = upload.state in {State.VERIFIED, State.PUBLISHED, State.RELEASED}
    sent = upload.size if done else upload.bytes_sent
    return [
        str(upload.id),
        "awaits-row" if upload.awaits_row else upload.state,
        upload.quality,
        human_size(upload.size),
        f"{100 * sent // upload.size if upload.size else 100 * done} %",
        human_time(upload.changed_at),
        upload.path,
    ]


def config(context: typer.Context, as_json: AsJson = False) -> None:
    """Every setting, secrets masked, and where its value came from."""
    called = invocation(context)
    reports = report_settings(called.settings(), called.env_file)
    if as_json:
        print_json({report.name: {"value": report.value, "source": report.source} for report in reports})
    else:
        print_table(["NAME", "VALUE", "FROM"], [[r.name, r.value, r.source] for r in reports])
