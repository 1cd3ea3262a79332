"""The settings of what is elsewhere: the bucket, how objects get there, and what stands before them."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from watcher.settings import types
from watcher.settings.settings_base import SettingsGroup, setting


class S3Settings(SettingsGroup):
    """Bucket, objects, and the CDN."""

    aws_access_key_id: SecretStr | None = setting(
        "Goes with the secret key. Both unset: what boto3 finds (profile, instance role, …).",
        "text",
        None,
    )
    aws_secret_access_key: SecretStr | None = setting("The secret key.", "text", None)
    aws_session_token: SecretStr | None = setting("The session token of temporary keys.", "text", None)
    aws_region: str = setting("The bucket's region.", "a region's name", "ap-south-1")
    aws_s3_bucket: types.Bucket = setting("The bucket.", "a bucket's name: 3 to 63 of a-z 0-9 . -", "lam-brk")
    aws_s3_base_url: types.Url | None = setting(
        "The beginning of public URLs. Unset: derived from bucket and region, or from the endpoint.",
        "an absolute URL",
        None,
    )
    cloudfront_domain: types.HostName | None = setting(
        "Makes the public URLs, and wins over `AWS_S3_BASE_URL`.", "a host name", None
    )
    cloudfront_distribution_id: types.DistributionId | None = setting(
        "Has the path of an object that was replaced invalidated.", "a distribution's id", None
    )
    aws_endpoint_url_cloudfront: types.Url | None = setting(
        "CloudFront's API elsewhere than at AWS.", "an http or https URL", None
    )
    verify_public_url: bool = setting(
        "Fetch from the public URL before it is published.", "true or false", False
    )
    aws_s3_videos_prefix: types.Prefix = setting(
        "The beginning of object keys.", "a path without a leading or trailing slash", "videos"
    )
    aws_endpoint_url: types.Url | None = setting(
        "An S3-compatible server instead of AWS.", "an http or https URL", None
    )
    aws_s3_acl: Literal["public-read", "none"] = setting(
        "The canned ACL of every object.", "public-read or none", "public-read"
    )
    aws_s3_cache_control: str = setting(
        "`Cache-Control` of every object; an object can be replaced under its key.",
        "a Cache-Control value",
        "public, max-age=3600",
    )
    aws_s3_storage_class: str | None = setting(
        "The storage class of every object. Unset: the bucket's default.",
        "a class's name: STANDARD_IA, …",
        None,
    )
    aws_s3_sse: Literal["AES256", "aws:kms"] | None = setting(
        "Encryption at rest. Unset: the bucket's default.", "AES256 or aws:kms", None
    )
    aws_s3_sse_kms_key_id: str | None = setting(
        "The key for `AWS_S3_SSE=aws:kms`. Unset: the account's default key.", "a key's id or ARN", None
    )
    aws_s3_tags: types.Tags | None = setting(
        "Tags of every object.", "name=value pairs separated by &, at most 10", None
    )
    aws_s3_expected_bucket_owner: types.AccountId | None = setting(
        "Requests are refused if the bucket belongs to another account.", "an account's 12 digits", None
    )
    max_bandwidth: types.Bandwidth | None = setting(
        "What all uploads together may send. Unset or `none`: no limit.",
        "a rate such as 20MB/s, 500Mbit/s or none",
        None,
    )
    stall_seconds: float = setting(
        "A request that makes no progress for so long is given up and tried again.",
        "1 to 3600",
        60,
        ge=1,
        le=3600,
    )
    cors_origins: types.Origins = setting(
        "Origins whose scripts may read the objects: what `bucket setup` allows and `doctor` tries.",
        "`*`, or origins such as https://example.com, separated by commas",
        ("*",),
    )
    lifecycle_transition_days: int | None = setting(
        "`bucket setup` lets objects of this age move to the class below. Unset: never.",
        "0 to 36500",
        None,
        ge=0,
        le=36500,
    )
    lifecycle_transition_class: (
        Literal["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"]
        | None
    ) = setting(
        "The storage class they move to; out of `GLACIER` and `DEEP_ARCHIVE` nothing can be played.",
        "STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING, GLACIER_IR, GLACIER or DEEP_ARCHIVE",
        None,
    )
    lifecycle_expire_days: int | None = setting(
        "`bucket setup` lets objects of this age be deleted, whoever still links to them. Unset: never.",
        "1 to 36500",
        None,
        ge=1,
        le=36500,
    )
