"""Translates what the CRT raises into a `StorageError`, by the name of its error."""

from collections.abc import Mapping
from types import MappingProxyType

from awscrt.exceptions import AwsCrtError
from awscrt.s3 import S3ResponseError
from botocore.exceptions import ClientError

from storage.aws.errors import address_of, translate
from storage.aws.response_parsing import Response
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError

_ANSWERS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "AWS_ERROR_S3_INTERNAL_ERROR": (500, "InternalError"),
        "AWS_ERROR_S3_SLOW_DOWN": (503, "SlowDown"),
        "AWS_ERROR_S3_REQUEST_TIMEOUT": (400, "RequestTimeout"),
        "AWS_ERROR_S3_REQUEST_TIME_TOO_SKEWED": (403, "RequestTimeTooSkewed"),
    }
)
"""Answers that the CRT retries itself and reports without their content."""

_TIMEOUTS = frozenset(
    {
        "AWS_ERROR_HTTP_CHANNEL_THROUGHPUT_FAILURE",
        "AWS_ERROR_HTTP_RESPONSE_FIRST_BYTE_TIMEOUT",
        "AWS_IO_SOCKET_TIMEOUT",
        "AWS_IO_TLS_NEGOTIATION_TIMEOUT",
    }
)
_CREDENTIALS = frozenset(
    {"AWS_AUTH_CREDENTIALS_PROVIDER_DELEGATE_FAILURE", "AWS_AUTH_SIGNING_NO_CREDENTIALS"}
)
_CONNECTION_PREFIXES = ("AWS_IO_", "AWS_ERROR_HTTP_")


_CONNECTING = frozenset(
    {
        *("AWS_IO_DNS_NO_ADDRESS_FOR_HOST", "AWS_IO_DNS_INVALID_NAME", "AWS_IO_DNS_QUERY_FAILED"),
        *("AWS_IO_SOCKET_CONNECTION_REFUSED", "AWS_IO_SOCKET_NO_ROUTE_TO_HOST", "AWS_IO_SOCKET_TIMEOUT"),
        *("AWS_IO_SOCKET_NETWORK_DOWN", "AWS_IO_SOCKET_CONNECT_ABORTED"),
        "AWS_ERROR_HTTP_PROXY_CONNECT_FAILED",
        "AWS_ERROR_HTTP_PROXY_CONNECT_FAILED_RETRYABLE",
    }
)
"""Errors before there is a connection, which behind a proxy are errors of the proxy."""


def of_proxy(error: BaseException | None) -> str:
    """Why there is no connection to the proxy, where `error` of the CRT says that; else an empty text."""
    is_of_proxy = isinstance(error, AwsCrtError) and error.name in _CONNECTING
    return str(error) if is_of_proxy else ""


def translate_crt(
    error: AwsCrtError, operation: str, purpose: str, key: str | None, config: StorageConfig | None = None
) -> StorageError:
    """The `StorageError` for `error`, raised by S3's `operation` on `key`, which was sent for `purpose`."""
    if isinstance(error, S3ResponseError):
        response = Response(int(error.status_code), tuple(error.headers or ()), bytes(error.body or b""))
        try:
            response.parse(operation, purpose, key)
        except ClientError as exc:
            return translate(exc, purpose, key, config)
        except StorageError as exc:
            return exc
    name = error.name or ""
    if name in _ANSWERS:
        status, code = _ANSWERS[name]
        answer: dict[str, object] = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        return translate(ClientError(answer, operation), purpose, key)  # type: ignore[arg-type]  # has only the fields that are read
    code, hint = "unexpected", f"{error.message} ({name}). It is tried again."
    if name in _CREDENTIALS:
        code, hint = "no-credentials", "The credentials expired meanwhile. It is tried again."
    elif name in _TIMEOUTS:
        code = "timeout"
    elif name.startswith(_CONNECTION_PREFIXES):
        code = "connection"
    unreachable = ""
    if config is not None and (name in _CONNECTING or name.startswith("AWS_IO_TLS_")):
        endpoint_url = config.endpoint_url or f"https://s3.{config.region}.amazonaws.com"
        unreachable = f"{error.message.rstrip('.').removeprefix('socket ')}, {address_of(endpoint_url)}"
    return StorageError(ErrorKind.TRANSIENT, purpose, key, code, hint, unreachable=unreachable)
