"""Settings that are given and have no effect, because another setting decides instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from watcher.settings.model import POSTGRES_FIELDS, CatalogKind, Settings


class UnusedSetting(NamedTuple):
    """A setting that is given in vain: its name, and the reason as a sentence."""

    name: str
    reason: str


def unused_settings(settings: Settings) -> list[UnusedSetting]:
    """Return the settings that were given and have no effect, in the documented order."""
    reasons = dict(_reasons(settings))
    return [
        UnusedSetting(field.upper(), reasons[field])
        for field in Settings.model_fields
        if field in reasons and field in settings.model_fields_set
    ]


def _reasons(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield every setting that these settings leave without effect, given or not, and the reason."""
    if settings.database_url is not None:
        yield from _each(POSTGRES_FIELDS, "DATABASE_URL is set and names the database; unset one of the two.")
    if not settings.on_postgresql:
        yield "database_schema", "The database is SQLite, which has no schemas."
    if settings.catalog_kind is not CatalogKind.COMPRESSOR:
        yield from _each(
            ("catalog_schema", "catalog_row_timeout", "delete_orphans"),
            f"It applies to the compressor's catalog, and CATALOG is {settings.catalog_kind}.",
        )
    else:
        yield (
            "accept_live_containers",
            "An original is uploaded once its row of the compressor's catalog is ready, live or not.",
        )
    if settings.catalog_kind is CatalogKind.NONE:
        yield "local_base_url", "There are no rows that could hold the URL: CATALOG is none."
    if settings.aws_access_key_id is None:
        yield "aws_session_token", "It belongs to AWS_ACCESS_KEY_ID, which is not set."
    if settings.cloudfront_domain is not None:
        yield "aws_s3_base_url", "CLOUDFRONT_DOMAIN is set and begins the public URLs."
    elif settings.aws_s3_base_url is None:
        yield (
            "cloudfront_distribution_id",
            "Public URLs lead to the bucket itself: set CLOUDFRONT_DOMAIN or AWS_S3_BASE_URL.",
        )
    if settings.cloudfront_distribution_id is None:
        yield "aws_endpoint_url_cloudfront", "CLOUDFRONT_DISTRIBUTION_ID is not set."
    unsigned = ("webhook_secret",) if settings.webhook_url is None else ()
    yield from _each(unsigned, "WEBHOOK_URL is not set.")
    if settings.keep_local:
        yield from _each(
            ("release_after_seconds", "disk_pressure_percent"), "KEEP_LOCAL is true: no copy is released."
        )


def _each(fields: tuple[str, ...], reason: str) -> Iterator[tuple[str, str]]:
    for field in fields:
        yield field, reason
