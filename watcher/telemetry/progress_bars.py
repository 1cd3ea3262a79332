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
        BarColumn(),
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
                tasks[upload_id] = progress.add_task(escape(printable(snapshot.path)), total=snapshot.size)
            progress.update(tasks[upload_id], completed=snapshot.bytes_sent)
