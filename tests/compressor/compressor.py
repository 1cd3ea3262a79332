"""The compressor's order of work: rows, files, probes, one quality after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from tests.compressor.encoding import encode
from tests.compressor.ffmpeg import FfmpegError, probe
from tests.compressor.own_uploads import OwnUploads
from tests.compressor.recorder import Recorder
from tests.compressor.steps import Hook, Step, go_on

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

ORIGINAL = "original"
"""The quality word of the source's copy."""

DEFAULT_URL_BASE = "https://example.com/videos"


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

    `failures` names encodes, as video id and quality, whose ffmpeg is sent a signal in the middle. `hook` is
    called at every step. `shrink` divides the heights, but not the names of the qualities, for whoever needs
    many files and cares little what they show. With `uploads` its AWS keys are filled in.
    """

    completed_dir: Path
    qualities: Sequence[str]
    recorder: Recorder
    aside: Path | None = None
    video_url_base: str = DEFAULT_URL_BASE
    hook: Hook = go_on
    failures: Mapping[tuple[str, str], Signals] = field(default_factory=dict)
    shrink: int = 1
    uploads: OwnUploads | None = None

    def compress(
        self, video_id: str, source: Path, *, video_url_base: str | None = None
    ) -> Iterator[Outcome]:
        """Work on one video: its qualities, lowest first, then its original; yields each as it is done.

        `video_url_base` is this request's own; the compressor's unless given.
        """
        folder_url = f"{self.video_url_base if video_url_base is None else video_url_base}/{video_id}"
        default_row = None
        for quality in sorted(self.qualities, key=HEIGHTS.__getitem__):
            row, outcome = self._rendition(video_id, source, quality, folder_url)
            default_row = default_row if outcome.error else row
            yield outcome
        self.recorder.finished(video_id, default_row)
        self.hook(Step.DEFAULTED, video_id, None)
        yield self._original(video_id, source, folder_url)

    def _rendition(self, video_id: str, source: Path, quality: str, folder_url: str) -> tuple[str, Outcome]:
        output = self.completed_dir / video_id / f"{source.stem}_{quality}.mp4"
        # Raw, whatever the name has in it: percent-encoding is not this program's habit.
        url = f"{folder_url}/{output.name}"
        output.parent.mkdir(parents=True, exist_ok=True)
        row = self.recorder.processing(video_id, quality, url)
        self.hook(Step.ROW_INSERTED, video_id, quality)
        try:
            encode(
                source,
                output,
                height=self._height(quality),
                started=lambda: self.hook(Step.ENCODE_STARTED, video_id, quality),
                ended_by=self.failures.get((video_id, quality)),
            )
            self.hook(Step.ENCODED, video_id, quality)
            with self._kept_aside(output):
                found = probe(output)
                self.hook(Step.PROBED, video_id, quality)
                self.recorder.ready(row, self._url(video_id, source, quality, output, url), found)
        except (FfmpegError, FileNotFoundError) as exc:
            # A broken file stays where it is.
            self.hook(Step.BROKEN, video_id, quality)
            self.recorder.failed(row)
            self.hook(Step.FAILED, video_id, quality)
            return row, Outcome(output, quality, str(exc))
        self.hook(Step.READY, video_id, quality)
        return row, Outcome(output, quality)

    def _original(self, video_id: str, source: Path, folder_url: str) -> Outcome:
        output = self.completed_dir / video_id / source.name
        if not output.exists():
            shutil.copy2(source, output)
        self.hook(Step.COPIED, video_id, ORIGINAL)
        try:
            with self._kept_aside(output):
                found = probe(output)
                self.hook(Step.ORIGINAL_PROBED, video_id, ORIGINAL)
                url = self._url(video_id, source, ORIGINAL, output, f"{folder_url}/{output.name}")
                row = self.recorder.original(video_id, url)
                self.hook(Step.ORIGINAL_INSERTED, video_id, ORIGINAL)
                self.recorder.describe(row, found)
        except (FfmpegError, FileNotFoundError) as exc:
            return Outcome(output, ORIGINAL, str(exc))
        self.hook(Step.DESCRIBED, video_id, ORIGINAL)
        return Outcome(output, ORIGINAL)

    def _url(self, video_id: str, source: Path, quality: str, output: Path, local: str) -> str:
        """What a good output's row shows: the local fallback URL, unless it is uploaded from here."""
        return local if self.uploads is None else self.uploads.put(video_id, source, quality, output)

    def _height(self, quality: str) -> int:
        # Half the resolution of the colors must be a whole number of lines, too.
        return HEIGHTS[quality] // self.shrink // 2 * 2

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
