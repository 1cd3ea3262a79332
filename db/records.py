"""The values that this package takes and returns: plain and immutable, never database models.

All times are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, TypedDict

from db.states import State

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

    def clamped(self) -> Identity:
        """The storable identity nearest to this one."""
        return replace(self, mtime_ns=max(MIN_BIGINT, min(self.mtime_ns, MAX_BIGINT)))


@dataclass(frozen=True, slots=True)
class Upload:
    """One row of the ledger as it was when it was read: the upload of one content of one file.

    The fields are the columns of `db.models.UploadRow`, in the same order. `claim` is a fencing token:
    `Ledger` accepts a write only with the row's present number.
    """

    id: int
    instance: str
    path: str
    """Relative to the watched directory, '/'-separated."""
    video_id: str
    """Canonical lower-case UUID."""
    filename: str
    quality: str
    device: int
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int | None
    """Once there is a `checksum`, the file's ctime before it was hashed; None in rows of earlier versions."""
    checksum: str | None
    """Base64 of the 8 big-endian bytes of the CRC64NVME over the whole file, as S3's `ChecksumCRC64NVME`."""
    etag: str | None
    version_id: str | None
    confirmed_by: str | None
    """'checksum' or 'etag'."""
    object_key: str
    url: str | None
    """The public URL, once known."""
    finding: str | None
    """What is wrong with its container, where the catalog decides whether that matters."""
    awaits_row: bool
    """Whether it waits at the catalog gate; `due_at` is then when the wait began."""
    catalog_row_id: str | None
    """The catalog row that it was admitted for and may be published onto."""
    catalog_row_at: datetime | None
    """The catalog's creation time of that row."""
    state: State
    attempts: int
    """Failed attempts since the last transition."""
    due_at: datetime
    last_error: str | None
    error_code: str | None
    """The stable code of `last_error`; without a `last_error`, what the upload waits for."""
    claimed_by: str | None
    claim: int
    claimed_until: datetime | None
    multipart_id: str | None
    part_size: int | None
    """Bytes."""
    bytes_sent: int
    discovered_at: datetime
    changed_at: datetime
    """When `state` last changed."""
    verified_at: datetime | None
    published_at: datetime | None
    released_at: datetime | None

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
        return {field.name: _as_json(getattr(self, field.name)) for field in fields(self)}


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

    @property
    def age_order(self) -> tuple[datetime, str]:
        """The sort key for rows from the oldest to the newest."""
        return self.created_at, self.id


def format_time(time: datetime) -> str:
    """A time as fixed-width ISO 8601 in UTC with microseconds, so that texts sort in order of time."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`."""
    return datetime.fromisoformat(text)


def _as_json(value: State | str | float | datetime | None) -> JSON:
    if isinstance(value, datetime):
        return format_time(value)
    return value.value if isinstance(value, State) else value
