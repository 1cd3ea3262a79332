"""A platform for the length of a test: the compressor's database and directory, an S3 server, sources."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.compressor.database import create_schema
from tests.compressor.own_uploads import KEY_ID_VARIABLE, SECRET_VARIABLE
from tests.compressor.sources import make_large_source, make_source, make_source_in_format
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET, settings_for
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from watcher.settings.model import Settings

QUALITIES = ("144p", "240p", "360p", "480p", "720p")
SHRINK = 8
"""Heights are divided by this, so that encodes are quick."""

AWKWARD_NAMES = (
    "my_video.mp4",
    "clip_720p.mp4",
    "clip_720p_144p.mp4",
    "clip_original.mp4",
    "Été #1 100% (final).v2.mp4",
    "percent%20encoded.mp4",
    "question?mark=1&x=2.mp4",
    "plus+and space.mp4",
    "視頻 ünïcödé.mp4",
    "quotes'\"and`ticks.mp4",
    "semi;colon:colon,comma.mp4",
    "back\\slash.mp4",
    "-starts-with-a-dash.mp4",
    "dots...in.the..name.mp4",
    "[brackets]{braces}.mp4",
    "x" * 200 + ".mp4",
    "$HOME~tilde^caret.mp4",
    "UPPER_1080P.mp4",
    "plain.mov",
    "_144p.mp4",
)
"""The names of twenty sources, of which some are what URLs and templates stumble over."""


@dataclass(frozen=True)
class Video:
    """One source on its way through the compressor."""

    video_id: str
    source: Path


@dataclass
class Platform:
    """The directories, servers and sources of one test.

    `asked_at` and `appeared_at` say, by key, when the server was first asked to take an object, and each time
    that one was complete, in monotonic seconds. Where the daemon goes another way to the database than the
    compressor, `daemon_url` is that way.
    """

    directory: Path
    database_url: str
    s3: S3Server
    proxy: FaultProxy
    daemon_url: str | None = None
    asked_at: dict[str, float] = field(default_factory=dict)
    appeared_at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sources: dict[str, Path] = field(default_factory=dict)
    """By video."""
    ignored: set[str] = field(default_factory=set)
    """The paths of outputs that are no videos by the daemon's settings: they stay where they are."""

    @property
    def completed(self) -> Path:
        """The directory that the compressor writes into and the daemon watches."""
        return self.directory / "completed"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.directory / "daemon.log"

    @property
    def aside(self) -> Path:
        """Where the compressor keeps a copy of every good output, for comparison."""
        return self.directory / "aside"

    @property
    def completions(self) -> Counter[str]:
        """How often each object became complete at the server."""
        # The proxy's threads add keys meanwhile.
        return Counter({key: len(times) for key, times in list(self.appeared_at.items())})

    def settings(self, **changes: Any) -> Settings:
        """A daemon's settings for this platform."""
        values = {
            "DATABASE_URL": self.daemon_url or self.database_url,
            "CATALOG": "compressor",
            "RESCAN_SECONDS": 2,
            "PATH_TEMPLATE": "{video_id}/{filename}_{quality}{ext}",
        }
        return settings_for(str(self.directory), self.proxy.url, **values | changes)

    def videos(self, names: Sequence[str], *, seconds: float = 0.5) -> list[Video]:
        """A small source for each name; they have one content and as many videos."""
        model = self.directory / "pending" / "model.mp4"
        make_source(model, seconds=seconds, height=90)
        found = []
        for name in names:
            source = model.with_name(name)
            source.write_bytes(model.read_bytes())
            found.append(self._add(source))
        return found

    def large_video(self, name: str, *, seconds: float) -> Video:
        """A source whose original is large enough for a multipart upload."""
        source = self.directory / "pending" / name
        make_large_source(source, seconds=seconds)
        return self._add(source)

    def video_in_format(self, name: str) -> Video:
        """A small source in the format of its extension."""
        source = self.directory / "pending" / name
        make_source_in_format(source, seconds=0.5)
        return self._add(source)

    @property
    def own_uploads(self) -> tuple[str, ...]:
        """The option by which the compressor uploads by itself, past the proxy."""
        return "--upload-to", self.s3.url, REGION, BUCKET, f"{self.proxy.url}/{BUCKET}"

    def output(self, video_id: str, quality: str) -> str:
        """The path of an output, relative to the watched directory, as the compressor's contract has it."""
        source = self.sources[video_id]
        return f"{video_id}/{source.name if quality == 'original' else f'{source.stem}_{quality}.mp4'}"

    def key(self, video_id: str, quality: str) -> str:
        """The key that the contract gives to an output's object."""
        base, extension = os.path.splitext(os.path.basename(self.output(video_id, "original")))
        extension = extension if quality == "original" else ".mp4"
        return f"videos/{video_id}/{base}_{quality}{extension}"

    def public_url(self, video_id: str, quality: str) -> str:
        """What players must be shown of an output."""
        return f"{self.proxy.url}/{BUCKET}/{quote(self.key(video_id, quality))}"

    def _add(self, source: Path) -> Video:
        video = Video(str(uuid.uuid4()), source)
        self.sources[video.video_id] = source
        return video

    @contextmanager
    def compressing(self, videos: Sequence[Video], *options: str, parallel: int = 4) -> Iterator[Compression]:
        """Run the compressor on the videos until the end of the block, or let it be stopped there."""
        arguments = ["--database", self.database_url, "--completed-dir", str(self.completed)]
        arguments += ["--copy-aside", str(self.aside), "--qualities", ",".join(QUALITIES)]
        arguments += ["--shrink", str(SHRINK), "--parallel", str(parallel), *options]
        arguments += ["--source", *(str(video.source) for video in videos)]
        arguments += ["--video-id", *(video.video_id for video in videos)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.compressor", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, KEY_ID_VARIABLE: ACCESS_KEY_ID, SECRET_VARIABLE: SECRET_ACCESS_KEY},
        ) as process:
            try:
                yield Compression(process)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(20)

    def count(self, request: Request, forward: Forward) -> Answer | None:
        """The proxy's way of forwarding: notes every object that appears."""
        key = unquote(urlsplit(request.path).path).partition(f"/{BUCKET}/")[2]
        if request.action in {"PutObject", "CreateMultipartUpload"}:
            self.asked_at.setdefault(key, time.monotonic())
        answer = forward()
        if request.action in {"PutObject", "CompleteMultipartUpload"} and answer.status == 200:
            self.appeared_at[key].append(time.monotonic())
        return answer


