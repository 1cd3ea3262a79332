"""Translates everything that botocore raises into a `StorageError`.

The kind of an error follows from S3's error code, else from the HTTP status, or without an answer from the
class of the exception; never from the text of a message. Codes:
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from storage.aws import proxies
from storage.aws.bounded_answers import AnswerTooLargeError
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError

_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a valid pair, or provide another source that boto3 "
    "knows (a profile, an instance or container role)."
)
_PROFILE = "Correct AWS_PROFILE and the configuration files of AWS that it names, or unset it."
_EXPIRED = "Renew the session's credentials; those of a role are renewed automatically."
_PERMISSIONS = (
    "Allow these credentials s3:PutObject, s3:GetObject, s3:ListBucket, s3:DeleteObject, "
    "s3:AbortMultipartUpload and, unless AWS_S3_ACL is none, s3:PutObjectAcl on AWS_S3_BUCKET; the bucket's "
    "policy or its public access block may deny it too."
)
_BUCKET = "Create the bucket, or correct AWS_S3_BUCKET."
_REGION = "Set AWS_REGION to the region the bucket is in."
_ENDPOINT = "Check AWS_ENDPOINT_URL, AWS_REGION, AWS_S3_BUCKET and AWS_S3_VIDEOS_PREFIX."
_CLOCK = "Set this machine's clock (NTP): S3 refuses requests that are more than 15 minutes off."
PUBLIC_MODES = (
    "Objects are made public in one of three ways: AWS_S3_ACL=public-read, on a bucket that has ACLs enabled "
    "(Object Ownership: bucket owner preferred); AWS_S3_ACL=none and a bucket policy that allows everyone "
    "s3:GetObject under AWS_S3_VIDEOS_PREFIX; or AWS_S3_ACL=none and a CDN that may read the bucket "
    "(CLOUDFRONT_DOMAIN for CloudFront). `video-uploader bucket setup` sets the bucket up for the first two."
)
_REFUSED = "The server does not accept the request as it is."
_ACCOUNT = "The AWS account has a problem that its owner has to solve with AWS billing or support."
_FULL = "The server is full or a quota is exhausted: free space on the server."
CERTIFICATE_HINT = (
    "The server's TLS certificate is not trusted: correct it, or name its authority in AWS_CA_BUNDLE. A "
    "wrong clock has the same effect."
)
_KMS = "Enable the bucket's encryption key in AWS KMS and let these credentials use it."
_RETRIED = "It is tried again."
_NOT_S3 = "Check that AWS_ENDPOINT_URL is an S3 server, and that no proxy or portal answers for it."

REFUSED_CREDENTIALS_CODES = frozenset(
    {"InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity", "UnrecognizedClientException"}
)
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
ACCOUNT_CODES = frozenset({"AccountProblem", "AllAccessDisabled", "NotSignedUp"})
CLOCK_CODES = frozenset({"RequestExpired", "RequestTimeTooSkewed"})
BUCKET_CODES = frozenset({"InvalidBucketName", "NoSuchBucket"})
REGION_CODES = frozenset(
    {
        *("PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed"),
        *("IllegalLocationConstraintException", "IllegalLocationConstraint"),
    }
)

ENVIRONMENT_CODES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(REFUSED_CREDENTIALS_CODES, _CREDENTIALS),
        **dict.fromkeys(EXPIRED_CODES, _EXPIRED),
        **dict.fromkeys(ACCOUNT_CODES, _ACCOUNT),
        **dict.fromkeys(CLOCK_CODES, _CLOCK),
        **dict.fromkeys(BUCKET_CODES, _BUCKET),
        **dict.fromkeys(REGION_CODES, _REGION),
        **dict.fromkeys(("AccessDenied", "AccessForbidden", "UnauthorizedAccess"), _PERMISSIONS),
        **dict.fromkeys(("InvalidArgument", "InvalidStorageClass", "InvalidTag", "NotImplemented"), _REFUSED),
        **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull"), _FULL),
        "AccessControlListNotSupported": f"The bucket has ACLs disabled. {PUBLIC_MODES}",
        "BucketAlreadyExists": "The bucket belongs to another account: change AWS_S3_BUCKET.",
        "CredentialsNotSupported": _CREDENTIALS,
        "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY: it does not belong to AWS_ACCESS_KEY_ID.",
    }
)
"""S3's error codes of kind environment, each with what the operator has to change."""

