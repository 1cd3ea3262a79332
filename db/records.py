"""The values that this package takes and returns: plain and immutable, never database models.

All times are aware and in UTC.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict, TypeVar

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


class Turn(IntEnum):
    """When an upload has its turn among those that are due."""

    BY_HAND = 0
    """Before all others, and a published one without regard to its retention: an operator asked for it."""
    FIRST_SMALL = 1
    """A small file, the smallest quality of a video of which nothing is uploaded."""
    FIRST = 2
    """As `FIRST_SMALL`, of any size."""
    LATER = 3


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
    turn = IntegerField(default=Turn.LATER.value, constraints=[SQL("DEFAULT 3")])
    """One of `Turn`."""


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


class Found(Proof, total=False):
    """What is known of an upload whose object alone is left (units as in `Upload`)."""

    catalog_row_id: str | None
    catalog_row_at: datetime | None


def check_facts(facts: Mapping[str, Any], allowed: type[Progress | Proof | Found]) -> dict[str, Any]:
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


def hash_text(*texts: str) -> int:
    """A signed number of 32 bits by which texts are found in an index that is shorter than they are."""
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(joined, digest_size=4).digest(), "big", signed=True)


RECEIPT_COLUMNS = (
    *("path", "filename", "quality", "size", "mtime_ns", "ctime_ns", "inode", "device", "checksum", "etag"),
    *("expected_etag", "confirmed_by", "object_key", "url", "discovered_at", "verified_at", "published_at"),
    *("released_at", "changed_at", "due_at", "bytes_sent", "claim", "catalog_row_id", "catalog_row_at"),
    *("version_id", "attempts", "finding", "part_size", "last_error", "error_code", "awaits_row", "turn"),
)
"""The columns of a receipt's content, in order: new ones at the end, because what is written stays."""

_RECEIPT_TIMES = [name for name in RECEIPT_COLUMNS if isinstance(UPLOAD_COLUMNS[name], UtcTimeField)]
_RECEIPT_DEFAULTS = {name: column.default for name, column in UPLOAD_COLUMNS.items()}
_RECEIPT_HEAD = Struct(">Bqqq8s16s")
"""The version, `mtime_ns`, `ctime_ns`, `discovered_at`, the checksum and the digits of the ETag."""
_RECEIPT_VERSION = 1
_ETAG = re.compile(r"([0-9a-f]{32})((?:-[0-9]+)?)")
_RECEIPT_WORDS = (
    b'"due now instead of later","waiting","The retention has not ended.","hurried","postponed","identity",'
    b'"the same content has another ","superseded","admitted","for catalog row ","adopted","reading","etag",'
    b'"original","144p","240p","1440p","2160p","360p","480p","1080p","720p",".webm",".mkv",null,null,null,'
    b".cloudfront.net/.s3.ap-southeast-2.amazonaws.com/.s3.us-west-2.amazonaws.com/.s3.us-east-1.amazonaws.com/"
    b'.s3.eu-west-1.amazonaws.com/.s3.eu-central-1.amazonaws.com/videos/",0,"verified","confirmed by checksum","published","https://videos/","released",'
    b'"the local copy was removed"]]"discovered"," bytes at .mp4","checksum","'
)
"""What the contents have in common (RFC 1950, preset dictionary); it never changes within a version."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def pack_receipt(upload: Upload, events: Iterable[UploadEvent]) -> bytes:
    """A released upload and its events, compressed: all but its id, instance, video and state.

    After `_RECEIPT_HEAD` it is JSON in raw DEFLATE (RFC 1951), with times in microseconds since the
    discovery. What is in the head is 0 there, but for the number of parts in the ETag.
    """
    base = upload.discovered_at
    values = {name: getattr(upload, name) for name in RECEIPT_COLUMNS}
    for name in _RECEIPT_TIMES:
        if values[name] is not None:
            values[name] = (values[name] - base) // _TICK
    values["mtime_ns"] = 0
    if upload.ctime_ns is not None:
        values["ctime_ns"] = 0
    checksum, etag = _base64_bytes(upload.checksum), _ETAG.fullmatch(upload.etag or "")
    if checksum is not None:
        values["checksum"] = 0
    if etag is not None:
        values["etag"] = [etag[2]]
    if upload.expected_etag is not None and upload.expected_etag == upload.etag:
        values["expected_etag"] = 0
    given = list(values.values())
    while given[-1] == _RECEIPT_DEFAULTS[RECEIPT_COLUMNS[len(given) - 1]]:
        given.pop()
    told = [part for event in events for part in ((event.at - base) // _TICK, event.event, event.detail)]
    text = json.dumps([*given, told], ensure_ascii=False, separators=(",", ":"))
    packer = zlib.compressobj(9, wbits=-15, zdict=_RECEIPT_WORDS + upload.video_id.encode())
    head = _RECEIPT_HEAD.pack(
        _RECEIPT_VERSION,
        upload.mtime_ns,
        upload.ctime_ns or 0,
        (base - _EPOCH) // _TICK,
        checksum or b"",
        bytes.fromhex(etag[1]) if etag else b"",
    )
    return head + packer.compress(text.encode()) + packer.flush()


def unpack_receipt(number: int, instance: str, video_id: str, content: bytes) -> tuple[Upload, list[Any]]:
    """The upload that `pack_receipt` was given, and its events for `receipt_events`."""
    _, mtime_ns, ctime_ns, discovered_at, checksum, etag = _RECEIPT_HEAD.unpack_from(content)
    unpacker = zlib.decompressobj(wbits=-15, zdict=_RECEIPT_WORDS + video_id.encode())
    *given, told = json.loads(unpacker.decompress(content[_RECEIPT_HEAD.size :]))
    values = {**_RECEIPT_DEFAULTS, **dict(zip(RECEIPT_COLUMNS, given, strict=False))}
    values.update(id=number, instance=instance, video_id=video_id, state=State.RELEASED, mtime_ns=mtime_ns)
    base = _EPOCH + discovered_at * _TICK
    for name in _RECEIPT_TIMES:
        if values[name] is not None:
            values[name] = base + values[name] * _TICK
    if values["ctime_ns"] is not None:
        values["ctime_ns"] = ctime_ns
    if values["checksum"] == 0:
        values["checksum"] = b64encode(checksum).decode()
    if isinstance(values["etag"], list):
        values["etag"] = etag.hex() + values["etag"][0]
    if values["expected_etag"] == 0:
        values["expected_etag"] = values["etag"]
    return Upload(**values), told


def _base64_bytes(text: str | None) -> bytes | None:
    """The 8 bytes of a CRC64NVME; None if it is another text."""
    try:
        found = b64decode(text or "", validate=True)
    except ValueError:
        return None
    return found if len(found) == 8 and b64encode(found).decode() == text else None


def receipt_events(upload: Upload, told: Sequence[Any]) -> list[UploadEvent]:
    """The events of a receipt, oldest first."""
    base = upload.discovered_at
    return [
        UploadEvent(base + timedelta(microseconds=at), event, detail)
        for at, event, detail in zip(told[::3], told[1::3], told[2::3], strict=True)
    ]


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


class Observer(Protocol):
    """Is told of every upload that comes into another state."""

    def record(self, upload: Upload) -> bool:
        """Record what follows, within the transaction of the change; returns whether to call `wake`."""

    def wake(self) -> None:
        """Have done what was recorded."""
