"""What is known to be true of one example, read from files, S3 and tables, never from the daemon.

It can be read whatever state the daemon, or its connection to the database, is in.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from tests.faults.outages import DatabaseOutages
from tests.support.catalog_rows import CatalogRows
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.s3_server import S3Server
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.settings.model import Settings

NAMES = ("a_480p.mp4", "b_720p.mp4")


@dataclass
class Row:
    """A row of the compressor's, as it has written it: with the content that it writes or called ready."""

    id: str
    name: str
    status: str
    content: bytes | None = None


@dataclass
class KnownState:
    """The servers and directories of one example, and what is known to be true of them."""

    settings: Settings
    server: S3Server
    proxy: FaultProxy
    rows: CatalogRows
    database: DatabaseOutages
    video: bytes
    made: int = 0
    known: list[Row] = field(default_factory=list)
    called_ready: dict[str, set[bytes | None]] = field(
        default_factory=lambda: {name: set() for name in NAMES}
    )
    contents: dict[str, bytes] = field(default_factory=dict)
    """Everything that was ever written, by its MD5."""
    excused: set[bytes] = field(default_factory=set)
    """Contents that were destroyed, but not by the daemon."""
    away: dict[str, bytes] = field(default_factory=dict)
    zeroed: set[bytes | None] = field(default_factory=set)
    broken: int = 0
    """How many more requests S3 refuses."""
    _seen: tuple[object, dict[str, bytes | None]] | None = None
    own_deletions: int = 0
    """How many objects were deleted without the proxy."""

    def path(self, name: str) -> str:
        """Relative to the watched directory."""
        return f"{VIDEO_ID}/{name}"

    def absolute(self, name: str) -> str:
        """Where a file is."""
        return os.path.join(self.settings.completed_dir, VIDEO_ID, name)

    def key(self, name: str) -> str:
        """The name of a file's object."""
        return f"videos/{VIDEO_ID}/{name}"

    def on_disk(self, name: str) -> bytes | None:
        """What is under the file's name."""
        return content_of(self.absolute(name))

    def aside(self, name: str) -> bytes | None:
        """The content of the file's quarantined copy."""
        return next((content_of(path) for path in self.asides(name)), None)

    def objects(self) -> dict[str, bytes | None]:
        """The content of each file's object, identified by its ETag, the MD5 of what was once written."""
        # It is listed anew only if something has been written since.
        writes = sum(request.method in {"PUT", "POST", "DELETE"} for request in self.proxy.requests)
        state = (writes, self.own_deletions)
        if self._seen is None or self._seen[0] != state:
            listed: Any = self.server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
            etags = {found["Key"]: found["ETag"].strip('"') for found in listed}
            found = {name: etags.get(self.key(name)) for name in NAMES}
            objects = {name: self.contents.get(etag, b"?") if etag else None for name, etag in found.items()}
            self._seen = state, objects
        return self._seen[1]

    def stored(self, name: str) -> bytes | None:
        """What S3 has of one file."""
        return self.objects()[name]

    def newest(self, name: str) -> Row | None:
        """The file's newest row."""
        return next((row for row in reversed(self.known) if row.name == name), None)

    def processing(self, name: str) -> Row | None:
        """The row of the encode under way."""
        newest = self.newest(name)
        return newest if newest is not None and newest.status == "processing" else None

    def excuse_replaced(self, name: str) -> None:
        """Excuse what the object of the newest ready row has replaced, even once that row is deleted."""
        ready = [row.content for row in self.known if row.name == name and row.status == "ready"]
        if ready and ready[-1] == self.stored(name):
            self.excused.update(content for content in ready[:-1] if content and content != ready[-1])

    def is_public(self, row: Row) -> bool:
        """Whether players are given the object."""
        return f"/{BUCKET}/videos/" in self.rows.url_of(row.id)

    def is_proven(self, name: str, content: bytes) -> bool:
        """Whether the object is this content, and the ledger has a proof of it for the newest ready row."""
        row = next((row for row in reversed(self.known) if row.name == name and row.status == "ready"), None)
        if row is None or self.stored(name) != content:
            return False
        proofs = self.rows.connection.execute(
            "SELECT 1 FROM video_uploader.uploads u, video_qualities q WHERE q.id::text = %s"
            " AND u.verified_at IS NOT NULL AND u.etag = %s AND u.catalog_row_at >= q.created_at",
            [row.id, md5(content)],
        )
        return proofs.fetchone() is not None

    def asides(self, name: str) -> list[str]:
        """The paths of a file's quarantined copies."""
        directory = os.path.dirname(self.absolute(name))
        names = {entry: parse_quarantine_name(entry) for entry in sorted(os.listdir(directory))}
        if not any(names.values()):
            return []
        query = "SELECT id FROM video_uploader.uploads WHERE path = %s"
        ours = {row["id"] for row in self.rows.connection.execute(query, [self.path(name)])}
        return [
            os.path.join(directory, entry) for entry, name in names.items() if name and name.upload_id in ours
        ]


def md5(content: bytes) -> str:
    """What S3 calls an object that was sent at once."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def content_of(path: str) -> bytes | None:
    """What a file holds, None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