OBJECT_CODES: Mapping[str, str] = MappingProxyType(
    {
        "EntityTooLarge": "The file is too large for this server: make it smaller or use another server.",
        "KeyTooLongError": "The object's key is too long for this server: give the file a shorter name.",
    }
)
"""S3's error codes for an object that cannot be stored as it is."""

_FORBIDDEN = 403
_REFUSALS: Mapping[int, str] = MappingProxyType(
    {301: _REGION, 307: _REGION, 401: _CREDENTIALS, 403: _PERMISSIONS, 507: _FULL}
)
"""HTTP statuses of kind environment, for error codes that are in no table."""
_REFUSED_STATUSES = frozenset({400, 405, 411, 501})
"""The same, for requests to S3 alone."""

_TRANSIENT_CODES = frozenset(
    {
        *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
        *("IncompleteBody", "InvalidPart", "InvalidPartOrder", "RequestTimeout"),
    }
)
"""Error codes that come with a status of kind environment, and that another attempt may not meet."""

_MAX_SAID = 300
"""How many characters of a server's own words are kept."""

_ENVIRONMENT_EXCEPTIONS: Mapping[type[BotoCoreError], tuple[str, str]] = MappingProxyType(
    {
        botocore_errors.CredentialRetrievalError: ("no-credentials", _CREDENTIALS),
        botocore_errors.MetadataRetrievalError: ("no-credentials", _CREDENTIALS),
        botocore_errors.NoAuthTokenError: ("no-credentials", _CREDENTIALS),
        botocore_errors.NoCredentialsError: ("no-credentials", _CREDENTIALS),
        botocore_errors.PartialCredentialsError: ("no-credentials", _CREDENTIALS),
        botocore_errors.RefreshWithMFAUnsupportedError: ("no-credentials", _CREDENTIALS),
        botocore_errors.SSOError: ("no-credentials", _CREDENTIALS),
        botocore_errors.TokenRetrievalError: ("no-credentials", _CREDENTIALS),
        botocore_errors.ConfigNotFound: ("bad-settings", _PROFILE),
        botocore_errors.ConfigParseError: ("bad-settings", _PROFILE),
        botocore_errors.InvalidConfigError: ("bad-settings", _PROFILE),
        botocore_errors.ProfileNotFound: ("bad-settings", _PROFILE),
        botocore_errors.BaseEndpointResolverError: ("bad-settings", _ENDPOINT),
        botocore_errors.EndpointProviderError: ("bad-settings", _ENDPOINT),
        botocore_errors.ParamValidationError: ("bad-settings", _ENDPOINT),
        botocore_errors.ValidationError: ("bad-settings", _ENDPOINT),
    }
)

_TRANSIENT_EXCEPTIONS: Mapping[type[BotoCoreError], str] = MappingProxyType(
    {
        botocore_errors.ConnectTimeoutError: "timeout",
        botocore_errors.ReadTimeoutError: "timeout",
        botocore_errors.ConnectionError: "connection",
        botocore_errors.HTTPClientError: "connection",
    }
)
"""The first match counts."""

_NO_CONNECTION = (
    botocore_errors.EndpointConnectionError,
    botocore_errors.ConnectTimeoutError,
    botocore_errors.SSLError,
)


def http_status(error: ClientError) -> int:
    """The HTTP status of the answer; 0 if there was none."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def translate(
    error: ClientError | BotoCoreError, operation: str, key: str | None, config: StorageConfig | None = None
) -> StorageError:
    """The `StorageError` for `error`, raised by `operation` on `key`.

    With the configuration the hint names the settings that are set and can be the reason.
    """
    if isinstance(error, ClientError):
        return _from_answer(error, operation, key, config)
    return _from_client(error, operation, key)


@contextmanager
def translated(operation: str, key: str | None, config: StorageConfig | None = None) -> Iterator[None]:
    """Raise botocore's exceptions as a `StorageError` about `operation` on `key`; see `translate`."""
    try:
        yield
    except (ClientError, BotoCoreError) as exc:
        raise translate(exc, operation, key, config) from exc
    except ResponseParserError as exc:
        raise unreadable(operation, key) from exc


