"""`video-uploader upload`, `exists` and `delete`: act on one object, with or without a daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated
from uuid import UUID

import typer

from db import DatabaseError, Invalidations
from storage import RenditionStore, StorageError, UploadedRendition, rendition_filename
from watcher.app.factories import make_naming, make_path_template, make_storage_config
from watcher.app.known_dialect import known_dialect
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import open_ledger, path_below, settings_of
from watcher.cli.output import echo, echo_error
from watcher.detection import check_complete
from watcher.detection.completeness import Busy, Finished, QuietPeriod, describe_status
from watcher.filesystem import Packages, Tree, leases
from watcher.filesystem.openat import Owned
from watcher.renditions import ORIGINAL, Ignored, Rendition
from watcher.settings import Settings
from watcher.telemetry import printable

VideoId = Annotated[
    str | None, typer.Option(metavar="UUID", help="The video's id; requires --filename and --quality.")
]
Filename = Annotated[
    str | None, typer.Option(help="The source's file name; its renditions are stored as .mp4.")
]
Quality = Annotated[str | None, typer.Option(help="One of QUALITIES.")]
ObjectPath = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="A path below COMPLETED_DIR; the file need not exist."),
]


def upload(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A file below COMPLETED_DIR, or any file if the options are given."
        ),
    ],
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Upload it although a process writes it, it is incomplete, or is no video by its name.",
        ),
    ] = False,
) -> None:
    """Upload one finished file, confirm the object, and print its public URL."""
    settings = settings_of(context)
    given = _from_options(settings, video_id, filename, quality)
    if given is not None:
        _require_extension(settings, path, force=force)
    below, relative = (
        (settings.completed_dir, _relative(settings, path))
        if given is None
        else os.path.split(os.path.abspath(path))
    )
    tree = Tree(below, allows_hard_links=settings.allow_hard_links)
    rendition = given or _from_path(settings, relative, Packages(tree))
    stored_as = rendition.filename
    if given is not None:
        stored_as = rendition_filename(given.filename, given.quality, relative)
    with (
        _open_finished(
            tree,
            relative,
            accepts_live=settings.accept_live_containers and rendition.quality == ORIGINAL,
            settle_seconds=settings.settle_seconds,
            force=force,
        ) as fd,
        RenditionStore(make_storage_config(settings), known_dialect(settings)) as renditions,
    ):
        placed = renditions.upload(fd, rendition.video_id, stored_as, rendition.quality)
    echo(placed.url)
    _request_invalidation(settings, placed)


def exists(
    context: typer.Context,
    path: ObjectPath = None,
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
) -> None:
    """Print the public URL of an object, or exit with 1 if it does not exist."""
    with _existing(settings_of(context), path, video_id, filename, quality) as (renditions, keys):
        echo(renditions.url(keys[0]))


def delete(
    context: typer.Context,
    path: ObjectPath = None,
    video_id: VideoId = None,
    filename: Filename = None,
    quality: Quality = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete an object after confirmation. The daemon uploads it again if its local copy still exists."""
    with _existing(settings_of(context), path, video_id, filename, quality) as (renditions, keys):
        if not yes:
            found = " and ".join(f"{key}, which players find at {renditions.url(key)}" for key in keys)
            _confirm(f"Delete {found}?")
        for key in keys:
            renditions.delete(key)
            echo(f"Deleted {key}.")


@contextmanager
def _existing(
    settings: Settings, path: str | None, video_id: str | None, filename: str | None, quality: str | None
) -> Iterator[tuple[RenditionStore, list[str]]]:
    """Open the store and find the objects that a path or the three options name; there is at least one.

    A path names one object. The options name a source, whose rendition can be stored under two keys.
    """
    given = _from_options(settings, video_id, filename, quality)
    if (given is None) == (path is None):
        raise CommandError("Give either a path, or --video-id, --filename and --quality.", EXIT_USAGE)
    rendition = given or _from_path(settings, _relative(settings, path or ""))
    name = rendition.video_id, rendition.filename, rendition.quality
    with RenditionStore(make_storage_config(settings)) as renditions:
        keys = renditions.keys_of_source(*name) if given else (renditions.key(*name),)
        found = [key for key in keys if renditions.exists(key)]
        if not found:
            bucket = settings.aws_s3_bucket
            raise CommandError(f"The object {keys[0]} does not exist in the bucket {bucket}.")
        yield renditions, found


