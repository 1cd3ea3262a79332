"""`video-uploader explain`: everything known about a file, why it is where it is, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

from db import Ledger, Upload
from watcher.app.factories import make_catalog, naming, path_template, tree_of
from watcher.catalog.row_matching import rows_of_file
from watcher.cli.common import (
    CommandError,
    daemon_is_running,
    echo,
    invocation,
    open_ledger,
    path_below,
)
from watcher.cli.show import paused_stages
from watcher.detection.completeness import describe_file
from watcher.filesystem.openat import TreeError
from watcher.filesystem.tree import FoundFile, Tree
from watcher.operations.next_step import at_gate, outlook
from watcher.renditions import Ignored, PathTemplate
from watcher.settings.model import Settings
from watcher.telemetry.formatting import human_size, human_time


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is explained, and with what."""

    settings: Settings
    ledger: Ledger
    template: PathTemplate
    tree: Tree | None

    def file(self, path: str) -> None:
        """Tell a path's whole story: the disk, the ledger row by row, what comes next."""
        echo(path)
        echo(f"  On disk: {self._on_disk(path)}")
        uploads = self.ledger.uploads(path=path) if _is_text(path) else []
        if not uploads:
            echo("  Ledger: nothing is recorded for it.")
        for upload in uploads:
            self._upload(upload)

    def catalog(self, video_id: str) -> None:
        """Tell what players are given for a video."""
        for row in make_catalog(self.settings, self.ledger).rows(video_id):
            echo(f"Catalog row {row.id}: {row.quality} {row.status}, url {row.url}")

    def _on_disk(self, path: str) -> str:
        classified = self.template.classify(path)
        if isinstance(classified, Ignored):
            return f"It is ignored: {classified.reason}."
        if self.tree is None:
            return "The watched directory cannot be looked into now."
        try:
            return describe_file(self.tree, path)
        except TreeError as exc:
            return f"Unknown: {exc}"

    def _upload(self, upload: Upload) -> None:
        echo(
            f"  Upload {upload.id}: {upload.state}, {upload.quality}, {human_size(upload.size)}, "
            f"as {upload.object_key}"
        )
        if upload.url:
            echo(f"    URL: {upload.url}")
        if upload.verified_at:
            proof = upload.checksum if upload.confirmed_by == "checksum" else upload.etag
            echo(f"    Confirmed {human_time(upload.verified_at)} by {upload.confirmed_by} {proof}")
        for event in self.ledger.events(upload.id):
            echo(f"    {human_time(event.at)} {event.event}" + (f": {event.detail}" if event.detail else ""))
        if upload.last_error:
            echo(f"    Why: {upload.last_error}")
        if upload.awaits_row:
            echo(f"    Waits: {self._at_gate(upload)}")
        report = self.ledger.instance_report()
        following = outlook(
            upload,
            now=self.ledger.now(),
            is_running=daemon_is_running(self.settings),
            paused=paused_stages(report),
            keep_local=self.settings.keep_local,
        )
        echo(f"    Next: {following}")

    def _at_gate(self, upload: Upload) -> str:
        rows = make_catalog(self.settings, self.ledger).rows(upload.video_id)
        return at_gate(
            upload,
            rows_of_file(upload, rows, naming(self.settings)),
            now=self.ledger.now(),
            timeout=timedelta(seconds=self.settings.catalog_row_timeout),
        )


def explain(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="PATH_OR_VIDEO_ID", help="A file, or a video's UUID.")],
) -> None:
    """Everything known about a file, or about all files of a video, in the order it happened."""
    settings = invocation(context).settings()
    with open_ledger(settings, read_only=True) as ledger:
        known = _Subject(settings, ledger, path_template(settings), _tree(settings))
        try:
            video_id = str(UUID(subject))
        except ValueError:
            path = path_below(settings, subject)
            known.file(path)
            classified = known.template.classify(path)
            if not isinstance(classified, Ignored):
                known.catalog(classified.video_id)
            return
        paths = sorted(set(_paths_of(known, video_id)))
        for path in paths:
            known.file(path)
        known.catalog(video_id)
        if not paths:
            raise CommandError(f"Nothing is known about video {video_id}, and it has no directory.")


def _is_text(path: str) -> bool:
    """Whether a database can hold the path: a name of undecodable bytes is never recorded."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def _tree(settings: Settings) -> Tree | None:
    try:
        return tree_of(settings)
    except TreeError:
        return None


def _paths_of(known: _Subject, video_id: str) -> Iterator[str]:
    for upload in known.ledger.iter_uploads(video_id=video_id):
        yield upload.path
    if known.tree is not None:
        for entry in known.tree.walk(video_id):
            if isinstance(entry, FoundFile):
                yield entry.path
