"""The boto3 client: every setting that matters said here, none left to what the machine happens to have."""

from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError
from storage.translation import translated

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
ATTEMPTS = 2
"""One quick second try, so that a hiccup does not cost a whole multipart upload; patience is the caller's."""


def make_client(config: StorageConfig) -> "S3Client":
    """A thread-safe client for `config`, without a request being made.

    Raises `StorageError` of kind environment for settings that cannot make one.
    """
    try:
        with translated("set up the S3 client", None):
            client = boto3.session.Session().client(
                "s3",
                region_name=config.region,
                endpoint_url=config.endpoint_url,
                aws_access_key_id=config.access_key_id,
                aws_secret_access_key=config.secret_access_key,
                aws_session_token=config.session_token,
                config=_botocore_config(config),
            )
    except ValueError as exc:
        raise StorageError(
            ErrorKind.ENVIRONMENT,
            "set up the S3 client",
            None,
            "bad-settings",
            f"{exc}. Check AWS_ENDPOINT_URL and AWS_REGION.",
        ) from exc
    client.meta.events.register_last("before-parameter-build.s3", _stay_in_region)
    return client


def _botocore_config(config: StorageConfig) -> Config:
    return Config(  # type: ignore[call-arg]  # the stubs do not know ignore_configured_endpoint_urls yet
        signature_version="s3v4",
        # A bucket in the host name needs DNS and certificates that only AWS has.
        s3={"addressing_style": "auto" if config.endpoint_url is None else "path"},
        # AWS_ENDPOINT_URL_S3 and ~/.aws/config could otherwise send objects where no public URL points.
        ignore_configured_endpoint_urls=True,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=config.connections,
    )


def _stay_in_region(context: dict[str, Any], **_: object) -> None:
    """Tell botocore that it has followed a redirect already, so that it does not.

    It would find the bucket in whatever region it is, while the public URLs point to the configured one.
    """
    context["s3_redirect"]["redirected"] = True
