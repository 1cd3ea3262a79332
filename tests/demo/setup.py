"""The demo's directories and videos, and the settings of its daemon."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from db import sqlite_url
from tests.compressor.sources import make_large_source, make_source
from tests.support.ports import free_address

BUCKET = "demo"
INSTANCE = "demo"
QUALITIES = ("144p", "240p", "360p", "480p")

RELEASE_AFTER_SECONDS = 3
"""Short enough to be watched; long enough for the compressor to look at its files once more."""

_KEPT_FROM_THE_ENVIRONMENT = ("LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "TZ")


@dataclass(frozen=True)
class Video:
    """One source video."""

    name: str
    seconds: float
    is_large: bool = False
    video_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class Rendition:
    """One output that the compressor is going to write; `path` is relative to the watched directory."""

    video_id: str
    quality: str
    path: str


@dataclass(frozen=True)
class DemoSetup:
    """Everything below `root`."""

    root: Path
    address: str = field(default_factory=free_address)
    """Where the daemon serves its status page."""
    videos: tuple[Video, ...] = field(
        default_factory=lambda: (
            Video("my_video.mp4", seconds=3),
            Video("Été #1 100%.mov", seconds=2, is_large=True),
        )
    )

    @property
    def completed(self) -> Path:
        """The directory that the compressor writes into and the daemon watches."""
        return self.root / "completed"

    @property
    def status_page(self) -> str:
        """The URL of the daemon's status page."""
        return f"http://{self.address}/"

    @property
    def aside(self) -> Path:
        """Copies of what the compressor wrote, to compare with."""
        return self.root / "aside"

    @property
    def state(self) -> Path:
        """The daemon's own directory."""
        return self.root / "state"

    @property
    def database_url(self) -> str:
        """The ledger."""
        return sqlite_url(str(self.state / "ledger.sqlite3"))

    def source(self, video: Video) -> Path:
        """Where the source waits for the compressor."""
        return self.root / "pending" / video.name

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.root / f"{name}.log"

    def prepare(self) -> None:
        """Make the directories and the sources."""
        for directory in (self.completed, self.aside, self.state):
            directory.mkdir()
        for video in self.videos:
            make = make_large_source if video.is_large else make_source
            make(self.source(video), seconds=video.seconds)

    def renditions(self) -> Iterator[Rendition]:
        """What the compressor is going to write, in its order."""
        for video in self.videos:
            base = Path(video.name).stem
            for quality in QUALITIES:
                yield Rendition(video.video_id, quality, f"{video.video_id}/{base}_{quality}.mp4")
            yield Rendition(video.video_id, "original", f"{video.video_id}/{video.name}")

    def compressor_arguments(self) -> list[str]:
        """What follows ``python -m tests.compressor``."""
        return [
            *("--source", *(str(self.source(video)) for video in self.videos)),
            *("--video-id", *(video.video_id for video in self.videos)),
            *("--completed-dir", str(self.completed), "--copy-aside", str(self.aside)),
            *("--qualities", ",".join(QUALITIES), "--parallel", str(len(self.videos))),
        ]

    def daemon_environment(self, endpoint: str) -> dict[str, str]:
        """The daemon's settings, as an operator would write them."""
        return clean_environment() | {
            "COMPLETED_DIR": str(self.completed),
            "DATABASE_URL": self.database_url,
            "CATALOG": "own",
            "INSTANCE_ID": INSTANCE,
            "RELEASE_AFTER_SECONDS": str(RELEASE_AFTER_SECONDS),
            "DISK_PRESSURE_PERCENT": "100",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_S3_BUCKET": BUCKET,
            "AWS_REGION": "ap-south-1",
            "AWS_ACCESS_KEY_ID": "demo-access-key",
            "AWS_SECRET_ACCESS_KEY": "demo-secret-key",
            "HTTP_ADDRESS": self.address,
            "LOG_FORMAT": "json",
        }


def clean_environment() -> dict[str, str]:
    """What a child gets of our environment: nothing that is a setting of ours or of AWS."""
    return {name: os.environ[name] for name in _KEPT_FROM_THE_ENVIRONMENT if name in os.environ}