def _from_options(
    settings: Settings, video_id: str | None, filename: str | None, quality: str | None
) -> Rendition | None:
    """Return the rendition that the three options name; None if none of them is given."""
    if video_id is None and filename is None and quality is None:
        return None
    if video_id is None or filename is None or quality is None:
        options = {"--video-id": video_id, "--filename": filename, "--quality": quality}
        missing = " and ".join(name for name, value in options.items() if value is None)
        raise CommandError(f"{', '.join(options)} must be given together; add {missing}.", EXIT_USAGE)
    if quality not in settings.qualities:
        qualities = ", ".join(settings.qualities)
        raise CommandError(f"{quality} is not a quality; --quality takes one of {qualities}.", EXIT_USAGE)
    try:
        rendition = Rendition(str(UUID(video_id)), filename, quality)
        make_naming(settings).key(rendition)
    except ValueError as exc:
        raise CommandError(f"{video_id} is not a UUID; --video-id takes a video's id.", EXIT_USAGE) from exc
    except StorageError as exc:
        raise CommandError(exc.hint, EXIT_USAGE) from exc
    return rendition


def _relative(settings: Settings, path: str) -> str:
    try:
        return path_below(settings, path)
    except CommandError as exc:
        raise CommandError(f"{exc} Give --video-id, --filename and --quality.", EXIT_USAGE) from exc


def _from_path(settings: Settings, relative: str, packages: Packages | None = None) -> Rendition:
    """Return the rendition that a path below the watched directory names."""
    classified = make_path_template(settings, packages).classify(relative)
    if isinstance(classified, Ignored):
        raise CommandError(
            f"{relative} names no rendition: {classified.reason}. Give --video-id, --filename and --quality.",
            EXIT_USAGE,
        )
    return classified


def _require_extension(settings: Settings, path: str, *, force: bool) -> None:
    """Refuse a file whose name is that of no video, as the daemon does."""
    extension = os.path.splitext(path)[1]
    if extension.lower() not in {known.lower() for known in settings.video_extensions}:
        reason = f"Its extension {extension or '(none)'} is not in VIDEO_EXTENSIONS."
        _refuse_unless(force, os.path.basename(path), reason)


@contextmanager
def _open_finished(
    tree: Tree, relative: str, *, accepts_live: bool, settle_seconds: float, force: bool
) -> Iterator[int]:
    """Open a file that is finished and complete by the daemon's rules; with `force`, any that can be read."""
    leases.ignore_sigio()
    check = partial(
        check_complete, tree, relative, settle_seconds=settle_seconds, accepts_live=lambda _: accepts_live
    )
    status = check(previous=None, now=time.monotonic())
    if isinstance(status, QuietPeriod) and not force:
        time.sleep(max(0.0, status.until - time.monotonic()))
        status = check(previous=status.observation, now=max(status.until, time.monotonic()))
    if not isinstance(status, Finished) or status.finding is not None:
        if not isinstance(status, Finished | Busy | QuietPeriod):
            raise CommandError(f"{relative} was not uploaded. {describe_status(status)}")
        _refuse_unless(force, relative, describe_status(status))
    with Owned(tree.open(relative)) as fd:
        if isinstance(status, Finished) and tree.identity(os.fstat(fd)) != status.identity:
            _refuse_unless(force, relative, "It changed during the check.")
        yield fd


def _refuse_unless(force: bool, name: str, reason: str) -> None:
    """Say why a file is uploaded by force only; unless it is, raise `CommandError`."""
    if not force:
        raise CommandError(f"{name} was not uploaded. {reason} --force uploads it all the same.")
    echo_error(f"video-uploader: {name} is uploaded by --force. {reason}")


def _confirm(question: str) -> None:
    """Ask on standard error; raises `CommandError` unless the user agrees."""
    print(printable(question), "[y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise CommandError("Nothing was deleted: there was no answer; --yes deletes without asking.")
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandError(f"Nothing was deleted: the answer was {answer.strip()!r}, not y.")


def _request_invalidation(settings: Settings, placed: UploadedRendition) -> None:
    """Record an invalidation of a replaced object for the daemon to request."""
    if not placed.replaced or settings.cloudfront_distribution_id is None:
        return
    try:
        with open_ledger(settings, read_only=False) as ledger:
            Invalidations(ledger.database, ledger.instance).request(placed.key)
    except (CommandError, DatabaseError) as exc:
        raise CommandError(
            f"The object is in place, but its CDN invalidation was not recorded: {exc}"
        ) from exc
