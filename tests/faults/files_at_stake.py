"""The files at stake while a fault is injected, and the verdict on what became of them.

The verdict does not rely on the daemon: it compares every version of every object in S3, the files that
are left, and the rows of the ledger.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from db import State
from storage import PROBE_NAME
from tests.faults.catalogue import STOPS
from tests.faults.outcomes import Outcome
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.daemon_process import DaemonProcess, place_file, rows
from tests.support.harness import BUCKET
from tests.support.s3_server import S3Server
from tests.support.video_files import padded
from watcher.settings.model import Settings

BELIEVED = frozenset({State.VERIFIED, State.PUBLISHED, State.RELEASED})
"""States in which the ledger says that the object is there."""
BYSTANDERS = "5e1b0f2c-7a34-4c58-9d0e-2f6f1c8ab790"
"""The video of files that have nothing to do with the fault."""
PROMISED_SECONDS = 2.0
"""Others wait no longer than this on a machine at rest."""
SLOWNESS = float(os.environ.get("FAULTS_SLOWNESS", "30"))
"""By how much this machine may be slower than that, because of what else it does."""


@dataclass
class FilesAtStake:
    """The files that a test puts at stake. The bucket is versioned, so that every upload is seen."""

    fault: str
    server: S3Server
    report: Callable[[Outcome], object]
    injected: int = 0
    outcome: Outcome | None = None
    waited: float | None = None
    _contents: dict[str, list[bytes]] = field(default_factory=dict)
    _closed_at: dict[str, float] = field(default_factory=dict)
    _over_at: float | None = None
    _recovered_at: float | None = None

    def __post_init__(self) -> None:
        self.server.client().put_bucket_versioning(
            Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"}
        )

    def add(self, path: str, content: bytes) -> None:
        """Put the content of a finished file at stake; a later call for the same path replaces it."""
        self._contents.setdefault(path, []).append(content)
        self._closed_at[path] = time.monotonic()

    def put(self, settings: Settings, path: str, content: bytes, *, at_stake: str = "") -> str:
        """Write a file below the watched directory and put it at stake; returns where it is.

        A file that is renamed later is put at stake under the name given as `at_stake`.
        """
        target = os.path.join(settings.completed_dir, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
        self.add(at_stake or path, content)
        return target

    def copy(self, settings: Settings, path: str, source: str) -> None:
        """Copy a file below the watched directory, as the compressor copies an original."""
        place_file(settings, path, source)
        with open(source, "rb") as file:
            self.add(path, file.read())

    def others_waited(self, daemon: DaemonProcess, path: str) -> None:
        """Wait until a file that the fault does not concern is public, and note how long that took."""
        daemon.expect("upload_published", path=path)
        self.waited = max(self.waited or 0.0, time.monotonic() - self._closed_at[path])

    def bystander(
        self, daemon: DaemonProcess, settings: Settings, content: bytes, rows: CatalogRows | None = None
    ) -> str:
        """Put a file of another video at stake during the fault, and measure its wait; returns its path.

        With the compressor's `rows` its row is ready before.
        """
        name = f"{len(self._contents)}_144p.mp4"
        path = f"{BYSTANDERS}/{name}"
        if rows is not None:
            rows.insert(name, "144p", video_id=BYSTANDERS, url=f"{BASE_URL}/{path}")
        # Its content is its own, so that it is not found elsewhere.
        self.put(settings, path, padded(content, len(content) + 1000 + len(self._contents)))
        self.others_waited(daemon, path)
        return path

    def inject(self, times: int = 1) -> None:
        """Count injections of the fault; the time to recover is counted from the last one."""
        self.injected += times
        self._over_at = time.monotonic()

    def over(self) -> None:
        """Note the end of a fault that lasted: the time to recover is counted from here."""
        self._over_at = time.monotonic()

    def recovered(self) -> None:
        """Note that the daemon has recovered by its own account; `judge` verifies it."""
        self._recovered_at = time.monotonic()

    def judge(self, settings: Settings) -> None:
        """Compare what is at stake with what is left; fails the test if anything was lost, wrong or doubled.

        The daemon counts as recovered now, unless `recovered` was called before.
        """
        ended_at = self._recovered_at or time.monotonic()
        current, versions = self._objects()
        on_disk = _files(settings.completed_dir, {len(made[-1]) for made in self._contents.values()})
        lost = [
            path
            for path, contents in self._contents.items()
            if current.get(_key(path)) != contents[-1] and contents[-1] not in on_disk
        ]
        doubled = [
            key
            for key, made in versions.items()
            for count in Counter(made).values()
            for _ in range(count - 1)
        ]
        wrong = [*self._bad_objects(versions), *_unfounded(settings, current)]
        self.outcome = Outcome(
            self.fault,
            self.injected,
            len(self._contents),
            len(lost),
            len(wrong),
            len(doubled),
            max(0.0, ended_at - (self._over_at or ended_at)),
            self.waited,
            STOPS.get(self.fault, ""),
        )
        self.report(self.outcome)
        assert self.outcome.is_good, f"{self.outcome}: lost {lost}, wrong {wrong}, doubled {doubled}"
        assert self.waited is not None or self.fault in STOPS, "measure how long others wait for this fault"
        assert (self.waited or 0.0) <= PROMISED_SECONDS * SLOWNESS, f"others waited for {self.waited:.1f} s"

    def _bad_objects(self, versions: dict[str, list[bytes]]) -> list[str]:
        """Objects of no file at stake, and objects with content that their file never had.

        What a killed process had stored to find something out stays for an hour.
        """
        good = {_key(path): contents for path, contents in self._contents.items()}
        return [
            f"{key} has content that was never finished"
            for key, made in versions.items()
            for content in made
            if content not in good.get(key, []) and PROBE_NAME not in key
        ]

    def _objects(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """The current objects by key, and every version that ever was: deletion keeps earlier versions."""
        client = self.server.client()
        current: dict[str, bytes] = {}
        versions: dict[str, list[bytes]] = {}
        for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
            listed: Any = page.get("Versions", [])
            for version in listed:
                key = version["Key"]
                found = client.get_object(Bucket=BUCKET, Key=key, VersionId=version["VersionId"])
                content = found["Body"].read()
                versions.setdefault(key, []).append(content)
                if version["IsLatest"]:
                    current[key] = content
        return current, versions


def _key(path: str) -> str:
    return f"videos/{path}"


def _files(directory: str, sizes: set[int]) -> set[bytes]:
    """The contents of the files of these sizes in a directory, whatever their names."""
    found = set()
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size in sizes:
                with open(path, "rb") as file:
                    found.add(file.read())
    return found


def _unfounded(settings: Settings, current: dict[str, bytes]) -> list[str]:
    """Rows of the ledger that claim an object which is not in S3."""
    return [
        f"{row.path} is {row.state} without an object"
        for row in rows(settings)
        if row.state in BELIEVED and row.object_key not in current
    ]
