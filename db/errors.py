"""The exceptions of this package, and how exceptions of peewee and the database drivers become them.

Callers branch on the class and on `kind`, never on a message.

Sources: SQLite, "Result and Error Codes" (sqlite.org/rescode.html); PostgreSQL, appendix "PostgreSQL Error
Codes" (SQLSTATE). An error without a code comes from a connection that failed or broke, and is transient.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

import peewee
from playhouse.pool import MaxConnectionsExceeded

from db.postgresql.driver import driver_errors
from db.states import State


class ErrorKind(StrEnum):
    """What resolves the error: a retry, the operator, or a change of the row."""

    TRANSIENT = "transient"
    """A later retry can succeed: the database is busy or unreachable."""
    ENVIRONMENT = "environment"
    """No retry succeeds until an operator acts: permissions, disk space, a missing schema."""
    OBJECT = "object"
    """The database rejects these values; other rows are not affected."""


class DatabaseError(Exception):
    """A database operation failed.

    `kind` says whether a retry can succeed, `operation` what was attempted, `hint` what the operator can do.
    """

    def __init__(self, kind: ErrorKind, operation: str, reason: str, hint: str) -> None:
        super().__init__(f"Could not {operation}: {reason.rstrip('.')}. {hint}")
        self.kind = kind
        self.operation = operation
        self.reason = reason
        self.hint = hint


class LockNotAvailableError(DatabaseError):
    """Another session holds a lock, or has just changed the row: always of the kind `transient`.

    It concerns only the rows of the operation.
    """

    def __init__(self, operation: str, reason: str) -> None:
        hint = "It is retried automatically; if it lasts, end the transaction of that session."
        super().__init__(ErrorKind.TRANSIENT, operation, reason, hint)


class ReadOnlyServerError(DatabaseError):
    """The server accepts no writes, as a standby does not: always of the kind `environment`."""

    def __init__(self, operation: str, reason: str) -> None:
        hint = "The server is read-only: point DATABASE_URL at the primary."
        super().__init__(ErrorKind.ENVIRONMENT, operation, reason, hint)


class ReplacedDatabaseError(DatabaseError):
    """Another database is in the place of the one that was opened: always of the kind `environment`.

    Nothing is read from it or written to it. The connections of SQLite are kept, because the last one that is
    closed would write the log of the earlier database into the file.
    """

    def __init__(self, operation: str, reason: str, hint: str) -> None:
        super().__init__(ErrorKind.ENVIRONMENT, operation, reason, hint)


class DatabaseUrlError(DatabaseError, ValueError):
    """The database URL is invalid. Always of the kind `environment`."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            ErrorKind.ENVIRONMENT,
            "parse the database URL",
            reason,
            "Write sqlite:///absolute/path or postgresql://user:password@host:5432/database.",
        )


class LedgerError(Exception):
    """The ledger refused a change; the row is as it was before."""


class IllegalTransitionError(LedgerError):
    """The requested state cannot follow the present one (`db.TRANSITIONS`)."""

    def __init__(self, upload_id: int, present: State, wanted: State) -> None:
        super().__init__(f"Upload {upload_id} is {present} and cannot become {wanted}.")
        self.upload_id = upload_id
        self.present = present
        self.wanted = wanted


class ClaimLostError(LedgerError):
    """The row has changed since it was read: another worker claimed it, or newer content superseded it.

    The caller must stop working on the row and write nothing more to it.
    """

    def __init__(self, upload_id: int, claim: int) -> None:
        super().__init__(f"Claim {claim} on upload {upload_id} is lost: the row has changed since.")
        self.upload_id = upload_id
        self.claim = claim


class UnknownUploadError(LedgerError):
    """No upload of this instance has that id."""

    def __init__(self, upload_id: int) -> None:
        super().__init__(f"There is no upload {upload_id} in this instance; `list` shows the existing ones.")
        self.upload_id = upload_id


_WAIT = "It is retried automatically"
_SCHEMA = (
    "The tables do not match this version of the program: start the daemon, which updates them, or run "
    "`video-uploader db migrate`."
)
_READABLE = "Check that the file and its directory exist and belong to the user that the daemon runs as."
_WRITABLE = (
    "Check that the file and its directory belong to the user that the daemon runs as, and that the file"
    " system is mounted for writing; if it has become read-only, the system log says why."
)
_CREDENTIALS = "Check the user, password and database name in DATABASE_URL (or in the POSTGRES_* settings)."
_DISK = "Free some space on the database's disk."
_VALUES = "This row cannot be written with these values; other rows are not affected."
_DAMAGED = "The database file is damaged or not a SQLite database: restore it from a backup or move it away."
_UNEXPECTED = "This error is unexpected; the database's log may say more."

_TRANSIENT = ErrorKind.TRANSIENT, f"{_WAIT}."
_REACHABLE = (
    "check that the server runs and can be reached, and that DATABASE_URL is correct, including sslmode and "
    "sslrootcert if it has them."
)
_UNREACHABLE = ErrorKind.TRANSIENT, f"{_WAIT}; if it lasts, {_REACHABLE}"
_EXHAUSTED = ErrorKind.TRANSIENT, f"{_WAIT}; if it lasts, allow the server more connections."

