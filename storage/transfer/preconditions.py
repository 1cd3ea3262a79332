"""The condition on which an object may be written, so that no object is overwritten unseen."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog

from storage.dialect import HEEDED_IF_NONE_MATCH, IF_NONE_MATCH, QUOTED_IF_MATCH, ServerDialect
from storage.errors import PreconditionError, StorageError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

CONFLICT_SECONDS = 1.0
"""How long to wait before the object is looked at again after a condition was said not to be met."""

PROOF_AFTER = 16
"""After so many looks that found nothing the server has to prove it, and keys are no longer looked at."""

_UNMET_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "http-412", "http-409"})
_CONFLICT_CODES = frozenset({"ConditionalRequestConflict", "http-409"})
_GONE_CODES = frozenset({"NoSuchKey", "http-404"})

_T = TypeVar("_T")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class WriteCondition:
    """A precondition (RFC 9110, section 13.1) that the server checks when the object would appear."""

    header: tuple[str, str] | None = None
    is_required: bool = False
    """Whether nothing is written where the server turns out to refuse the header."""

    @classmethod
    def unconditional(cls) -> Self:
        """Replace whatever object is there."""
        return cls()

    @classmethod
    def if_absent(cls, *, is_required: bool = False) -> Self:
        """Write only if there is no object with that key."""
        return cls(("If-None-Match", "*"), is_required)

    @classmethod
    def if_match(cls, etag: str) -> Self:
        """Write only if the object that is there has this ETag (without quotes)."""
        return cls(("If-Match", f'"{etag}"'))

    @property
    def expected_etag(self) -> str | None:
        """The ETag that the object must have, without quotes; None if there must be none, or any."""
        is_match = self.header is not None and self.header[0] == "If-Match"
        return self.header[1].strip('"') if self.header is not None and is_match else None


def with_condition(
    dialect: ServerDialect,
    key: str,
    condition: WriteCondition,
    attempt: Callable[[Headers], _T],
    *,
    present_etag: Callable[[], str | None],
    wait: Callable[[float], None] = time.sleep,
) -> _T:
    """Call `attempt`, which makes an object appear, with the headers of `condition`.

    Raises `PreconditionError` if it is not met. `present_etag` looks the object up: its ETag, None if there
    is none. Where the server says that the condition is not met although every look says that it is, the
    object is written without; where it compares ETags without their quotes, so is the condition sent.
    """
    if condition.header is None:
        return attempt(())
    name, value = condition.header
    expected = condition.expected_etag
    values = [value, *([] if expected is None else [expected])]
    if not dialect.takes(QUOTED_IF_MATCH):
        values = values[-1:]
    said = ""
    has_conflicted = False
    while values:
        value = values.pop(0)
        unmet = _attempted(attempt, (name, value), is_match=expected is not None)
        if not isinstance(unmet, StorageError):
            if said and value == expected and not has_conflicted:
                dialect.learn(QUOTED_IF_MATCH, said)
            return unmet[0]
        if present_etag() != expected:
            raise PreconditionError(key, unmet.code) from unmet
        said = unmet.said
        if unmet.code in _CONFLICT_CODES and not has_conflicted:
            has_conflicted = True
            values.insert(0, value)
            wait(CONFLICT_SECONDS)
    wait(CONFLICT_SECONDS)
    if present_etag() != expected:
        raise PreconditionError(key, said.partition(":")[0])
    _log.warning("condition_dropped", key=key, condition=name, said=said)
    return attempt(())


class UnseenWrites:
    """Whether an object may be written without a look at its key first. Safe for threads.

    It may once this server was seen to keep an object that a request said must not be there. Before, it is
    looked at each key, which takes a request for each file.
    """

    def __init__(self, dialect: ServerDialect) -> None:
        self._dialect = dialect
        self._lock = threading.Lock()
        self._looks = 0

    @property
    def are_safe(self) -> bool:
        """Whether the server keeps an object that it is told to keep, and there are few at new keys."""
        takes = self._dialect.takes(IF_NONE_MATCH, "PutObject")
        is_heeded = takes and self._dialect.known(HEEDED_IF_NONE_MATCH) is True
        return is_heeded and self._looks >= PROOF_AFTER

    def note_unmet(self) -> None:
        """Note that a body was sent in vain, as each one is where the ledger was lost: look at keys again."""
        with self._lock:
            self._looks = 0

    def note_absent(self) -> bool:
        """Count a look that found nothing; whether to find out now if the server keeps objects."""
        with self._lock:
            self._looks += 1
            is_due = self._looks == PROOF_AFTER
        is_open = self._dialect.known(HEEDED_IF_NONE_MATCH) is None
        return is_due and is_open and self._dialect.takes(IF_NONE_MATCH, "PutObject")


def _attempted(
    attempt: Callable[[Headers], _T], header: tuple[str, str], *, is_match: bool
) -> StorageError | tuple[_T]:
    """The error that says that the condition is not met, or the result."""
    try:
        return (attempt((header,)),)
    except StorageError as exc:
        if exc.code not in (_UNMET_CODES | _GONE_CODES if is_match else _UNMET_CODES):
            raise
        return exc
