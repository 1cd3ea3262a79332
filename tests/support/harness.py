"""An application with a real directory, ledger and S3 server, run step by step without threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from db import State, Upload, migrate
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from watcher.app.wiring import Application, open_application
from watcher.detection import Reading
from watcher.detection.completeness import check_complete
from watcher.settings.model import Settings
from watcher.stages.enqueue import Enqueuer
from watcher.stages.runner import Work

VIDEO_ID = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
BUCKET = "videos-bucket"
LEASE = timedelta(seconds=60)


def settings_for(directory: str, s3_url: str, **changes: Any) -> Settings:
    """Settings for a directory (``completed`` and ``state`` are made in it) and an S3 server."""
    completed = os.path.join(directory, "completed")
    os.makedirs(completed, exist_ok=True)
    values: dict[str, Any] = {
        "COMPLETED_DIR": completed,
        "DATABASE_URL": f"sqlite://{directory}/state/ledger.sqlite3",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_REGION": REGION,
        "AWS_S3_BUCKET": BUCKET,
        "AWS_ENDPOINT_URL": s3_url,
        "INSTANCE_ID": "test",
        "RELEASE_AFTER_SECONDS": 0,
        # Tests must not depend on how full this machine's disk is.
        "DISK_PRESSURE_PERCENT": 100,
    }
    if "METRICS_ADDRESS" not in changes:
        values["HTTP_ADDRESS"] = ""
    return Settings(**values | changes)


def ledger_file(settings: Settings) -> str:
    """The file of a ledger on SQLite."""
    return settings.ledger_url.removeprefix("sqlite://")


@dataclass
class Harness:
    """The application, and what a test does with it."""

    app: Application
    server: S3Server
    stop_requested: bool = False
    waited: list[float] = field(default_factory=list)
    while_waiting: Callable[[], None] = lambda: None
    beat: Callable[[], None] = lambda: None

    @property
    def enqueuer(self) -> Enqueuer:
        """The application's enqueuer."""
        return self.app.enqueuer

    def absolute(self, path: str) -> str:
        """Where a path relative to the watched directory is."""
        return os.path.join(self.app.tree.root, path)

    def write(self, path: str, content: bytes) -> str:
        """Write a file (with its directories) below the watched directory; returns `path`."""
        os.makedirs(os.path.dirname(self.absolute(path)), exist_ok=True)
        with open(self.absolute(path), "wb") as file:
            file.write(content)
        return path

    def settle(self, path: str) -> Upload | None:
        """Examine a path once and handle its status; returns the current row of the path."""
        file_status = check_complete(
            self.app.tree, path, previous=None, now=time.monotonic(), settle_seconds=0
        )
        self.enqueuer.handle(path, file_status, Reading())
        return self.app.ledger.current(path)

    def put(self, path: str, content: bytes) -> Upload:
        """Write a file and settle it."""
        row = self.settle(self.write(path, content))
        assert row is not None
        return row

    def admit_waiting(self) -> int:
        """Have the catalog gate decide about all waiting uploads; returns how many no longer wait."""
        gate = self.app.context.gate
        assert gate is not None
        return gate.admit_waiting()

    def check_rows(self) -> int:
        """Compare all catalog rows with what was published; returns how many were published again."""
        catalog_thread = self.app.catalog_thread
        assert catalog_thread is not None
        return catalog_thread.republisher.check_all()

    def step(self, state: State, limit: int = 64, *, publishes: bool = False) -> list[Upload]:
        """Claim the due uploads of a state and run its stage on them; returns their rows afterwards.

        With `publishes` what is verified is published at once, as in the daemon.
        """
        runner = self.app.runners[state]
        rows = self.app.ledger.claim(state, limit, lease=LEASE, horizon=runner.horizon)
        runner.stage.advance(
            rows,
            Work(
                error_policy=runner.error_policy,
                stopped=lambda: self.stop_requested,
                beat=self.beat,
                wait=self._wait,
                publisher=runner.publisher() if publishes else None,
            ),
        )
        return self.app.ledger.uploads(ids=[row.id for row in rows])

    def finish(self, path: str) -> Upload:
        """Run all stages once and return the path's row."""
        for state in (State.PENDING, State.VERIFIED, State.PUBLISHED):
            self.step(state)
        return self.row(path)

    def row(self, path: str) -> Upload:
        """The newest row of a path."""
        row = self.app.ledger.current(path)
        assert row is not None
        return row

    def events(self, path: str) -> list[str]:
        """The names of the events of a path's newest row."""
        return [event.event for event in self.app.ledger.events(self.row(path).id)]

    def object(self, upload: Upload) -> bytes | None:
        """The content of a row's object in S3; None if there is none."""
        client = self.server.client()
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=upload.object_key).get("Contents", [])
        if upload.object_key not in [entry.get("Key") for entry in listed]:
            return None
        return client.get_object(Bucket=BUCKET, Key=upload.object_key)["Body"].read()

    def catalog_urls(self, video_id: str = VIDEO_ID) -> list[str]:
        """The URLs of a video's catalog rows; of public ones only the path."""
        rows = self.app.context.catalog.rows(video_id)
        return [row.url if row.url.startswith("file:") else urlsplit(row.url).path for row in rows]

    def _wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.while_waiting()
        return self.stop_requested


@contextmanager
def open_harness(settings: Settings, server: S3Server) -> Iterator[Harness]:
    """A harness with a migrated ledger."""
    with open_application(settings) as app:
        migrate(app.context.database)
        with app.context.database.session():
            yield Harness(app, server)


MakeSettings = Callable[..., Settings]
MakeHarness = Callable[..., Harness]
