"""Errors of this package, with a kind and a code for programs and a hint for people."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """Who has to act on an error, and so whether a retry can help."""

    TRANSIENT = "transient"
    """No one: the network or the server fails temporarily. A retry may succeed."""
    ENVIRONMENT = "environment"
    """The operator: credentials, bucket, region, clock, permissions. Until then every object fails alike."""
    OBJECT = "object"
    """The owner of this object: it cannot be uploaded as it is; all others can."""


NO_ANSWER_CODES = frozenset(
    {
        *("connection", "proxy-failed", "timeout", "stalled", "too-large-answer", "unreadable-answer"),
        *("web-page", "redirected"),
    }
)
"""This package's codes where nothing, or nothing of S3, has answered."""
OVERLOADED_CODES = frozenset(
    {"SlowDown", "ServiceUnavailable", "http-503", "http-429", "RequestLimitExceeded"}
)
"""Error codes by which servers ask for fewer concurrent requests."""

UNUSABLE_CODES = frozenset(
    {
        *("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity", "UnrecognizedClientException"),
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("AccountProblem", "AllAccessDisabled", "NotSignedUp", "RequestExpired", "RequestTimeTooSkewed"),
        *("InvalidBucketName", "NoSuchBucket", "SignatureDoesNotMatch", "no-credentials", "bad-settings"),
    }
)
"""Error codes that concern every object: who asks, the bucket as a whole, the clock."""

_FIRST_SERVER_ERROR = 500
_REFUSALS = frozenset({400, 403, 405, 411, 501})
NOT_ABOUT_HEADERS = frozenset(
    {
        *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
        *("EntityTooLarge", "EntityTooSmall", "IncompleteBody", "KeyTooLongError", "QuotaExceeded"),
        *("InvalidPart", "InvalidPartOrder", "NoSuchUpload", "RequestTimeout", "OperationAborted"),
        *("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity", "UnrecognizedClientException"),
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("AccountProblem", "AllAccessDisabled", "NotSignedUp", "RequestExpired", "RequestTimeTooSkewed"),
        *("InvalidBucketName", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        *("InvalidStorageClass", "InvalidTag", "XMinioStorageFull", "SecondLevelDomainForbidden"),
        "PathStyleDomainForbidden",
    }
)
"""Error codes that say that something else than a header is the reason: a value, the content, who asks."""


class StorageError(Exception):
    """An operation on the object store, or on a file that is uploaded, that failed.

    Attributes:
        kind: who must act; see `ErrorKind`.
        operation: what failed, as a verb ("upload", "confirm", "delete", "read").
        key: the object's key; None where no object is involved.
        code: stable name to branch on: S3's error code ("AccessDenied") where the server sent one, else a
            name of this package ("timeout").
        hint: what to do, in one or two sentences.
        status: HTTP status of the server's answer; None if there was none.
        said: the server's own words: its code, its message and what they name; bounded, printable.
        make: what the server calls itself (RFC 9110, section 10.2.4); empty if it does not say.
        unreachable: why no connection to the endpoint can be made, and its address, as a phrase; empty unless
            that is the error. It concerns every object.

    """

    def __init__(
        self,
        kind: ErrorKind,
        operation: str,
        key: str | None,
        code: str,
        hint: str,
        *,
        status: int | None = None,
        said: str = "",
        unreachable: str = "",
    ) -> None:
        target = f" {key!r}" if key is not None else ""
        super().__init__(f"could not {operation}{target}: {code}. {hint}")
        self.kind = kind
        self.operation = operation
        self.key = key
        self.code = code
        self.hint = hint
        self.status = status
        self.said = said or code
        self.make = ""
        self.unreachable = unreachable

    @property
    def is_refusal(self) -> bool:
        """Whether the server may have refused the request because of one of its headers."""
        is_about_other = self.code in NOT_ABOUT_HEADERS or self.code.startswith("KMS.")
        return self.status in _REFUSALS and not is_about_other

    @property
    def is_outage(self) -> bool:
        """Whether the server may be away for every object: no answer, a failure of its own, or overload."""
        is_of_server = (self.status or 0) >= _FIRST_SERVER_ERROR or self.code in OVERLOADED_CODES
        return self.kind is ErrorKind.TRANSIENT and (is_of_server or self.code in NO_ANSWER_CODES)


class SourceChangedError(StorageError):
    """The local file is no longer the one that was hashed. Transient: it has to be hashed again."""

    def __init__(self, what_changed: str, *, operation: str = "read", key: str | None = None) -> None:
        hint = f"The local file changed meanwhile: {what_changed}. It is checked and hashed again."
        super().__init__(ErrorKind.TRANSIENT, operation, key, "source-changed", hint)


class UploadCancelledError(StorageError):
    """The caller's `cancelled` returned true. Transient: a later attempt may succeed."""

    def __init__(self, *, operation: str = "upload", key: str | None = None) -> None:
        hint = "It was cancelled and starts again later."
        super().__init__(ErrorKind.TRANSIENT, operation, key, "cancelled", hint)


class KeyTooLongError(StorageError):
    """The object key is longer than the 1,024 bytes of UTF-8 that S3 allows."""

    def __init__(self, key: str, length: int, limit: int) -> None:
        hint = f"The key has {length} bytes in UTF-8 and S3 allows {limit}: give the file a shorter name."
        super().__init__(ErrorKind.OBJECT, "name object", key, "key-too-long", hint)


class PreconditionError(StorageError):
    """The object does not meet the upload's precondition. Transient: it has to be confirmed again."""

    def __init__(self, key: str, code: str) -> None:
        hint = "Another writer stored or deleted this object meanwhile. It is checked again."
        super().__init__(ErrorKind.TRANSIENT, "upload", key, code, hint)
