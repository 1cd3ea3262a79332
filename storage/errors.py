"""What can go wrong with storage, said so that a person can act on it and code can branch on it."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """Who has to do something about an error, and so whether trying again can help."""

    TRANSIENT = "transient"
    """Nobody: the network or the server had a bad moment. The same attempt may succeed later."""
    ENVIRONMENT = "environment"
    """The operator: credentials, bucket, region, clock, permissions. Every object fails alike until then."""
    OBJECT = "object"
    """The owner of this one object: it cannot be uploaded as it is, all others can."""


class StorageError(Exception):
    """An attempt on the object store, or on a file meant for it, that did not succeed.

    Attributes:
        kind: who must act; see `ErrorKind`.
        operation: what was tried, as a verb ("upload", "confirm", "delete", "read").
        key: the object key it was tried on; None where no object is involved.
        code: stable name to branch on: S3's own error code ("AccessDenied") where a server gave one, else a
            slug of ours ("timeout").
        hint: one or two sentences that say what to do.
        status: HTTP status of the server's answer; None if there was none.

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
    ) -> None:
        target = f" {key!r}" if key is not None else ""
        super().__init__(f"could not {operation}{target}: {code}. {hint}")
        self.kind = kind
        self.operation = operation
        self.key = key
        self.code = code
        self.hint = hint
        self.status = status


class SourceChangedError(StorageError):
    """The local file is not, or no longer, the one that was hashed. Transient: hash it again, send it."""

    def __init__(self, what_changed: str, *, operation: str = "read", key: str | None = None) -> None:
        super().__init__(
            ErrorKind.TRANSIENT,
            operation,
            key,
            "source-changed",
            f"The local file changed meanwhile: {what_changed}. It is examined again and then sent as it is.",
        )


class UploadCancelledError(StorageError):
    """The caller's `cancelled` said so. Transient: nothing is wrong, the next attempt starts afresh."""

    def __init__(self, *, operation: str = "upload", key: str | None = None) -> None:
        super().__init__(
            ErrorKind.TRANSIENT,
            operation,
            key,
            "cancelled",
            "It was interrupted on request and starts again later.",
        )


class KeyTooLongError(StorageError):
    """The object key is longer than the 1,024 bytes of UTF-8 that S3 allows."""

    def __init__(self, key: str, length: int, limit: int) -> None:
        super().__init__(
            ErrorKind.OBJECT,
            "name object",
            key,
            "key-too-long",
            f"The key has {length} bytes in UTF-8 and S3 allows {limit}: give the file a shorter name.",
        )


class PreconditionError(StorageError):
    """The object is not in the state that the upload was to find it in. Transient: look at it again."""

    def __init__(self, key: str, code: str) -> None:
        super().__init__(
            ErrorKind.TRANSIENT,
            "upload",
            key,
            code,
            "Somebody else wrote or removed this object meanwhile. It is looked at again.",
        )
