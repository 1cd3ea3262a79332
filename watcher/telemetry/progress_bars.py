"""Progress bars on a terminal, below the log lines: one for every running upload."""

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
BAR_WIDTH = 14
BESIDE_NAME = BAR_WIDTH + 40
"""Columns for bar, size, speed and time left, with what separates them."""
MIN_NAME = 12


def elided(path: str, width: int) -> str:
    """The name of a file in at most `width` columns: its directory goes first, then the middle of the name.

    The end stays, because the quality is there.
    """
    if len(path) <= width:
        return path
    name = path.rpartition("/")[2]
    if len(name) + 2 <= width:
        return f"…/{name}"
    end = (width - 1) * 2 // 3
    return name if len(name) <= width else f"{name[: width - 1 - end]}…{name[-end:]}"


@contextmanager
def show_progress(transfer_progress: TransferProgress) -> Iterator[None]:
    """Draw a bar for each upload during a `with` block, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    stopping = threading.Event()
    # rich redirects standard error, so that log lines are printed above the bars.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(BAR_WIDTH),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stderr=True,
    ) as progress:
        refresher = threading.Thread(
            target=_refresh_until, args=(progress, transfer_progress, stopping), name="display", daemon=True
        )
        refresher.start()
        try:
            yield
        finally:
            stopping.set()
            refresher.join()


def _refresh_until(
    progress: Progress, transfer_progress: TransferProgress, stopping: threading.Event
) -> None:
    tasks: dict[int, TaskID] = {}
    while not stopping.wait(REFRESH_SECONDS):
        snapshots = {snapshot.upload_id: snapshot for snapshot in transfer_progress.snapshots()}
        for upload_id in tasks.keys() - snapshots.keys():
            progress.remove_task(tasks.pop(upload_id))
        for upload_id, snapshot in snapshots.items():
            if upload_id not in tasks:
                width = max(MIN_NAME, progress.console.width - BESIDE_NAME)
                name = escape(elided(printable(snapshot.path), width))
                tasks[upload_id] = progress.add_task(name, total=snapshot.size)
            progress.update(tasks[upload_id], completed=snapshot.bytes_sent)
