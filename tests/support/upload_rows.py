"""A row of the ledger, for tests that need no ledger."""

from __future__ import annotations

from datetime import UTC, datetime

from db import State, Upload

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROW = Upload(
    id=7,
    instance="test",
    path="v/a_720p.mp4",
    video_id="0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11",
    filename="a.mp4",
    quality="720p",
    device=1,
    inode=2,
    size=4 * 1024 * 1024,
    mtime_ns=3,
    ctime_ns=None,
    checksum=None,
    etag=None,
    expected_etag=None,
    version_id=None,
    confirmed_by=None,
    object_key="videos/v/a_720p.mp4",
    url=None,
    finding=None,
    awaits_row=False,
    catalog_row_id=None,
    catalog_row_at=None,
    state=State.PENDING,
    attempts=0,
    due_at=NOW,
    last_error=None,
    error_code=None,
    claimed_by=None,
    claim=0,
    claimed_until=None,
    multipart_id=None,
    part_size=None,
    bytes_sent=0,
    discovered_at=NOW,
    changed_at=NOW,
    verified_at=None,
    published_at=None,
    released_at=None,
)
