"""`video-uploader explain`: the history of a file, why it is in its state, and what happens next."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated
from uuid import UUID

import typer

from db import Ledger
from watcher.app.factories import make_tree
from watcher.cli.exit_codes import CommandError
from watcher.cli.ledger_access import daemon_is_running, open_ledger, path_below, settings_of
from watcher.cli.output import echo
from watcher.filesystem import FoundFile, Tree, TreeError
from watcher.operations import Storyteller, UploadStory
from watcher.operations.daemons import paused_stages
from watcher.renditions import Ignored
from watcher.settings import Settings
from watcher.telemetry import human_size, human_time


def explain(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="PATH_OR_VIDEO_ID", help="A file, or a video's UUID.")],
) -> None:
    """Show everything known about a file, or about all files of a video, in chronological order."""
    settings = settings_of(context)
    with open_ledger(settings, read_only=True) as ledger:
        tree = _tree(settings)
        storyteller = Storyteller(
            settings,
            ledger,
            tree,
            is_running=partial(daemon_is_running, settings),
            paused=lambda: paused_stages(ledger.instance_report()),
        )
        try:
            video_id = str(UUID(subject))
        except ValueError:
            path = path_below(settings, subject)
            _print_file(storyteller, path)
            classified = storyteller.template.classify(path)
            if not isinstance(classified, Ignored):
                _print_catalog(storyteller, classified.video_id)
            return
        paths = sorted(set(_paths_of(ledger, tree, video_id)))
        for path in paths:
            _print_file(storyteller, path)
        _print_catalog(storyteller, video_id)
        if not paths:
            raise CommandError(
                f"Nothing is known about video {video_id}, and it has no directory; `list --videos` shows "
                "those that have uploads."
            )


def _print_file(storyteller: Storyteller, path: str) -> None:
    """Print the file on disk, its uploads with their events, and the next step of each."""
    echo(path)
    echo(f"  On disk: {storyteller.on_disk(path)}")
    stories = storyteller.uploads(path)
    if not stories:
        echo("  Ledger: no uploads are recorded.")
    for story in stories:
        _print_upload(story)


def _print_upload(story: UploadStory) -> None:
    upload = story.upload
    echo(
        f"  Upload {upload.id}: {upload.state}, {upload.quality}, {human_size(upload.size)}, "
        f"as {upload.object_key}"
    )
    if upload.url:
        echo(f"    URL: {upload.url}")
    if story.confirmed:
        echo(f"    {story.confirmed}")
    for event in story.events:
        echo(f"    {human_time(event.at)} {event.event}" + (f": {event.detail}" if event.detail else ""))
    if upload.last_error:
        echo(f"    Why: {upload.last_error}")
    if story.waits:
        echo(f"    Waits: {story.waits}")
    echo(f"    Next: {story.next_step}")


def _print_catalog(storyteller: Storyteller, video_id: str) -> None:
    for row in storyteller.catalog_rows(video_id):
        echo(f"Catalog row {row.id}: {row.quality} {row.status}, url {row.url}")


def _tree(settings: Settings) -> Tree | None:
    try:
        return make_tree(settings)
    except TreeError:
        return None


def _paths_of(ledger: Ledger, tree: Tree | None, video_id: str) -> Iterator[str]:
    for upload in ledger.iter_uploads(video_id=video_id):
        yield upload.path
    if tree is not None:
        for entry in tree.walk(video_id):
            if isinstance(entry, FoundFile):
                yield entry.path
