"""`video-uploader explain`: the history of a file, why it is in its state, and what happens next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

from db import Ledger, State, Upload
from watcher.app.factories import (
    make_catalog,
    make_live_acceptance,
    make_naming,
    make_path_template,
    make_tree,
)
from watcher.catalog.row_matching import describe_others, rows_of_file
from watcher.cli.exit_codes import CommandError
from watcher.cli.ledger_access import daemon_is_running, open_ledger, path_below, settings_of
from watcher.cli.output import echo
from watcher.cli.status_all import paused_stages
from watcher.detection.completeness import describe_file
from watcher.errors import Code
from watcher.filesystem import FoundFile, Packages, Tree, TreeError
from watcher.operations import describe_gate, describe_next_step
from watcher.renditions import Ignored, PathTemplate
from watcher.settings import Settings
from watcher.telemetry import human_size, human_time


@dataclass(frozen=True, slots=True)
class _Explainer:
    """Prints what is known about files and videos."""

    settings: Settings
    ledger: Ledger
    template: PathTemplate
    tree: Tree | None

    def print_file(self, path: str) -> None:
        """Print the file on disk, its uploads with their events, and the next step of each."""
        echo(path)
        echo(f"  On disk: {self._on_disk(path)}")
        uploads = self.ledger.uploads(path=path) if _is_text(path) else []
        if not uploads:
            echo("  Ledger: no uploads are recorded.")
        for upload in uploads:
            self._print_upload(upload)

    def print_catalog(self, video_id: str) -> None:
        """Print the catalog rows of a video, whose URLs players get."""
        for row in make_catalog(self.settings, self.ledger).rows(video_id):
            echo(f"Catalog row {row.id}: {row.quality} {row.status}, url {row.url}")

    def _on_disk(self, path: str) -> str:
        classified = self.template.classify(path)
        if isinstance(classified, Ignored):
            return f"It is ignored: {classified.reason}."
        if self.tree is None:
            return "The watched directory cannot be read now."
        try:
            return describe_file(self.tree, path, make_live_acceptance(self.settings, self.template))
        except TreeError as exc:
            return f"Unknown: {exc}"

    def _print_upload(self, upload: Upload) -> None:
        echo(
            f"  Upload {upload.id}: {upload.state}, {upload.quality}, {human_size(upload.size)}, "
            f"as {upload.object_key}"
        )
        if upload.url:
            echo(f"    URL: {upload.url}")
        if upload.verified_at:
            proof = f"{upload.confirmed_by} {upload.etag}"
            if upload.confirmed_by == "checksum":
                proof = f"checksum {upload.checksum}"
            elif upload.confirmed_by == "reading":
                proof = f"reading it back, with the checksum {upload.checksum}, under the ETag {upload.etag}"
            echo(f"    Confirmed {human_time(upload.verified_at)} by {proof}")
        for event in self.ledger.events(upload.id):
            echo(f"    {human_time(event.at)} {event.event}" + (f": {event.detail}" if event.detail else ""))
        if upload.last_error:
            echo(f"    Why: {upload.last_error}")
        if upload.awaits_row:
            echo(f"    Waits: {self._describe_gate(upload)}")
        if upload.state is State.PUBLISHED and upload.error_code == Code.CATALOG_BUSY:
            catalog = make_catalog(self.settings, self.ledger)
            if reason := catalog.reason_to_keep_copy(upload):
                echo(f"    Waits: {reason}")
        report = self.ledger.instance_report()
        next_step = describe_next_step(
            upload,
            now=self.ledger.now(),
            is_running=daemon_is_running(self.settings),
            paused=paused_stages(report),
            keep_local=self.settings.keep_local,
        )
        echo(f"    Next: {next_step}")

    def _describe_gate(self, upload: Upload) -> str:
        rows = make_catalog(self.settings, self.ledger).rows(upload.video_id)
        return describe_gate(
            upload,
            rows_of_file(upload, rows, make_naming(self.settings), ledger=self.ledger),
            now=self.ledger.now(),
            timeout=timedelta(seconds=self.settings.catalog_row_timeout),
            others=describe_others(upload, rows),
        )


def explain(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="PATH_OR_VIDEO_ID", help="A file, or a video's UUID.")],
) -> None:
    """Show everything known about a file, or about all files of a video, in chronological order."""
    settings = settings_of(context)
    with open_ledger(settings, read_only=True) as ledger:
        tree = _tree(settings)
        template = make_path_template(settings, None if tree is None else Packages(tree))
        explainer = _Explainer(settings, ledger, template, tree)
        try:
            video_id = str(UUID(subject))
        except ValueError:
            path = path_below(settings, subject)
            explainer.print_file(path)
            classified = explainer.template.classify(path)
            if not isinstance(classified, Ignored):
                explainer.print_catalog(classified.video_id)
            return
        paths = sorted(set(_paths_of(explainer, video_id)))
        for path in paths:
            explainer.print_file(path)
        explainer.print_catalog(video_id)
        if not paths:
            raise CommandError(f"Nothing is known about video {video_id}, and it has no directory.")


def _is_text(path: str) -> bool:
    """Whether a database can hold the path: undecodable names (PEP 383) are never recorded."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def _tree(settings: Settings) -> Tree | None:
    try:
        return make_tree(settings)
    except TreeError:
        return None


def _paths_of(explainer: _Explainer, video_id: str) -> Iterator[str]:
    for upload in explainer.ledger.iter_uploads(video_id=video_id):
        yield upload.path
    if explainer.tree is not None:
        for entry in explainer.tree.walk(video_id):
            if isinstance(entry, FoundFile):
                yield entry.path
