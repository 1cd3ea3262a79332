"""Progress bars on a terminal, below the log lines: one for every upload under way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from watcher.telemetry.formatting import printable
from watcher.telemetry.transfer_progress import TransferProgress

REFRESH_SECONDS = 0.25


@contextmanager
def showing(transfer_progress: TransferProgress) -> Iterator[None]:
    """Draw the board for the length of a `with` block, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    stopping = threading.Event()
    # Live output and log lines share the terminal: rich takes standard error over and keeps them apart.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stderr=True,
    ) as progress:
        drawer = threading.Thread(
            target=_draw_until, args=(progress, transfer_progress, stopping), name="display", daemon=True
        )
        drawer.start()
        try:
            yield
        finally:
            stopping.set()
            drawer.join()


def _draw_until(progress: Progress, transfer_progress: TransferProgress, stopping: threading.Event) -> None:
    tasks: dict[int, TaskID] = {}
    while not stopping.wait(REFRESH_SECONDS):
        lines = {line.upload_id: line for line in transfer_progress.lines()}
        for upload_id in tasks.keys() - lines.keys():
            progress.remove_task(tasks.pop(upload_id))
        for upload_id, line in lines.items():
            if upload_id not in tasks:
                tasks[upload_id] = progress.add_task(escape(printable(line.path)), total=line.size)
            progress.update(tasks[upload_id], completed=line.bytes_sent)
