"""`video-uploader doctor`: everything that has to be right, tried for real, and how to mend what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from storage import CheckResult, Outcome, check_storage, minimal_policy
from watcher.app.factories import make_storage_config
from watcher.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    CommandError,
    daemon_lock,
    echo,
    invocation,
    print_json,
)
from watcher.filesystem import leases
from watcher.operations.doctor import check_host
from watcher.settings.model import Settings


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    iam: Annotated[
        bool, typer.Option("--iam", help="Print the smallest IAM policy that does, and check nothing.")
    ] = False,
) -> None:
    """Check credentials, bucket, permissions, public URLs, this machine and the database. 1 if any failed."""
    settings = invocation(context).settings()
    if iam:
        if as_json:
            raise CommandError("--iam prints JSON anyway; leave --json away.", EXIT_USAGE)
        print_json(iam_policy(settings))
        return
    leases.ignore_sigio()
    results = []
    for result in _checks(settings):
        results.append(result)
        if not as_json:
            echo(line_of(result))
    if as_json:
        print_json([result.as_dict() for result in results])
    if any(result.outcome is Outcome.FAILED for result in results):
        raise typer.Exit(EXIT_FAILED)


def iam_policy(settings: Settings) -> dict[str, object]:
    """The smallest policy for what the settings make the daemon do."""
    return minimal_policy(
        settings.aws_s3_bucket,
        settings.aws_s3_videos_prefix,
        settings.aws_region,
        with_acl=settings.aws_s3_acl != "none",
        with_tags=settings.aws_s3_tags is not None,
        kms_key_id=settings.aws_s3_sse_kms_key_id,
        cloudfront_distribution_id=settings.cloudfront_distribution_id,
    )


def line_of(result: CheckResult) -> str:
    """A check as one line for people."""
    return f"{result.outcome:9}{result.name}: {result.detail} {result.mend}".rstrip()


def _checks(settings: Settings) -> Iterator[CheckResult]:
    yield from check_host(settings, daemon_lock(settings))
    yield from check_storage(
        make_storage_config(settings),
        cors_origins=settings.cors_origins,
        cdn_domain=settings.cloudfront_domain,
    )
