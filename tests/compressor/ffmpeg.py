"""Running ffmpeg: encoding onto a path, and asking what a file holds."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_VIDEO = re.compile(r"Stream #\S+ Video: (?P<codec>\w+).*?, (?P<width>\d+)x(?P<height>\d+)[, ]")


class FfmpegError(Exception):
    """ffmpeg could not do what was asked; its own last words are the message."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a video file holds, as far as the catalog records it."""

    file_size: int
    """Bytes."""
    duration: float
    """Seconds."""
    codec: str
    width: int
    height: int
    """Pixels."""


def ffmpeg(*arguments: str | Path) -> str:
    """Run ffmpeg to its end and return what it wrote to stderr; raises `FfmpegError` when it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="backslashreplace", check=False
    )
    if result.returncode != 0:
        last_words = result.stderr.strip().splitlines()[-1:]
        raise FfmpegError(f"ffmpeg ended with {result.returncode} on {arguments[-1]}: {' '.join(last_words)}")
    return result.stderr


def encode(source: Path, output: Path, *, height: int) -> None:
    """Encode the source at a height onto the final path: no temporary name, and overwriting what is there.

    With faststart ffmpeg reads its own output back at the end to move the index to the front.
    """
    ffmpeg(
        *("-loglevel", "error", "-i", source),
        *("-vf", f"scale=-2:{height}", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-movflags", "+faststart", "-y", output),
    )


def probe(path: Path) -> Probe:
    """Open the file again, decode its first picture and say what it holds, as ffprobe would.

    Raises `FfmpegError` for what is no video, `FileNotFoundError` for a file that is gone afterwards.
    """
    said = ffmpeg("-i", path, "-map", "0:v:0", "-frames:v", "1", "-f", "null", "-")
    duration, video = _DURATION.search(said), _VIDEO.search(said)
    if duration is None or video is None:
        raise FfmpegError(f"ffmpeg found neither duration nor video stream in {path}")
    hours, minutes, seconds = duration.groups()
    return Probe(
        file_size=os.stat(path).st_size,
        duration=int(hours) * 3600 + int(minutes) * 60 + float(seconds),
        codec=video["codec"],
        width=int(video["width"]),
        height=int(video["height"]),
    )
