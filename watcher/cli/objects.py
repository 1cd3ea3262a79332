"""`video-uploader upload`, `exists` and `delete`: one object by hand, with or without a daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import typer

from db import DatabaseError, Invalidations
from storage import Placed, Renditions
from watcher.app.factories import path_template, storage_config
from watcher.cli.common import (
    EXIT_USAGE,
    CommandError,
    echo,
    invocation,
    open_ledger,
    path_below,
)
from watcher.detection.completeness import Finished, check_complete, describe_status
from watcher.filesystem import leases
from watcher.filesystem.openat import owned
from watcher.filesystem.tree import Tree
from watcher.renditions import Ignored, Rendition
from watcher.settings.model import Settings
from watcher.telemetry.formatting import printable

VideoId = Annotated[str | None, typer.Option(metavar="UUID", help="The video; goes with the other two.")]
Filename = Annotated[str | None, typer.Option(help="The source's name, without the quality.")]
Quality = Annotated[str | None, typer.Option(help="One of the words of QUALITIES.")]
ObjectPath = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="A path below COMPLETED_DIR, whether or not it is there."),
]


def upload(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A file below COMPLETED_DIR, or with the options any file.")
    ],
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
) -> None:
    """Upload one finished file, confirm that it arrived, and print its public URL."""
    settings = invocation(context).settings()
    given = _given(settings, video_id, filename, quality)
    below, relative = (
        (settings.completed_dir, _below(settings, path))
        if given is None
        else os.path.split(os.path.abspath(path))
    )
    rendition = given or _named(settings, relative)
    with (
        _finished(Tree(below, allows_hard_links=settings.allow_hard_links), relative) as fd,
        Renditions(storage_config(settings)) as renditions,
    ):
        placed = renditions.upload(fd, rendition.video_id, rendition.filename, rendition.quality)
    echo(placed.url)
    _tell_cdn(settings, placed)


def exists(
    context: typer.Context,
    path: ObjectPath = None,
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
) -> None:
    """Whether an object is there: prints its public URL, or exits with 1."""
    settings = invocation(context).settings()
    name = _name(_rendition(settings, path, video_id, filename, quality))
    with Renditions(storage_config(settings)) as renditions:
        _require(renditions, name)
        echo(renditions.url(*name))


def delete(
    context: typer.Context,
    path: ObjectPath = None,
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an object, after asking. While its local copy is there the daemon uploads it again."""
    settings = invocation(context).settings()
    name = _name(_rendition(settings, path, video_id, filename, quality))
    with Renditions(storage_config(settings)) as renditions:
        _require(renditions, name)
        if not yes:
            _ask(f"Delete {renditions.key(*name)}, which players find at {renditions.url(*name)}?")
        renditions.delete(*name)
        echo(f"Deleted {renditions.key(*name)}.")


def _rendition(
    settings: Settings, path: str | None, video_id: str | None, filename: str | None, quality: str | None
) -> Rendition:
    """What is meant, by a path or by the three options."""
    given = _given(settings, video_id, filename, quality)
    if (given is None) == (path is None):
        raise CommandError("Say which: a path, or --video-id, --filename and --quality.", EXIT_USAGE)
    return given or _named(settings, _below(settings, path or ""))


def _given(
    settings: Settings, video_id: str | None, filename: str | None, quality: str | None
) -> Rendition | None:
    """The rendition that the three options name; None if none of them is given."""
    if video_id is None and filename is None and quality is None:
        return None
    if video_id is None or filename is None or quality is None:
        raise CommandError("--video-id, --filename and --quality go together.", EXIT_USAGE)
    if quality not in settings.qualities:
        words = ", ".join(settings.qualities)
        raise CommandError(f"{quality} is not a quality; --quality takes one of {words}.", EXIT_USAGE)
    if not filename or "/" in filename:
        raise CommandError("--filename takes the name of a file, without a directory.", EXIT_USAGE)
    try:
        return Rendition(str(UUID(video_id)), filename, quality)
    except ValueError as exc:
        raise CommandError(f"{video_id} is not a UUID; --video-id takes a video's id.", EXIT_USAGE) from exc


def _below(settings: Settings, path: str) -> str:
    try:
        return path_below(settings, path)
    except CommandError as exc:
        raise CommandError(f"{exc} Give --video-id, --filename and --quality.", EXIT_USAGE) from exc


def _named(settings: Settings, relative: str) -> Rendition:
    """The rendition that a path below the watched directory names."""
    classified = path_template(settings).classify(relative)
    if isinstance(classified, Ignored):
        raise CommandError(
            f"{relative} names no rendition: {classified.reason}. Give --video-id, --filename and --quality.",
            EXIT_USAGE,
        )
    return classified


def _name(rendition: Rendition) -> tuple[str, str, str]:
    return rendition.video_id, rendition.filename, rendition.quality


@contextmanager
def _finished(tree: Tree, relative: str) -> Iterator[int]:
    """The open file, if it is finished and complete by the daemon's own rules; refused otherwise.

    Where the kernel cannot say whether anybody writes, whoever typed the command knows.
    """
    leases.ignore_sigio()
    seen = check_complete(tree, relative, previous=None, now=time.monotonic(), settle_seconds=0)
    if not isinstance(seen, Finished) or seen.finding is not None:
        raise CommandError(f"{relative} was not uploaded. {describe_status(seen)}")
    with owned(tree.open(relative)) as fd:
        if tree.identity(os.fstat(fd)) != seen.identity:
            raise CommandError(f"{relative} was not uploaded. It changed while it was looked at.")
        yield fd


def _require(renditions: Renditions, name: tuple[str, str, str]) -> None:
    if not renditions.exists(*name):
        raise CommandError(f"There is no object {renditions.key(*name)}.")


def _ask(question: str) -> None:
    """Go on only if somebody says yes; the question goes where errors go, not among the results."""
    print(printable(question), "[y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise CommandError("Nothing was deleted: nobody answered; --yes deletes without asking.")
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandError("Nothing was deleted.")


def _tell_cdn(settings: Settings, placed: Placed) -> None:
    """Have the daemon invalidate the path of an object that was replaced, in its own time."""
    if not placed.replaced or settings.cloudfront_distribution_id is None:
        return
    try:
        with open_ledger(settings, read_only=False) as ledger:
            Invalidations(ledger.database, ledger.instance).request(placed.key)
    except (CommandError, DatabaseError) as exc:
        raise CommandError(f"The object is in place, but the CDN will not be told of it: {exc}") from exc
