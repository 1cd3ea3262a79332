"""`video-uploader bucket`: compares the bucket's configuration with the desired one, and sets it up."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from storage import (
    NEW_ON_AWS,
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
from watcher.cli.exit_codes import EXIT_FAILED
from watcher.cli.ledger_access import settings_of
from watcher.cli.output import echo, echo_error
from watcher.settings import Settings

bucket = typer.Typer(
    help="The bucket's configuration: public access, CORS, lifecycle.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@bucket.command("setup")
def setup(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
    ] = False,
) -> None:
    """Create the bucket if it is missing, and merge what uploads and players need into its configuration."""
    settings = settings_of(context)
    with BucketAdmin(make_storage_config(settings)) as admin:
        is_new = not admin.exists()
        if is_new:
            echo(f"{'Would create' if dry_run else 'Creating'} the bucket {_name(settings)}.")
            if not dry_run:
                admin.create()
        uncertain: set[BucketDocument] = set()
        if is_new and dry_run:
            present = NEW_ON_AWS
            uncertain = {part for part in present if present[part] != admin.new_bucket[part]}
        else:
            present = admin.read()
        desired = desired_documents(present, desired_bucket(settings))
        refused = _apply(admin, present, desired, dry_run=dry_run, uncertain=uncertain)
    for part in set(BucketDocument) - present.keys():
        echo(f"{part}: not supported by this server.")
    if dry_run:
        echo("Nothing was written.")
    if refused:
        raise typer.Exit(EXIT_FAILED)


@bucket.command("show")
def show(context: typer.Context) -> None:
    """Show the bucket's configuration, and what `bucket setup` would change in it."""
    settings = settings_of(context)
    with BucketAdmin(make_storage_config(settings)) as admin:
        if not admin.exists():
            echo(f"There is no bucket {_name(settings)}. `bucket setup` creates it.")
            return
        present = admin.read()
    desired = desired_documents(present, desired_bucket(settings))
    for part in BucketDocument:
        if part not in present:
            echo(f"{part}: not supported by this server.")
        elif present[part] == desired[part]:
            echo(f"{part}: as required.")
            _echo_lines(_lines(present[part]))
        else:
            echo(f"{part}: not as required.")
            _echo_lines(diff(part, present[part], desired[part]))


def desired_bucket(settings: Settings) -> DesiredBucket:
    """Return the configuration that the settings ask for."""
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
    """Return a unified diff between the present and the desired document, with full context."""
    old, new = _lines(before), _lines(after)
    context = max(len(old), len(new))
    return difflib.unified_diff(old, new, f"{part} (present)", f"{part} (desired)", n=context, lineterm="")


def _apply(
    admin: BucketAdmin,
    present: Documents,
    desired: Documents,
    *,
    dry_run: bool,
    uncertain: set[BucketDocument],
) -> list[BucketDocument]:
    """Write and show what differs; returns the documents that the server does not support.

    It is not known whether a new bucket of this server has the `uncertain` ones, as on AWS.
    """
    refused = []
    for part, document in desired.items():
        if document is None or document == present[part]:
            echo(f"{part}: as required.")
            continue
        condition = ", if this server gives it to a new bucket as AWS does" if part in uncertain else ""
        echo(f"{part}: {'would be changed' if dry_run else 'is changed'}{condition}.")
        _echo_lines(diff(part, present[part], document))
        try:
            if not dry_run:
                admin.write(part, document)
        except StorageError as exc:
            if not is_unsupported(exc):
                raise
            echo_error(
                f"video-uploader: {part} was not changed: this server does not support it ({exc.code})."
            )
            refused.append(part)
    return refused


def _name(settings: Settings) -> str:
    return f"{settings.aws_s3_bucket} in {settings.aws_region}"


def _lines(document: Document | None) -> list[str]:
    if document is None:
        return []
    # The order of fields differs between servers.
    return json.dumps(document, indent=2, sort_keys=True, default=_to_json, ensure_ascii=False).splitlines()


def _to_json(value: object) -> str:
    """Convert a value that JSON lacks: the dates of lifecycle rules."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _echo_lines(lines: Iterator[str] | list[str]) -> None:
    for line in lines:
        echo(f"  {line}")
