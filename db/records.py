"""The values that this package takes and returns: plain and immutable, never database models.

All times are aware and in UTC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar

from peewee import SQL, BigAutoField, BigIntegerField, BooleanField, Field, IntegerField, TextField

from db.fields import CanonicalUuidField, StateField, Unsigned64Field, UtcTimeField, format_time
from db.states import State

_T = TypeVar("_T")

MIN_BIGINT, MAX_BIGINT = -(2**63), 2**63 - 1

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]
"""A value that `json.dumps` takes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which content a path held when it was examined, from `fstat(2)`.

    `device` and `inode` are unsigned 64-bit numbers, `size` is in bytes, `mtime_ns` and `ctime_ns` are in
    nanoseconds since the epoch. `ctime_ns` is None if it is unknown.

    Two identities are equal whatever their ctime, which chmod(2), link(2) and rename(2) change too: see
    inode(7). But no process can set it, so another ctime is all that shows an edit which keeps size and mtime
    (`rsync --inplace -t`, `exiftool -P`). `is_exactly` and `Upload.holds` compare it. Two changes within one
    tick of the kernel's clock, a few milliseconds, have the same ctime.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int | None = field(default=None, compare=False)

    def is_exactly(self, other: Identity) -> bool:
        """Whether the two are equal, and their ctimes too if both are known: nothing was done to the file."""
        is_known = self.ctime_ns is not None and other.ctime_ns is not None
        return self == other and (not is_known or self.ctime_ns == other.ctime_ns)

    def was_touched_after(self, other: Identity) -> bool:
        """Whether both ctimes are known, and this one is later."""
        return self.ctime_ns is not None and other.ctime_ns is not None and self.ctime_ns > other.ctime_ns

    @property
    def is_storable(self) -> bool:
        """Whether a column of the ledger, a signed 64-bit number, can hold `mtime_ns`: 1677 to 2262."""
        return MIN_BIGINT <= self.mtime_ns <= MAX_BIGINT

    def changes_to(self, after: Identity) -> str:
        """The names of the attributes that differ in another identity, for users."""
        names = {
            "device": "device",
            "inode": "inode",
            "size": "size",
            "mtime_ns": "modification time",
            "ctime_ns": "change time",
        }
        changed = [label for name, label in names.items() if getattr(self, name) != getattr(after, name)]
        return ", ".join(changed) or "identity"

    def clamped(self) -> Identity:
        """The storable identity nearest to this one."""
        return replace(self, mtime_ns=max(MIN_BIGINT, min(self.mtime_ns, MAX_BIGINT)))


class UploadColumns:
    """The columns of the ledger, of which `db.models` makes the table and `Upload` is the record."""

    __slots__ = ()

    id = BigAutoField()
    instance = TextField()
    path = TextField()
    """Relative to the watched directory, '/'-separated."""
    video_id: Field[str] = CanonicalUuidField()
    """Canonical lower-case UUID."""
    filename = TextField()
    quality = TextField()
    device: Field[int] = Unsigned64Field()
    inode: Field[int] = Unsigned64Field()
    size = BigIntegerField()
    """Bytes."""
    mtime_ns = BigIntegerField()
    ctime_ns = BigIntegerField(null=True)
    """The file's ctime before it was hashed, once there is a `checksum`, or before a part of it was sent."""
    checksum = TextField(null=True)
    """Base64 of the 8 big-endian bytes of the CRC64NVME over the whole file, as S3's `ChecksumCRC64NVME`."""
    etag = TextField(null=True)
    expected_etag = TextField(null=True)
    """The ETag that a server which makes ETags from MD5s gives the object, from before it can exist."""
    version_id = TextField(null=True)
    confirmed_by = TextField(null=True)
    """'checksum', 'etag', or 'reading' for an object that was read back."""
    object_key = TextField()
    url = TextField(null=True)
    """The public URL, once known."""
    finding = TextField(null=True)
    """What is wrong with its container, where the catalog decides whether that matters."""
    awaits_row = BooleanField(default=False, constraints=[SQL("DEFAULT FALSE")])
    """Whether it waits at the catalog gate; `due_at` is then when the wait began."""
    catalog_row_id: Field[str | None] = CanonicalUuidField(null=True)
    """The catalog row that it was admitted for and may be published onto."""
    catalog_row_at: Field[datetime | None] = UtcTimeField(null=True)
    """The `CatalogRow.order_time` of that row."""
    state: Field[State] = StateField()
    attempts = IntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    """Failed attempts since the last transition."""
    due_at: Field[datetime] = UtcTimeField()
    last_error = TextField(null=True)
    error_code = TextField(null=True)
    """The stable code of `last_error`; without a `last_error`, what the upload waits for."""
    claimed_by = TextField(null=True)
    claim = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    claimed_until: Field[datetime | None] = UtcTimeField(null=True)
    multipart_id = TextField(null=True)
    part_size = BigIntegerField(null=True)
    """Bytes."""
    bytes_sent = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    discovered_at: Field[datetime] = UtcTimeField()
    changed_at: Field[datetime] = UtcTimeField()
    """When `state` last changed."""
    verified_at: Field[datetime | None] = UtcTimeField(null=True)
    published_at: Field[datetime | None] = UtcTimeField(null=True)
    released_at: Field[datetime | None] = UtcTimeField(null=True)


