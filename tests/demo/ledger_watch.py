"""Watching the daemon through its ledger."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from db import Database, DatabaseError, LedgerReader, State, Upload
from tests.demo.setup import INSTANCE, Rendition

_LOOKS_PER_SECOND = 10

_WORDS = {State.PENDING: "uploading", State.VERIFIED: "confirmed"}
"""What a state is called here, where it is not called by its own name."""


class Watch:
    """Reads the ledger of a daemon that may not have made it yet."""

    def __init__(self, database: Database) -> None:
        self._ledger = LedgerReader(database, INSTANCE)
        self._known: dict[str, Upload] = {}
        self.trouble: str | None = None
        """Why the last look failed, if it did."""

    def look(self) -> dict[str, Upload]:
        """The newest upload of each path; what was known before if the ledger cannot be read just now."""
        try:
            self._known = {upload.path: upload for upload in self._ledger.uploads()}
        except DatabaseError as exc:
            self.trouble = str(exc)
        else:
            self.trouble = None
        return self._known


class ProgressView:
    """A progress bar for each rendition."""

    def __init__(self, console: Console, completed: Path, renditions: Iterable[Rendition]) -> None:
        self._completed = completed
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[stage]}"),
            console=console,
        )
        self._tasks = {rendition: self._add(rendition) for rendition in renditions}

    def show(self, uploads: dict[str, Upload]) -> None:
        """Draw what the ledger and the directory say."""
        for rendition, task in self._tasks.items():
            upload = uploads.get(rendition.path)
            if upload is None:
                exists = (self._completed / rendition.path).exists()
                self.progress.update(task, stage="being written" if exists else "awaited")
                continue
            # An object that is adopted is not sent.
            sent = upload.bytes_sent if upload.state is State.PENDING else upload.size
            word = _WORDS.get(upload.state, upload.state.value)
            self.progress.update(task, total=upload.size, completed=sent, stage=word)

    def _add(self, rendition: Rendition) -> TaskID:
        name = rendition.path.rpartition("/")[2]
        return self.progress.add_task(name, total=None, stage="awaited")


def watch(
    watcher: Watch,
    view: ProgressView,
    renditions: list[Rendition],
    *,
    compressor: subprocess.Popen[str],
    daemon: subprocess.Popen[str],
    seconds: float,
) -> str | None:
    """Show the work until every rendition has come to its end; returns why it was not waited for, if so."""
    deadline = time.monotonic() + seconds
    with view.progress:
        while True:
            uploads = watcher.look()
            view.show(uploads)
            ended = [
                rendition
                for rendition in renditions
                if (upload := uploads.get(rendition.path)) and not upload.state.is_open
            ]
            if len(ended) == len(renditions) and compressor.poll() == 0:
                return None
            if compressor.poll():
                return f"The compressor ended with {compressor.returncode}."
            if daemon.poll() is not None:
                return f"The daemon ended with {daemon.returncode}."
            if time.monotonic() > deadline:
                return " ".join(filter(None, [f"Time is up after {seconds:.0f} s.", watcher.trouble]))
            time.sleep(1 / _LOOKS_PER_SECOND)
