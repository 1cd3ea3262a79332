"""`video-uploader bucket`: what the bucket says about itself, against what it should say."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from storage import (
    BucketAdmin,
    BucketDocument,
    DesiredBucket,
    Document,
    Documents,
    StorageError,
    Transition,
    desired_documents,
    is_unsupported,
)
from watcher.app.factories import make_storage_config
from watcher.cli.common import EXIT_FAILED, echo, echo_error, invocation
from watcher.settings.model import Settings

bucket = typer.Typer(
    help="What the bucket says about itself: public reading, CORS, lifecycle.", no_args_is_help=True
)


@bucket.command("setup")
def setup(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
    ] = False,
) -> None:
    """Create the bucket if it is missing, and merge in what players and uploads need of it."""
    settings = invocation(context).settings()
    with BucketAdmin(make_storage_config(settings)) as admin:
        is_new = not admin.exists()
        if is_new:
            echo(f"{'Would create' if dry_run else 'Creating'} the bucket {_name(settings)}.")
            if not dry_run:
                admin.create()
        present = admin.new_bucket if is_new and dry_run else admin.read()
        refused = _bring_up_to_date(
            admin, present, desired_documents(present, bucket_wishes(settings)), dry_run=dry_run
        )
    for part in set(BucketDocument) - present.keys():
        echo(f"{part}: this server has no such thing.")
    if dry_run:
        echo("Nothing was written.")
    if refused:
        raise typer.Exit(EXIT_FAILED)


@bucket.command("show")
def show(context: typer.Context) -> None:
    """The bucket's documents as they are, and what `bucket setup` would change in them."""
    settings = invocation(context).settings()
    with BucketAdmin(make_storage_config(settings)) as admin:
        if not admin.exists():
            echo(f"There is no bucket {_name(settings)}. `bucket setup` creates it.")
            return
        present = admin.read()
    desired = desired_documents(present, bucket_wishes(settings))
    for part in BucketDocument:
        if part not in present:
            echo(f"{part}: this server has no such thing.")
        elif present[part] == desired[part]:
            echo(f"{part}: as wanted.")
            _say_lines(_lines(present[part]))
        else:
            echo(f"{part}: not as wanted.")
            _say_lines(diff(part, present[part], desired[part]))


def bucket_wishes(settings: Settings) -> DesiredBucket:
    """What the settings want of the bucket."""
    days, storage_class = settings.lifecycle_transition_days, settings.lifecycle_transition_class
    return DesiredBucket(
        bucket=settings.aws_s3_bucket,
        prefix=settings.aws_s3_videos_prefix,
        region=settings.aws_region,
        uses_acl=settings.aws_s3_acl != "none",
        cdn_domain=settings.cloudfront_domain,
        cors_origins=settings.cors_origins,
        transition=None if days is None or storage_class is None else Transition(days, storage_class),
        expire_days=settings.lifecycle_expire_days,
    )


def diff(part: BucketDocument, before: Document | None, after: Document | None) -> Iterator[str]:
    """A unified diff of a document as it is and as it should be, with its whole text as context."""
    old, new = _lines(before), _lines(after)
    context = max(len(old), len(new))
    return difflib.unified_diff(old, new, f"{part} (now)", f"{part} (wanted)", n=context, lineterm="")


def _bring_up_to_date(
    admin: BucketAdmin, present: Documents, desired: Documents, *, dry_run: bool
) -> list[BucketDocument]:
    """Write what differs, and show it; returns the parts that the server refuses to know."""
    refused = []
    for part, document in desired.items():
        if document is None or document == present[part]:
            echo(f"{part}: as wanted.")
            continue
        echo(f"{part}: {'would be changed' if dry_run else 'is changed'}.")
        _say_lines(diff(part, present[part], document))
        try:
            if not dry_run:
                admin.write(part, document)
        except StorageError as exc:
            if not is_unsupported(exc):
                raise
            echo_error(f"video-uploader: {part} was not changed: this server does not know how ({exc.code}).")
            refused.append(part)
    return refused


def _name(settings: Settings) -> str:
    return f"{settings.aws_s3_bucket} in {settings.aws_region}"


def _lines(document: Document | None) -> list[str]:
    if document is None:
        return []
    # Servers answer with the fields in an order of their own.
    return json.dumps(document, indent=2, sort_keys=True, default=_plain, ensure_ascii=False).splitlines()


def _plain(value: object) -> str:
    """What JSON has no form for: the dates of lifecycle rules."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _say_lines(lines: Iterator[str] | list[str]) -> None:
    for line in lines:
        echo(f"  {line}")
