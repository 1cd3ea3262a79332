"""The compressor's order of work: rows, files, probes, one quality after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.compressor.ffmpeg import FfmpegError, encode, probe
from tests.compressor.recorder import Recorder

HEIGHTS = {
    "144p": 144,
    "240p": 240,
    "360p": 360,
    "480p": 480,
    "720p": 720,
    "1080p": 1080,
    "1440p": 1440,
    "2160p": 2160,
}
"""Pixels, by quality word; the original is no encode."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one output: `error` is ``None`` when it is good."""

    path: Path
    quality: str
    error: str | None = None


@dataclass(frozen=True)
class Compressor:
    """Compresses videos into `completed_dir`; one object serves any number of threads.

    With `aside` every good output is also copied there, under the same relative path, for somebody who wants
    to compare what arrived elsewhere with what was written here.
    """

    completed_dir: Path
    qualities: Sequence[str]
    recorder: Recorder
    aside: Path | None = None
    video_url_base: str = "https://example.com/videos"

    def compress(self, video_id: str, source: Path) -> Iterator[Outcome]:
        """Work on one video: its qualities, lowest first, then its original; yields each as it is done."""
        default_row = None
        for quality in sorted(self.qualities, key=HEIGHTS.__getitem__):
            row, outcome = self._rendition(video_id, source, quality)
            default_row = default_row if outcome.error else row
            yield outcome
        self.recorder.finished(video_id, default_row)
        yield self._original(video_id, source)

    def _rendition(self, video_id: str, source: Path, quality: str) -> tuple[str, Outcome]:
        output = self.completed_dir / video_id / f"{source.stem}_{quality}.mp4"
        url = self._local_url(output)
        row = self.recorder.processing(video_id, quality, url)
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            encode(source, output, height=HEIGHTS[quality])
            with self._kept_aside(output):
                self.recorder.ready(row, url, probe(output))
        except (FfmpegError, FileNotFoundError) as exc:
            # A broken file stays where it is.
            self.recorder.failed(row)
            return row, Outcome(output, quality, str(exc))
        return row, Outcome(output, quality)

    def _original(self, video_id: str, source: Path) -> Outcome:
        output = self.completed_dir / video_id / source.name
        if not output.exists():
            shutil.copy2(source, output)
        try:
            with self._kept_aside(output):
                found = probe(output)
                row = self.recorder.original(video_id, self._local_url(output))
                self.recorder.describe(row, found)
        except (FfmpegError, FileNotFoundError) as exc:
            return Outcome(output, "original", str(exc))
        return Outcome(output, "original")

    def _local_url(self, output: Path) -> str:
        return f"{self.video_url_base}/{output.relative_to(self.completed_dir).as_posix()}"

    @contextmanager
    def _kept_aside(self, output: Path) -> Iterator[None]:
        """Copy the output aside after what is done in the block.

        It is opened before, so that it can be copied even if somebody takes the file away meanwhile. A hard
        link would be simpler, but a file with two links is another thing to the daemon.
        """
        if self.aside is None:
            yield
            return
        with output.open("rb") as reader:
            yield
            copy = self.aside / output.relative_to(self.completed_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