_Cause = TypeVar("_Cause", bound=BaseException)


def cause_of(error: BaseException, wanted: type[_Cause]) -> _Cause | None:
    """The exception of the class `wanted` among the causes of `error`, if there is one.

    urllib3 passes the original exception on as an argument or as `reason`.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, wanted):
            return cause
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return None


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The failed verification of a certificate among the causes of `error`, if there is one."""
    return cause_of(error, ssl.SSLCertVerificationError)


def unreadable(operation: str, key: str | None) -> StorageError:
    """The `StorageError` for an unreadable answer to `operation` on `key`."""
    hint = "The answer is not one of S3: check that AWS_ENDPOINT_URL is an S3 server. It is tried again."
    return StorageError(ErrorKind.TRANSIENT, operation, key, "unreadable-answer", hint)


def _from_answer(
    error: ClientError, operation: str, key: str | None, config: StorageConfig | None
) -> StorageError:
    details = error.response.get("Error", {})
    status = http_status(error)
    code = _printable(str(details.get("Code") or ""))
    unexplained = code in ("", "Unknown", str(status))
    if unexplained:
        code = f"http-{status}"
    said = _said(code, details)
    quoted = f"The server said: {said}. " if details.get("Message") else ""

    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    make = _printable(headers.get("server", ""))

    def as_error(kind: ErrorKind, hint: str, code: str = code) -> StorageError:
        found = StorageError(kind, operation, key, code, f"{quoted}{hint}", status=status, said=said)
        found.make = make
        return found

    if name := _refusing_proxy(status, headers, unexplained=unexplained):
        return proxies.refusal(name, status, operation, key)
    if code in OBJECT_CODES:
        return as_error(ErrorKind.OBJECT, OBJECT_CODES[code])
    if unexplained and "location" in headers and "x-amz-bucket-region" not in headers:
        redirection = f"The answer redirects to {_printable(headers['location'])}. {_NOT_S3} {_RETRIED}"
        return as_error(ErrorKind.TRANSIENT, redirection, "redirected")
    hint = ENVIRONMENT_CODES.get(code) or (_KMS if code.startswith("KMS.") else None)
    if hint is None and unexplained:
        hint = _unexplained(status, config)
    if hint is None:
        hint = _REFUSALS.get(status) or (
            _REFUSED if config is not None and _is_refused(status, code) else None
        )
    if hint is None:
        return as_error(ErrorKind.TRANSIENT, _RETRIED)
    if config is not None:
        hint = _about_options(config) if hint is _REFUSED else f"{hint}{_values_of(hint, config)}"
    return as_error(ErrorKind.ENVIRONMENT, hint)


def _values_of(hint: str, config: StorageConfig) -> str:
    """The present values of the settings that a hint asks to correct, as a sentence."""
    values = {"AWS_S3_BUCKET": config.bucket, "AWS_REGION": config.region}
    named = [f"{name} is {_printable(value)}" for name, value in values.items() if name in hint]
    return f" {' and '.join(named)}." if named else ""


def _refusing_proxy(status: int, headers: Mapping[str, str], *, unexplained: bool) -> str | None:
    """The proxy that gave an answer in place of the server; None if the server did."""
    if status == proxies.AUTHENTICATION_REQUIRED:
        return proxies.forwarding_name() or "A proxy"
    # S3 servers number their answers.
    is_of_server = not unexplained or "x-amz-request-id" in headers
    return None if status != HTTPStatus.FORBIDDEN or is_of_server else proxies.forwarding_name()


def _is_refused(status: int, code: str) -> bool:
    """Whether S3 refuses a request in a way that another attempt cannot cure."""
    is_overloaded = "throttl" in code.lower() or "toomany" in code.lower()
    return status in _REFUSED_STATUSES and code not in _TRANSIENT_CODES and not is_overloaded