_SQLITE: Mapping[int, tuple[ErrorKind, str]] = {
    sqlite3.SQLITE_BUSY: _TRANSIENT,
    sqlite3.SQLITE_LOCKED: _TRANSIENT,
    sqlite3.SQLITE_PROTOCOL: _TRANSIENT,
    sqlite3.SQLITE_INTERRUPT: _TRANSIENT,
    sqlite3.SQLITE_NOMEM: _TRANSIENT,
    sqlite3.SQLITE_SCHEMA: _TRANSIENT,
    sqlite3.SQLITE_ERROR: (ErrorKind.ENVIRONMENT, _SCHEMA),
    sqlite3.SQLITE_CANTOPEN: (ErrorKind.ENVIRONMENT, _READABLE),
    sqlite3.SQLITE_PERM: (ErrorKind.ENVIRONMENT, _READABLE),
    sqlite3.SQLITE_AUTH: (ErrorKind.ENVIRONMENT, _READABLE),
    sqlite3.SQLITE_READONLY: (ErrorKind.ENVIRONMENT, _WRITABLE),
    sqlite3.SQLITE_IOERR: (
        ErrorKind.ENVIRONMENT,
        "Check the database's disk and its free space; the system log may say more.",
    ),
    sqlite3.SQLITE_FULL: (ErrorKind.ENVIRONMENT, _DISK),
    sqlite3.SQLITE_CORRUPT: (ErrorKind.ENVIRONMENT, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (ErrorKind.ENVIRONMENT, _DAMAGED),
    sqlite3.SQLITE_CONSTRAINT: (ErrorKind.OBJECT, _VALUES),
    sqlite3.SQLITE_TOOBIG: (ErrorKind.OBJECT, _VALUES),
    sqlite3.SQLITE_MISMATCH: (ErrorKind.OBJECT, _VALUES),
}
"""By primary result code, which is the low byte of the extended one."""

_POSTGRES: Mapping[str, tuple[ErrorKind, str]] = {
    "08": _UNREACHABLE,
    "22": (ErrorKind.OBJECT, _VALUES),
    "23": (ErrorKind.OBJECT, _VALUES),
    "25P03": _TRANSIENT,
    "28": (ErrorKind.ENVIRONMENT, _CREDENTIALS),
    "3D": (ErrorKind.ENVIRONMENT, _CREDENTIALS),
    "3F": (ErrorKind.ENVIRONMENT, _SCHEMA),
    "40": _TRANSIENT,
    "42": (ErrorKind.ENVIRONMENT, _SCHEMA),
    "42501": (ErrorKind.ENVIRONMENT, "Grant the database user the missing privilege (GRANT … TO …)."),
    "53": _EXHAUSTED,
    "53100": (ErrorKind.ENVIRONMENT, _DISK),
    "54": (ErrorKind.OBJECT, _VALUES),
    "55": _TRANSIENT,
    "57": _UNREACHABLE,
    "57014": (
        ErrorKind.TRANSIENT,
        f"{_WAIT}; if it lasts, find out what slows the server down (pg_stat_activity).",
    ),
    "58": (
        ErrorKind.ENVIRONMENT,
        "The server reports a failure of its disk or system; its log says more.",
    ),
}
"""By the whole SQLSTATE, else by its class, the first two characters."""


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """Run a block; an exception of peewee or a driver becomes a `DatabaseError` about `operation`."""
    try:
        yield
    except Exception as exc:
        if (error := translation_of(exc, operation)) is None:
            raise
        raise error from exc


def translation_of(exc: BaseException, operation: str) -> DatabaseError | None:
    """What an exception of peewee or a driver says about `operation`; None for any other exception."""
    if isinstance(exc, driver_errors(peewee.PeeweeException, sqlite3.Error)):
        match _sqlstate(exc):
            case "55P03":  # lock_not_available: NOWAIT, or lock_timeout is over
                return LockNotAvailableError(operation, _first_line(exc))
            case "25006":  # read_only_sql_transaction
                return ReadOnlyServerError(operation, _first_line(exc))
        kind, hint = _classify(exc)
        return DatabaseError(kind, operation, _first_line(exc), hint)
    if isinstance(exc, OverflowError):
        # sqlite3 raises it for a number that needs more than 64 bits.
        return DatabaseError(ErrorKind.OBJECT, operation, _first_line(exc), _VALUES)
    if isinstance(exc, MaxConnectionsExceeded):
        kind, hint = _TRANSIENT
        return DatabaseError(kind, operation, "all connections are in use", hint)
    return None


def _classify(exc: BaseException) -> tuple[ErrorKind, str]:
    """Kind and hint for the code of the driver's error, which peewee's wrapper keeps as `orig`."""
    driver_error = getattr(exc, "orig", exc)
    if state := _sqlstate(exc):
        return _POSTGRES.get(state) or _POSTGRES.get(state[:2]) or (ErrorKind.ENVIRONMENT, _UNEXPECTED)
    if isinstance(driver_error, driver_errors(name="DataError")):
        # Raised by psycopg itself for a value that PostgreSQL or Python cannot represent.
        return ErrorKind.OBJECT, _VALUES
    if isinstance(driver_error, sqlite3.Error):
        code = getattr(driver_error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
        return _SQLITE.get(code, (ErrorKind.ENVIRONMENT, _UNEXPECTED))
    return _UNREACHABLE


def _sqlstate(exc: BaseException) -> str | None:
    driver_error = getattr(exc, "orig", exc)
    return getattr(driver_error, "sqlstate", None) if isinstance(driver_error, driver_errors()) else None


def _first_line(exc: BaseException) -> str:
    """The driver's message without the excerpt of SQL that PostgreSQL appends to it."""
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
