"""Column types that hold the same values on SQLite and on PostgreSQL.

`COLUMN_TYPES` maps each to its SQL type on either; `open_database` passes it to peewee. The conversions do
not depend on the database: PostgreSQL accepts for `uuid` and `timestamptz` the text that SQLite stores.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from peewee import Field

from db.states import State


class Dialect(StrEnum):
    """The SQL dialect of a database."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


if TYPE_CHECKING:
    # Fields are generic in peewee's stubs only.
    _Column = Field[Any]
else:
    _Column = Field

_CANONICAL_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

COLUMN_TYPES: Mapping[Dialect, Mapping[str, str]] = {
    Dialect.SQLITE: {"UTC_TIME": "TEXT", "CANONICAL_UUID": "TEXT", "COMPACT_UUID": "BLOB"},
    Dialect.POSTGRESQL: {"UTC_TIME": "TIMESTAMPTZ", "CANONICAL_UUID": "UUID", "COMPACT_UUID": "UUID"},
}


def format_time(time: datetime) -> str:
    """A time as fixed-width ISO 8601 in UTC with microseconds, so that texts sort in order of time."""
    in_utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`."""
    return datetime.fromisoformat(text)


class UtcTimeField(_Column):
    """An aware time in UTC: `timestamptz`, or on SQLite ISO 8601 text that sorts as time does."""

    field_type = "UTC_TIME"

    def db_value(self, value: datetime | None) -> str | None:
        """The text form. Raises ValueError for a naive time, which denotes no moment."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{self.name} needs a time with a time zone, not {value!r}")
        return format_time(value)

    def python_value(self, value: datetime | str | None) -> datetime | None:
        """The aware time in UTC."""
        return parse_time(value) if isinstance(value, str) else value and value.astimezone(UTC)


class CanonicalUuidField(_Column):
    """A UUID as its canonical lower-case text, dashes included; `uuid` on PostgreSQL."""

    field_type = "CANONICAL_UUID"

    def db_value(self, value: str | UUID | None) -> str | None:
        """The canonical text. Raises ValueError if it is no UUID."""
        if type(value) is str and _CANONICAL_UUID.fullmatch(value):
            return value
        return None if value is None else str(UUID(str(value)))

    def python_value(self, value: str | UUID | None) -> str | None:
        """The canonical text."""
        return None if value is None else str(value)


class CompactUuidField(CanonicalUuidField):
    """A UUID in 16 bytes: `uuid` on PostgreSQL, a blob on SQLite, where the text would take 36."""

    field_type = "COMPACT_UUID"

    def __init__(self, *arguments: Any, is_blob: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_blob = is_blob

    def db_value(self, value: str | UUID | None) -> Any:
        """The bytes on SQLite, else the canonical text. Raises ValueError if it is no UUID."""
        return UUID(str(value)).bytes if self._is_blob and value is not None else super().db_value(value)

    def python_value(self, value: Any) -> str | None:
        """The canonical text."""
        return str(UUID(bytes=value)) if isinstance(value, bytes) else super().python_value(value)


class Unsigned64Field(_Column):
    """An unsigned 64-bit number (a device or inode) in a signed bigint.

    Neither database has an unsigned type, so numbers from 2**63 on are stored in two's complement: equality
    and indexes work, order does not. Plain SQL shows such a number as negative.
    """

    field_type = "BIGINT"

    def db_value(self, value: int | None) -> int | None:
        """The signed number with the same 64 bits. Raises OverflowError if it has more."""
        return None if value is None else int.from_bytes(value.to_bytes(8, "big"), "big", signed=True)

    def python_value(self, value: int | None) -> int | None:
        """The unsigned number with the same 64 bits."""
        return None if value is None else value & 0xFFFF_FFFF_FFFF_FFFF


class StateField(_Column):
    """A `State`, stored as its value."""

    field_type = "TEXT"

    def db_value(self, value: State | str | None) -> str | None:
        """The value. Raises ValueError if it is no state."""
        return None if value is None else State(value).value

    def python_value(self, value: str | None) -> State | None:
        """The state with this value."""
        return None if value is None else State(value)
