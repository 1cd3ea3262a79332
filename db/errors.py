"""What can go wrong in this package, in its own words.

`db.driver_errors` turns driver and peewee errors into `DatabaseError`; code outside this package branches
on `kind` and on the class, never on a message.
"""

from enum import StrEnum

from db.states import State


class ErrorKind(StrEnum):
    """Who can help: time, the operator, or nobody but this one row's owner."""

    TRANSIENT = "transient"
    """Trying again later can help: the database is busy or away."""
    ENVIRONMENT = "environment"
    """Nothing works until somebody changes something: permissions, disk space, a missing schema."""
    OBJECT = "object"
    """The database refuses these values; other rows are not concerned."""


class DatabaseError(Exception):
    """The database did not do what was asked.

    `kind` says whether a retry can help, `operation` what was tried, `hint` what a person can do about it.
    """

    def __init__(self, kind: ErrorKind, operation: str, reason: str, hint: str) -> None:
        super().__init__(f"Could not {operation}: {reason.rstrip('.')}. {hint}")
        self.kind = kind
        self.operation = operation
        self.reason = reason
        self.hint = hint


class DatabaseUrlError(DatabaseError, ValueError):
    """The database URL cannot be understood. Always of the kind `environment`."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            ErrorKind.ENVIRONMENT,
            "understand the database URL",
            reason,
            "Write sqlite:///absolute/path or postgresql://user:password@host:5432/database.",
        )


class LedgerError(Exception):
    """The ledger refused a request; the row is as it was before."""


class IllegalTransitionError(LedgerError):
    """A state was asked for that cannot follow the present one (`db.TRANSITIONS`)."""

    def __init__(self, upload_id: int, present: State, wanted: State) -> None:
        super().__init__(f"Upload {upload_id} is {present} and cannot become {wanted} from there.")
        self.upload_id = upload_id
        self.present = present
        self.wanted = wanted


class ClaimLostError(LedgerError):
    """The row moved on since it was read: another worker claimed it, or newer content superseded it.

    Whoever gets this stops working on the row and writes nothing more about it.
    """

    def __init__(self, upload_id: int, claim: int) -> None:
        super().__init__(f"Claim {claim} on upload {upload_id} is no longer ours; its row has moved on.")
        self.upload_id = upload_id
        self.claim = claim


class UnknownUploadError(LedgerError):
    """No upload of this instance has that number."""

    def __init__(self, upload_id: int) -> None:
        super().__init__(f"There is no upload {upload_id} in this instance; `list` shows those there are.")
        self.upload_id = upload_id
