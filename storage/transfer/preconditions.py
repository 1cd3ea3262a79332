"""The condition on which an object may be written, so that no object is overwritten unseen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog

from storage.errors import PreconditionError, StorageError
from storage.transfer.crt_client import CrtClient

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

_PRECONDITION_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "http-412", "http-409"})
_UNSUPPORTED_CODES = frozenset({"NotImplemented", "http-501"})
_GONE_CODES = frozenset({"NoSuchKey", "http-404"})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WriteCondition:
    """A precondition (RFC 9110, section 13.1) that the server checks when the object would appear."""

    header: tuple[str, str] | None = None

    @classmethod
    def unconditional(cls) -> Self:
        """Replace whatever object is there."""
        return cls()

    @classmethod
    def if_absent(cls) -> Self:
        """Write only if there is no object with that key."""
        return cls(("If-None-Match", "*"))

    @classmethod
    def if_match(cls, etag: str) -> Self:
        """Write only if the object that is there has this ETag (without quotes)."""
        return cls(("If-Match", f'"{etag}"'))


def with_condition(
    crt: CrtClient, key: str, condition: WriteCondition, attempt: Callable[[tuple[tuple[str, str], ...]], _T]
) -> _T:
    """Call `attempt`, which makes an object appear, with the headers of `condition`.

    Raises `PreconditionError` if it is not met. A server that does not support conditions is sent none, then
    and from then on.
    """
    header = condition.header
    if header is None or not crt.conditions_supported:
        return attempt(())
    try:
        return attempt((header,))
    except StorageError as exc:
        if exc.code in _PRECONDITION_CODES or (header[0] == "If-Match" and exc.code in _GONE_CODES):
            raise PreconditionError(key, exc.code) from exc
        if exc.code not in _UNSUPPORTED_CODES:
            raise
    result = attempt(())
    crt.conditions_supported = False
    _log.info("conditions_unsupported", key=key)
    return result
