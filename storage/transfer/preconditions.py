"""The condition on which an object may be written, so that no object is overwritten unseen."""

from dataclasses import dataclass
from typing import Self


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


UNCONDITIONAL = WriteCondition.unconditional()
