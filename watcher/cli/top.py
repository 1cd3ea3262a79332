"""`video-uploader top`: what `status` says, live on a whole terminal."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from db import DatabaseError, Ledger
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_is_running, open_ledger, settings_of
from watcher.cli.status import ERRORS_SHOWN, daemon_state
from watcher.operations.daemons import paused_stages
from watcher.settings import Settings
from watcher.telemetry import human_duration, human_size, printable
from watcher.telemetry.progress_bars import elided

REFRESH_SECONDS = 1.0
WIDTH = 80
"""What is shown fits into so many columns, and into no more lines than the terminal has."""
NAME_WIDTH, BAR_WIDTH = 30, 14


def top(context: typer.Context) -> None:
    """Show live what the daemon does, on a whole terminal, until q or Ctrl-C."""
    settings = settings_of(context)
    if not sys.stdout.isatty():
        raise CommandError("top needs a terminal; `status --watch` and `status --json` do not.", EXIT_USAGE)
    with (
        open_ledger(settings, read_only=True) as ledger,
        _keys_unbuffered(),
        Live(screen=True, auto_refresh=False) as live,
    ):
        try:
            is_over = False
            while not is_over:
                live.update(screen(settings, ledger), refresh=True)
                is_over = _is_quit_pressed(REFRESH_SECONDS)
        except KeyboardInterrupt:
            return


def screen(settings: Settings, ledger: Ledger) -> Group:
    """What is shown now, at most `WIDTH` columns wide; the most important stands first."""
    try:
        report = ledger.instance_report()
        is_running = daemon_is_running(settings)
        told = report.report if report is not None and is_running else {}
        parts: list[RenderableType] = [
            _line(f"Instance {ledger.worker}: {daemon_state(report, is_running, ledger)}", "bold")
        ]
        if told:
            rate = human_size(float(str(told.get("bytes_per_second") or 0)))
            published = told.get("published_per_minute") or 0
            parts.append(_line(f"{rate}/s sent, {published} published a minute; q ends this"))
        for name, reason in paused_stages(report).items() if is_running else ():
            parts.append(_line(f"{name} paused: {reason}", "bold red"))
        queue, errors = _queue(ledger), ledger.last_errors(ERRORS_SHOWN)
    except DatabaseError as exc:
        return Group(_line(f"The ledger does not answer: {exc}", "bold red"))
    uploads = told.get("uploads")
    moving = [one for one in uploads if isinstance(one, Mapping)] if isinstance(uploads, Sequence) else []
    parts += [_line(""), _moving(moving) if moving else _line("Nothing is being sent."), _line(""), queue]
    if errors:
        parts += [_line(""), _line("Last errors", "bold")]
        parts += [_line(f"{upload.path} ({upload.state}): {upload.last_error}") for upload in errors]
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    line = Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def _moving(uploads: Sequence[Mapping[str, object]]) -> Table:
    """A bar for each upload whose bytes move."""
    table = Table.grid(padding=(0, 1))
    for upload in uploads:
        size, sent = int(str(upload["size"])), int(str(upload["bytes_sent"]))
        left = upload["seconds_left"]
        rest = "" if left is None else human_duration(timedelta(seconds=int(str(left))))
        table.add_row(
            Text(printable(elided(str(upload["path"]), NAME_WIDTH)), no_wrap=True),
            ProgressBar(total=max(size, 1), completed=sent, width=BAR_WIDTH),
            Text(human_size(size), justify="right", no_wrap=True),
            Text(f"{human_size(float(str(upload['bytes_per_second'])))}/s", justify="right", no_wrap=True),
            Text(rest, justify="right", no_wrap=True),
        )
    return table


def _queue(ledger: Ledger) -> Table:
    """How many uploads are in each state, their size, and since when the first of them waits."""
    sizes, since, now = ledger.sizes(), ledger.waiting_since(), ledger.now()
    table = Table("STATE", "UPLOADS", "SIZE", "OLDEST", box=None, pad_edge=False, header_style="bold")
    for state, number in ledger.counts().items():
        waited = human_duration(now - since[state]) if state in since else ""
        table.add_row(state.value, str(number), human_size(sizes[state]) if number else "", waited)
    return table


@contextmanager
def _keys_unbuffered() -> Iterator[None]:
    """Have keys arrive one by one and unseen during a `with` block, if standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_quit_pressed(seconds: float) -> bool:
    """Wait for so long; returns at once, and true, when q is pressed or the terminal is gone."""
    deadline = time.monotonic() + seconds
    inputs = [sys.stdin] if sys.stdin.isatty() else []
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select(inputs, [], [], left)
        if readable and sys.stdin.read(1) in {"q", "Q", ""}:
            return True
    return False
