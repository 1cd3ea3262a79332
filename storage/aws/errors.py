"""Translates everything that botocore raises into a `StorageError`.

The kind of an error follows from S3's error code, else from the HTTP status, or without an answer from the
class of the exception; never from the text of a message. Codes:
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from storage.aws import proxies
from storage.aws.bounded_answers import AnswerTooLargeError
from storage.errors import ErrorKind, StorageError

_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a valid pair, or provide another source that boto3 "
    "knows (a profile, an instance or container role)."
)
_PROFILE = "Correct AWS_PROFILE and the configuration files of AWS that it names, or unset it."
_EXPIRED = "Renew the session's credentials; those of a role are renewed automatically."
_PERMISSIONS = (
    "Allow these credentials s3:PutObject, s3:GetObject, s3:ListBucket, s3:DeleteObject, "
    "s3:AbortMultipartUpload and, unless AWS_S3_ACL is none, s3:PutObjectAcl on the bucket; a bucket policy "
    "or its public access block may deny it too."
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
_OPTIONS = (
    "The server does not accept one of the options: correct AWS_S3_STORAGE_CLASS, AWS_S3_SSE, "
    "AWS_S3_SSE_KMS_KEY_ID, AWS_S3_TAGS, AWS_S3_CACHE_CONTROL or AWS_S3_ACL."
)
_ACCOUNT = "The AWS account has a problem that its owner has to solve with AWS billing or support."
_FULL = "The server is full or a quota is exhausted: free space on the server."
CERTIFICATE_HINT = (
    "The server's TLS certificate is not trusted: correct it, or name its authority in AWS_CA_BUNDLE. A "
    "wrong clock has the same effect."
)
_KMS = "Enable the bucket's encryption key in AWS KMS and let these credentials use it."
_RETRIED = "It is tried again."

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
        **dict.fromkeys(("InvalidArgument", "InvalidStorageClass", "InvalidTag"), _OPTIONS),
        **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull"), _FULL),
        "AccessControlListNotSupported": f"The bucket has ACLs disabled. {PUBLIC_MODES}",
        "BucketAlreadyExists": "The bucket belongs to another account: change AWS_S3_BUCKET.",
        "CredentialsNotSupported": _CREDENTIALS,
        "NotImplemented": f"The server does not support part of the request, most often ACLs. {PUBLIC_MODES}",
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

_UNEXPLAINED: Mapping[int, str] = MappingProxyType(
    {400: f"No reason was given. {_EXPIRED} {_REGION} Check that AWS_ENDPOINT_URL is an S3 server."}
)
"""The same for answers without an error code, as to a HEAD: 400 is an expired token or a wrong region."""

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


def http_status(error: ClientError) -> int:
    """The HTTP status of the answer; 0 if there was none."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def translate(error: ClientError | BotoCoreError, operation: str, key: str | None) -> StorageError:
    """The `StorageError` for `error`, raised by `operation` on `key`."""
    if isinstance(error, ClientError):
        return _from_answer(error, operation, key)
    return _from_client(error, operation, key)


@contextmanager
def translated(operation: str, key: str | None) -> Iterator[None]:
    """Raise botocore's exceptions as a `StorageError` about `operation` on `key`."""
    try:
        yield
    except (ClientError, BotoCoreError) as exc:
        raise translate(exc, operation, key) from exc
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


def _from_answer(error: ClientError, operation: str, key: str | None) -> StorageError:
    details = error.response.get("Error", {})
    status = http_status(error)
    code = str(details.get("Code") or "")
    unexplained = code in ("", "Unknown", str(status))
    if unexplained:
        code = f"http-{status}"
    if status == proxies.AUTHENTICATION_REQUIRED:
        return proxies.refusal(proxies.forwarding_name() or "A proxy", status, operation, key)
    is_anonymous = "x-amz-request-id" not in error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if status == _FORBIDDEN and unexplained and is_anonymous and (name := proxies.forwarding_name()):
        # S3 servers number their answers.
        return proxies.refusal(name, status, operation, key)
    if code in OBJECT_CODES:
        return StorageError(ErrorKind.OBJECT, operation, key, code, OBJECT_CODES[code], status=status)
    hint = ENVIRONMENT_CODES.get(code) or (_KMS if code.startswith("KMS.") else None) or _REFUSALS.get(status)
    if hint is None and unexplained:
        hint = _UNEXPLAINED.get(status)
    if hint is not None:
        return StorageError(ErrorKind.ENVIRONMENT, operation, key, code, hint, status=status)
    message = details.get("Message", "")
    hint = f"The server said: {message} {_RETRIED}" if message else _RETRIED
    return StorageError(ErrorKind.TRANSIENT, operation, key, code, hint, status=status)


def _from_client(error: BotoCoreError, operation: str, key: str | None) -> StorageError:
    if certificate_error(error) is not None:
        return StorageError(ErrorKind.ENVIRONMENT, operation, key, "untrusted-certificate", CERTIFICATE_HINT)
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
            return StorageError(ErrorKind.TRANSIENT, operation, key, code, f"{error} {_RETRIED}")
    return StorageError(ErrorKind.TRANSIENT, operation, key, "unexpected", f"{error} {_RETRIED}")
