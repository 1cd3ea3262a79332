"""`video-uploader doctor`: tests everything that the daemon needs, and says how to fix what fails."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Annotated

import typer

from storage import Outcome, check_storage, minimal_policy
from watcher.app.factories import make_storage_config
from watcher.app.known_dialect import remember_anew
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_lock, env_files_of, settings_of
from watcher.cli.output import AsJson, echo, print_json
from watcher.filesystem import leases
from watcher.operations import check_host
from watcher.settings import doubtful_settings
from watcher.telemetry import redact


def doctor(
    context: typer.Context,
    as_json: AsJson = False,
    iam: Annotated[
        bool, typer.Option("--iam", help="Print the smallest sufficient IAM policy, and check nothing.")
    ] = False,
) -> None:
    """Check credentials, bucket, permissions, public URLs, this machine and the database.

    Exits with 1 if a check failed.
    """
    settings = settings_of(context)
    if iam:
        if as_json:
            raise CommandError("--iam always prints JSON; omit --json.", EXIT_USAGE)
        policy = minimal_policy(
            settings.aws_s3_bucket,
            settings.aws_s3_videos_prefix,
            settings.aws_region,
            with_acl=settings.aws_s3_acl != "none",
            with_tags=settings.aws_s3_tags is not None,
            kms_key_id=settings.aws_s3_sse_kms_key_id,
            cloudfront_distribution_id=settings.cloudfront_distribution_id,
        )
        print_json(policy)
        return
    leases.ignore_sigio()
    on_storage = check_storage(
        make_storage_config(settings),
        cors_origins=settings.cors_origins,
        cdn_domain=settings.cloudfront_domain,
        report=partial(remember_anew, settings),
    )
    doubts = doubtful_settings(*env_files_of(context))
    results = []
    for check in chain(check_host(settings, daemon_lock(settings), doubts), on_storage):
        result = replace(check, detail=redact(check.detail), remedy=redact(check.remedy))
        results.append(result)
        if not as_json:
            echo(f"{result.outcome:9}{result.name}: {result.detail} {result.remedy}".rstrip())
    if as_json:
        print_json([result.as_dict() for result in results])
    if any(result.outcome is Outcome.FAILED for result in results):
        raise typer.Exit(EXIT_FAILED)