@dataclass(frozen=True)
class Compression:
    """The compressor at work, followed by what it says."""

    process: subprocess.Popen[str]

    def outcomes(self, count: int | None = None) -> list[str]:
        """Wait for so many outputs, or for the end; returns what was said of each."""
        assert self.process.stdout is not None
        said: list[str] = []
        while count is None or len(said) < count:
            line = self.process.stdout.readline()
            if not line:
                break
            said.append(line.rstrip("\n"))
        return said

    def kill(self) -> None:
        """Kill the service with all that it runs, as systemd does; rows and files stay as they are."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


@contextmanager
def running_platform(directory: str, database_url: str, s3: S3Server) -> Iterator[Platform]:
    """The compressor's tables in an empty database, an empty bucket, and a proxy that counts."""
    with FaultProxy(s3.url) as proxy:
        create_schema(database_url)
        platform = Platform(Path(directory), database_url, s3, proxy)
        proxy.fault = platform.count
        yield platform


@contextmanager
def daemon_of(platform: Platform, **changes: Any) -> Iterator[DaemonProcess]:
    """The daemon, which must end as asked, and without an unforeseen error in its log."""
    with running_daemon(platform.settings(**changes), log=str(platform.log)) as daemon:
        yield daemon
        assert daemon.process.poll() is None
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert '"internal_error"' not in platform.log.read_text()


def wait_until(is_so: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
    """Poll a condition until it holds; fail with the value of `what` at the deadline."""
    deadline = time.monotonic() + seconds
    passing = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, what()
        passing.wait(0.2)
