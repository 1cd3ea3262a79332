"""What went wrong, in one shape, whichever package said it: the kind decides what happens next."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum

from db import DatabaseError
from storage import StorageError
from watcher.filesystem.openat import NotOursError, RootUnavailableError, UnreadableError


class FailureKind(StrEnum):
    """The three kinds of errors; see the README's table of what happens after each."""

    TRANSIENT = "transient"
    ENVIRONMENT = "environment"
    OBJECT = "object"


class Code(StrEnum):
    """Every error code that this package gives; those of S3 and of `storage` are in `StorageError.code`."""

    CATALOG_BUSY = "catalog-busy"
    DATABASE = "database"
    ENCODE_FAILED = "encode-failed"
    FOREIGN_OBJECT = "foreign-object"
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
    OBJECT_DIFFERS = "object-differs"
    OBJECT_LOST = "object-lost"
    OBJECT_MISSING = "object-missing"
    OBJECT_REPLACED = "object-replaced"
    OBJECT_UNKNOWN = "object-unknown"
    RETENTION = "retention"
    """A published copy waits for this until it is released."""
    ROLLED_BACK = "rolled-back"
    ROOT_UNAVAILABLE = "root-unavailable"
    ROW_GONE = "row-gone"
    ROW_MISSING = "row-missing"
    ROW_NOT_NEWER = "row-not-newer"
    ROW_PROCESSING = "row-processing"
    UNREADABLE = "unreadable"


MENDABLE_CODES = frozenset({Code.UNREADABLE, Code.NOT_OURS})
"""Codes of `failed` rows whose reason the file system can take away: looked at again by every scan."""

_TRANSIENT_ERRNOS = frozenset({errno.EAGAIN, errno.EINTR, errno.ESTALE})
_MENDS = {
    errno.ENOSPC: "make room on that disk.",
    errno.EDQUOT: "make room, or raise this user's quota.",
    errno.EROFS: "mount that file system for writing; the system log says what made it read-only.",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= in the unit).",
    errno.ENFILE: "raise the limit of open files of the whole system (fs.file-max).",
}
"""What to do about the errors that are of the whole machine, and of no single file."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: what kind it is, a stable code, and a sentence a person can act on."""

    kind: FailureKind
    code: str
    sentence: str


class StageError(Exception):
    """Raised by a stage that found a reason of its own not to go on with a row."""

    def __init__(self, kind: FailureKind, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.failure = Failure(kind, code, sentence)


class DeferError(Exception):
    """Raised by a stage whose row has to wait for somebody else: no failure, and no attempt is counted."""

    def __init__(self, code: str, reason: str, delay_seconds: float) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.delay_seconds = delay_seconds


class ReexamineError(Exception):
    """Raised by a stage whose file is not as it was settled: the settler has to look at the path again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


HANDLED_ERRORS = (
    StageError,
    StorageError,
    DatabaseError,
    NotOursError,
    UnreadableError,
    RootUnavailableError,
    OSError,
)
"""Every exception that `failure_of` has a sentence for; a file that is missing is a fact, not a failure."""


def failure_of(exc: Exception) -> Failure:
    """The problem that an exception of `HANDLED_ERRORS` stands for."""
    match exc:
        case StageError():
            return exc.failure
        case StorageError():
            return Failure(FailureKind(exc.kind.value), exc.code, str(exc))
        case DatabaseError():
            return Failure(FailureKind(exc.kind.value), Code.DATABASE, str(exc))
        case RootUnavailableError():
            return Failure(FailureKind.ENVIRONMENT, Code.ROOT_UNAVAILABLE, str(exc))
        case NotOursError():
            return Failure(FailureKind.OBJECT, Code.NOT_OURS, str(exc))
        case UnreadableError() if exc.errno in _MENDS:
            return Failure(FailureKind.ENVIRONMENT, Code.LOCAL_SYSTEM, str(exc))
        case UnreadableError() if exc.errno in _TRANSIENT_ERRNOS:
            return Failure(FailureKind.TRANSIENT, Code.LOCAL_IO, str(exc))
        case UnreadableError():
            return Failure(FailureKind.OBJECT, Code.UNREADABLE, str(exc))
        case OSError() if exc.errno in _MENDS:
            mend = _MENDS[exc.errno]
            return Failure(FailureKind.ENVIRONMENT, Code.LOCAL_SYSTEM, f"This machine refused: {exc}; {mend}")
        case _:
            return Failure(
                FailureKind.TRANSIENT, Code.LOCAL_IO, f"Reading or writing the local file failed: {exc}."
            )
