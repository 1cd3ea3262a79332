"""The exceptions of this package.

`db.driver_errors` translates exceptions of peewee and the drivers into `DatabaseError`. Callers branch on the
class and on `kind`, never on a message.
"""

from enum import StrEnum

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
