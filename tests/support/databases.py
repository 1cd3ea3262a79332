"""Databases for tests, and uploads to put into them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from db import Database, Identity, Ledger, State, Upload, open_database

_T = TypeVar("_T")

VIDEO_ID = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
IDENTITY = Identity(device=2049, inode=12, size=1_000, mtime_ns=1_700_000_000_000_000_000)
CHECKSUM = "AAAAAAAAAAA="
PUBLIC_URL = "https://bucket.example/videos/my_video_720p.mp4"
LOCAL_URL = "file:///completed/my_video_720p.mp4"
_INODES = itertools.count(IDENTITY.inode)
"""Each upload that a test adds has other content, because the same content is not added twice."""
LEASE = timedelta(seconds=60)
HORIZON = timedelta(hours=1)


class Clock:
    """A clock for `Ledger` that moves only when `advance` is called."""

    def __init__(self) -> None:
        self.now = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **span: float) -> datetime:
        """Move by a `timedelta` of these arguments, which may be negative; returns the new time."""
        self.now += timedelta(**span)
        return self.now


@dataclass(frozen=True)
class DatabaseAddress:
    """The address of a database that is created when it is first opened."""

    url: str
    schema: str | None

    def open(self, **options: Any) -> Database:
        """Open the database once more, as another process would."""
        return open_database(self.url, schema=self.schema, **options)


def enqueue(ledger: Ledger, path: str = "v/my_video_720p.mp4", **changes: Any) -> Upload:
    """Add a pending upload of a plausible rendition."""
    rendition: dict[str, Any] = {
        "video_id": VIDEO_ID,
        "filename": "my_video.mp4",
        "quality": "720p",
        "object_key": f"videos/{path}",
        "identity": replace(IDENTITY, inode=next(_INODES)),
    }
    upload = ledger.enqueue(path, **rendition | changes)
    assert upload is not None
    return upload


def claim(ledger: Ledger, state: State = State.PENDING, limit: int = 10) -> list[Upload]:
    """Claim with the usual lease and horizon."""
    return ledger.claim(state, limit, lease=LEASE, horizon=HORIZON)


def advance_to(ledger: Ledger, upload: Upload, state: State) -> Upload:
    """Move a pending upload to a state by the shortest legal route."""
    for step in ROUTES[state]:
        facts: dict[str, Any] = STATE_FACTS.get(step, {})
        upload = ledger.advance(upload, step, **facts)
    return upload


ROUTES: dict[State, tuple[State, ...]] = {
    State.PENDING: (),
    State.VERIFIED: (State.VERIFIED,),
    State.PUBLISHED: (State.VERIFIED, State.PUBLISHED),
    State.RELEASED: (State.VERIFIED, State.PUBLISHED, State.RELEASED),
    State.REJECTED: (State.REJECTED,),
    State.FAILED: (State.FAILED,),
    State.GONE: (State.GONE,),
    State.SUPERSEDED: (State.SUPERSEDED,),
}
STATE_FACTS: dict[State, dict[str, Any]] = {
    State.VERIFIED: {"checksum": CHECKSUM, "etag": "e", "version_id": "1", "confirmed_by": "checksum"},
    State.PUBLISHED: {"url": PUBLIC_URL},
}


def only(items: Iterable[_T]) -> _T:
    """The only item; an error if there is not exactly one."""
    (item,) = items
    return item
