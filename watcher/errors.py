"""Failures: every package's errors in one form, whose kind decides what happens next."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from enum import StrEnum

from db import HELD, DatabaseError
from storage import StorageError
from watcher.filesystem import NotOursError, RootUnavailableError, UnreadableError
from watcher.telemetry.formatting import printable
from watcher.telemetry.redaction import redact


class FailureKind(StrEnum):
    """The three kinds of failures; docs/reliability.md has a table of what happens after each."""

    TRANSIENT = "transient"
    ENVIRONMENT = "environment"
    OBJECT = "object"


class Code(StrEnum):
    """Every error code of this package; `StorageError.code` has those of S3 and of `storage`."""

    CATALOG_BUSY = "catalog-busy"
    DATABASE = "database"
    ENCODE_FAILED = "encode-failed"
    FOREIGN_OBJECT = "foreign-object"
    HELD = HELD
    """The reason why a pending upload is not begun: an operator holds its file."""
    IN_PACKAGE = "in-package"
    INCOMPLETE = "incomplete"
    INTERNAL = "internal"
    KEY_TAKEN = "key-taken"
    LEFT_ASIDE = "left-aside"
    LOCAL_AWAY = "local-away"
    LOCAL_CHANGED = "local-changed"
    LOCAL_DAMAGED = "local-damaged"
    LOCAL_IO = "local-io"
    LOCAL_MISSING = "local-missing"
    LOCAL_SYSTEM = "local-system"
    NO_ROW = "no-row"
    NOT_OURS = "not-ours"
    NOT_REMOVABLE = "not-removable"
    OBJECT_LOST = "object-lost"
    OBJECT_REPLACED = "object-replaced"
    OBJECT_UNKNOWN = "object-unknown"
    RETENTION = "retention"
    """The reason why a published copy is not released yet."""
    ROLLED_BACK = "rolled-back"
    ROOT_UNAVAILABLE = "root-unavailable"
    ROW_GONE = "row-gone"
    ROW_MISSING = "row-missing"
    ROW_NOT_NEWER = "row-not-newer"
    ROW_PROCESSING = "row-processing"
    UNREADABLE = "unreadable"
    UNRECORDABLE = "unrecordable"


FILE_SYSTEM_CODES = frozenset({Code.UNREADABLE, Code.NOT_OURS})
"""Codes of `failed` rows that every scan checks again, because the cause is in the file system."""

_TRANSIENT_ERRNOS = frozenset({errno.EAGAIN, errno.EINTR, errno.ESTALE})
_REMEDIES = {
    errno.ENOSPC: "free space on that disk.",
    errno.EDQUOT: "free space, or raise this user's quota.",
    errno.EROFS: "remount that file system read-write; the system log says why it is read-only.",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= in the unit).",
    errno.ENFILE: "raise the system-wide limit of open files (fs.file-max).",
}
"""What to do about the errors that concern the whole machine rather than one file."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: its kind, a stable code, and a sentence for the operator.

    `is_outage` says that it is transient and may concern every row: a server that is away, fails or asks for
    fewer requests. `unreachable` says as a phrase why no connection to S3 can be made, which concerns all.
    """

    kind: FailureKind
    code: str
    sentence: str
    is_outage: bool = False
    unreachable: str = ""

    @property
    def may_concern_all(self) -> bool:
        """Whether other rows may fail for the same reason."""
        return self.is_outage or self.kind is FailureKind.ENVIRONMENT


class StageError(Exception):
    """Raised by a stage for a failure that no lower layer reported."""

    def __init__(self, kind: FailureKind, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.failure = Failure(kind, code, sentence)


class DeferError(Exception):
    """Raised by a stage whose upload must wait. It is not a failure, and no attempt is counted."""

    def __init__(self, code: str, reason: str, delay_seconds: float) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.delay_seconds = delay_seconds


class DecidedError(Exception):
    """Raised by a stage that has recorded what happens to the upload before it has asked the server."""


class ReexamineError(Exception):
    """Raised by a stage whose file has changed since it was settled: it must be examined again.

    The upload is tried again once that is done, and after `delay_seconds` in any case.
    """

    def __init__(self, reason: str, delay_seconds: float = 2.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay_seconds = delay_seconds


MAX_FINDING = 300
"""How many characters of a finding are shown: some of it comes from the file."""


def incomplete_reason(finding: str) -> str:
    """A finding about a container, bounded and printable, and what to do about the file."""
    return (
        f"{printable(finding)[:MAX_FINDING]} The file is damaged: its encoder was killed, or two encoders "
        "wrote it at once. Compress the video again."
    )


HANDLED_ERRORS = (
    StageError,
    StorageError,
    DatabaseError,
    NotOursError,
    UnreadableError,
    RootUnavailableError,
    OSError,
)
"""The exceptions that `failure_of` accepts. A missing file is not a failure."""


def failure_of(exc: Exception) -> Failure:
    """The failure that an exception of `HANDLED_ERRORS` stands for; its sentence tells no secret."""
    failure = _classified(exc)
    return replace(failure, sentence=redact(failure.sentence), unreachable=redact(failure.unreachable))


def _classified(exc: Exception) -> Failure:
    match exc:
        case StageError():
            return exc.failure
        case StorageError():
            kind = FailureKind(exc.kind.value)
            return Failure(kind, exc.code, str(exc), is_outage=exc.is_outage, unreachable=exc.unreachable)
        case DatabaseError():
            return Failure(FailureKind(exc.kind.value), Code.DATABASE, str(exc))
        case RootUnavailableError():
            return Failure(FailureKind.ENVIRONMENT, Code.ROOT_UNAVAILABLE, str(exc))
        case NotOursError():
            return Failure(FailureKind.OBJECT, Code.NOT_OURS, str(exc))
        case UnreadableError() if exc.errno in _REMEDIES:
            return Failure(FailureKind.ENVIRONMENT, Code.LOCAL_SYSTEM, str(exc))
        case UnreadableError() if exc.errno in _TRANSIENT_ERRNOS:
            return Failure(FailureKind.TRANSIENT, Code.LOCAL_IO, str(exc))
        case UnreadableError():
            return Failure(FailureKind.OBJECT, Code.UNREADABLE, str(exc))
        case OSError() if exc.errno in _REMEDIES:
            sentence = f"The system refused: {exc}; {_REMEDIES[exc.errno]}"
            return Failure(FailureKind.ENVIRONMENT, Code.LOCAL_SYSTEM, sentence)
        case _:
            return Failure(
                FailureKind.TRANSIENT, Code.LOCAL_IO, f"Reading or writing the local file failed: {exc}."
            )