UPLOAD_COLUMNS: Mapping[str, Any] = {
    name: column for name, column in vars(UploadColumns).items() if isinstance(column, Field)
}
"""The columns by name, in the order of the table."""


def _record(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass of the class, with a field for each of `UPLOAD_COLUMNS`."""
    cls.__annotations__ = dict.fromkeys(UPLOAD_COLUMNS, Any)
    for name in UPLOAD_COLUMNS:
        # An inherited column would become the field's default.
        setattr(cls, name, field())
    return dataclass(frozen=True, slots=True)(cls)


@_record
class Upload(UploadColumns):
    """One row of the ledger as it was when it was read: the upload of one content of one file.

    The attributes are those of `UploadColumns`. `claim` is a fencing token: `Ledger` accepts a write only
    with the row's present number.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

        def __init__(self, **columns: Any) -> None: ...

    @property
    def identity(self) -> Identity:
        """The file's identity when it was last known to hold this content."""
        return Identity(self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns)

    def holds(self, identity: Identity) -> bool:
        """Whether a file with this identity has the content of this row.

        Another ctime, if it is known, may mean that content which was hashed has been edited since.
        """
        return self.identity == identity if self.checksum is None else self.identity.is_exactly(identity)

    def as_dict(self) -> dict[str, JSON]:
        """The row by column name, ready for JSON; times as ISO 8601 in UTC, ending in 'Z'."""
        return {name: _as_json(getattr(self, name)) for name in UPLOAD_COLUMNS}


class Admission(TypedDict):
    """What the catalog gate decides when it admits an upload: the row, and the names that follow from it."""

    catalog_row_id: str
    catalog_row_at: datetime
    filename: str
    quality: str
    object_key: str


class Progress(TypedDict, total=False):
    """What a stage may record while it works on an upload (units as in `Upload`)."""

    catalog_row_id: str
    catalog_row_at: datetime
    filename: str
    quality: str
    object_key: str

    ctime_ns: int | None
    checksum: str | None
    etag: str | None
    expected_etag: str | None
    multipart_id: str | None
    part_size: int | None
    bytes_sent: int
    url: str | None
    published_at: datetime


class Proof(TypedDict, total=False):
    """What a stage may record when it moves an upload to another state (units as in `Upload`)."""

    checksum: str | None
    etag: str | None
    version_id: str | None
    confirmed_by: str | None
    url: str | None
    bytes_sent: int


def check_facts(facts: Mapping[str, Any], allowed: type[Progress | Proof]) -> dict[str, Any]:
    """The facts, all of which `allowed` declares: a stage cannot write a state or a claim with them.

    Raises TypeError.
    """
    if unknown := facts.keys() - allowed.__annotations__.keys():
        raise TypeError(f"not a fact that may be recorded here: {', '.join(sorted(unknown))}")
    return dict(facts)


@dataclass(frozen=True, slots=True)
class UploadEvent:
    """One event in an upload's history."""

    at: datetime
    event: str
    detail: str

    def as_dict(self) -> dict[str, JSON]:
        """The event, ready for JSON; its time as ISO 8601 in UTC."""
        return {"at": format_time(self.at), "event": self.event, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """The latest report of a running daemon."""

    instance: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    report: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One row of the catalog: the URL at which players find one quality of one video."""

    id: str
    video_id: str
    quality: str
    url: str
    status: str
    """'processing', 'ready' or 'failed'; '' if the row has none, as with `quality` and `url`."""
    file_size: int | None
    """Bytes."""
    created_at: datetime
    """The epoch if the time is unknown."""
    updated_at: datetime
    """The epoch if the time is unknown."""
    oddity: str | None = None
    """Which values of the row are missing or cannot be represented, as a sentence; None if none is."""
    ordered_at: datetime | None = None
    """`created_at`, or a later time if older rows have that; None if the row was not compared with them."""

    @property
    def order_time(self) -> datetime:
        """The time by which the rows of a video are older or newer; it is no time of a clock."""
        return self.ordered_at or self.created_at

    @property
    def age_order(self) -> tuple[datetime, str]:
        """The sort key for rows from the oldest to the newest."""
        return self.order_time, self.id


def _as_json(value: State | str | float | datetime | None) -> JSON:
    if isinstance(value, datetime):
        return format_time(value)
    return value.value if isinstance(value, State) else value