def _unexplained(status: int, config: StorageConfig | None) -> str | None:
    """The hint for an answer without an error code, as to a HEAD: an expired token or a wrong region."""
    if status != HTTPStatus.BAD_REQUEST:
        return _REFUSALS.get(status)
    may_expire = config is None or config.session_token is not None or config.access_key_id is None
    return f"No reason was given. {_EXPIRED + ' ' if may_expire else ''}{_REGION} {_NOT_S3}"


def _about_options(config: StorageConfig) -> str:
    """The hint for a refused request: which options of objects are set, and so may be the reason."""
    options = {
        "AWS_S3_STORAGE_CLASS": config.storage_class,
        "AWS_S3_SSE": config.sse,
        "AWS_S3_SSE_KMS_KEY_ID": config.sse_kms_key_id,
        "AWS_S3_TAGS": "&".join(f"{name}={value}" for name, value in config.tags.items()) or None,
        "AWS_S3_CACHE_CONTROL": config.cache_control,
        "AWS_S3_ACL": config.acl,
        "AWS_S3_CHECKSUM": None if config.checksum == "auto" else config.checksum,
    }
    given = [f"{name}={_printable(str(value))}" for name, value in options.items() if value is not None]
    return f"{_REFUSED} What is set and may be the reason: {', '.join(given)}." if given else _REFUSED


def _said(code: str, details: Mapping[str, object]) -> str:
    """The server's own words about an error: its code, its message and what else it names."""
    message = str(details.get("Message") or "").strip().rstrip(".")
    more = ", ".join(
        f"{name} {value}"
        for name in ("Header", "ArgumentName", "ArgumentValue", "Details")
        if isinstance(value := details.get(name), str) and value not in message
    )
    text = f"{code}: {message}" if message and message != code else code
    return _printable(f"{text} ({more})" if more else text)


def _printable(text: str) -> str:
    """A server's words, bounded and without control characters."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _MAX_SAID + 1])
    return shown if len(shown) <= _MAX_SAID else f"{shown[: _MAX_SAID - 1]}…"


def _why_unreachable(error: BotoCoreError) -> str:
    """Why no connection to the endpoint was made, and its address; empty if there was one."""
    if not isinstance(error, _NO_CONNECTION):
        return ""
    system_error = cause_of(error, OSError)
    reason = (system_error and system_error.strerror) or "no answer"
    if isinstance(error, botocore_errors.SSLError):
        reason = "no TLS"
    elif isinstance(system_error, socket.gaierror):
        reason = "its name does not resolve"
    return f"{reason[:1].lower()}{reason[1:]}, {address_of(error.kwargs.get('endpoint_url'))}"


def address_of(endpoint_url: object) -> str:
    """The host and port of an endpoint's URL."""
    parts = urlsplit(str(endpoint_url))
    return f"{parts.hostname}:{parts.port or (80 if parts.scheme == 'http' else 443)}"


def _from_client(error: BotoCoreError, operation: str, key: str | None) -> StorageError:
    unreachable = _why_unreachable(error)
    if certificate_error(error) is not None:
        kind, code = ErrorKind.ENVIRONMENT, "untrusted-certificate"
        return StorageError(kind, operation, key, code, CERTIFICATE_HINT, unreachable=unreachable)
    if (too_large := cause_of(error, AnswerTooLargeError)) is not None:
        hint = f"{too_large}: check that AWS_ENDPOINT_URL is an S3 server. {_RETRIED}"
        return StorageError(ErrorKind.TRANSIENT, operation, key, "too-large-answer", hint)
    if isinstance(error, botocore_errors.ProxyConnectionError):
        name = f"The proxy {error.kwargs['proxy_url']}"
        return proxies.proxy_error(name, str(error.kwargs["error"]), operation, key)
    for exception, (code, hint) in _ENVIRONMENT_EXCEPTIONS.items():
        if isinstance(error, exception):
            return StorageError(ErrorKind.ENVIRONMENT, operation, key, code, f"{error} {hint}")
    for exception, code in _TRANSIENT_EXCEPTIONS.items():
        if isinstance(error, exception):
            hint = f"{error} {_RETRIED}"
            return StorageError(ErrorKind.TRANSIENT, operation, key, code, hint, unreachable=unreachable)
    return StorageError(ErrorKind.TRANSIENT, operation, key, "unexpected", f"{error} {_RETRIED}")
