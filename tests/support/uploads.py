"""A valid `Upload` for tests that need no database."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from db import State, Upload

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_upload(**changes: Any) -> Upload:
    """A pending upload of 4 MiB, discovered and due at `NOW`, except for the columns in `changes`."""
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Upload))
    values |= {"id": 7, "instance": "test", "path": "v/a_720p.mp4", "filename": "a.mp4", "quality": "720p"}
    values |= {"video_id": "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11", "object_key": "videos/v/a_720p.mp4"}
    values |= {"device": 1, "inode": 2, "size": 4 * 1024 * 1024, "mtime_ns": 3}
    values |= {"state": State.PENDING, "awaits_row": False, "attempts": 0, "claim": 0, "bytes_sent": 0}
    values |= dict.fromkeys(("due_at", "discovered_at", "changed_at"), NOW)
    return replace(Upload(**values), **changes)
