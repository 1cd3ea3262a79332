"""On what condition an object may be written, so that nobody's object is replaced unseen."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class WriteCondition:
    """A condition (RFC 9110, section 13.1) that the server checks in the moment the object would appear."""

    header: tuple[str, str] | None = None

    @classmethod
    def unconditional(cls) -> Self:
        """Whatever is there already is replaced."""
        return cls()

    @classmethod
    def if_absent(cls) -> Self:
        """Only if there is no object with that key."""
        return cls(("If-None-Match", "*"))

    @classmethod
    def if_match(cls, etag: str) -> Self:
        """Only if the object that is there has this ETag (without quotes)."""
        return cls(("If-Match", f'"{etag}"'))


ANYTHING = WriteCondition.unconditional()
"""No condition at all."""
