"""`video-uploader doctor`: tests everything that the daemon needs, and says how to fix what fails."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from storage import CheckResult, Outcome, check_storage, minimal_policy
from watcher.app.factories import make_storage_config
from watcher.app.known_dialect import remember_anew
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_lock, env_files_of, settings_of
from watcher.cli.output import AsJson, echo, print_json
from watcher.filesystem import leases
from watcher.operations import check_host
from watcher.settings import doubtful_settings
from watcher.telemetry import printable, redact

WITH_FINDINGS = frozenset({"dialect", "checksums", "database", "server"})
"""Checks whose finding is of interest although they passed."""

_COLOURS = {Outcome.FAILED: "1;31", Outcome.WARNING: "33"}
"""Codes of ECMA-48: bold red, and yellow."""


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
    results: list[CheckResult] = []
    on_host = check_host(settings, daemon_lock(settings), doubts)
    for section, checks in (("this machine and the database", on_host), ("S3", on_storage)):
        found = []
        for check in checks:
            found.append(replace(check, detail=redact(check.detail), remedy=redact(check.remedy)))
            if not as_json:
                _print_unless_passed(found[-1])
        if not as_json:
            _print_passed(section, found)
        results += found
    if as_json:
        print_json([result.as_dict() for result in results])
    else:
        _print_summary(results)
    if any(result.outcome is Outcome.FAILED for result in results):
        raise typer.Exit(EXIT_FAILED)


def _print_unless_passed(result: CheckResult) -> None:
    """Print a line about a check with a finding; what was not tried is summed up at the end."""
    if result.unmet or (result.outcome is Outcome.OK and result.name not in WITH_FINDINGS):
        return
    word = f"{result.outcome:9}"
    if sys.stdout.isatty() and result.outcome in _COLOURS:
        word = f"\x1b[{_COLOURS[result.outcome]}m{word}\x1b[0m"
    # The colour is ours; what follows is escaped.
    print(word + printable(f"{result.name}: {result.detail} {result.remedy}".rstrip()))


def _print_passed(section: str, results: Sequence[CheckResult]) -> None:
    passed = [one.name for one in results if one.outcome is Outcome.OK and one.name not in WITH_FINDINGS]
    if passed:
        echo(f"{Outcome.OK:9}{section}: {', '.join(passed)}")


def _print_summary(results: Sequence[CheckResult]) -> None:
    untried: dict[str, list[str]] = {}
    for result in results:
        if result.unmet:
            untried.setdefault(result.unmet, []).append(result.name)
    for unmet, names in untried.items():
        echo(f"not tried, because the check of {unmet} did not pass: {', '.join(names)}")
    counts = Counter(result.outcome for result in results if not result.unmet)
    left = sum(map(len, untried.values()))
    parts = [f"{counts[Outcome.OK]} passed", f"{counts[Outcome.WARNING]} with a warning"]
    parts += [f"{counts[Outcome.FAILED]} failed", f"{left} not tried"]
    echo(f"{len(results)} checks: {', '.join(parts)}.")
