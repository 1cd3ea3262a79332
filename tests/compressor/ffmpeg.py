"""Running ffmpeg, and asking it what a file holds."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

_CONTAINER = re.compile(r"Input #0, (\S+), from ")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_BITRATE = re.compile(r"Duration: .*, bitrate: (\d+) kb/s")
_VIDEO = re.compile(r"Stream #\S+ Video: (?P<codec>\w+).*?, (?P<width>\d+)x(?P<height>\d+)[, ].*")
_PIXELS = re.compile(r", (?P<format>\w+)(?:\((?P<color>[^)]*)\))?, \d+x\d+")
_FPS = re.compile(r", (\d+(?:\.\d+)?) fps")
_ASPECT_RATIO = re.compile(r" DAR (\d+:\d+)\]")
_AUDIO = re.compile(r"Stream #\S+ Audio: (?P<codec>\w+).*?, (?P<rate>\d+) Hz, (?P<layout>[^,\n]+).*")
_STREAM_BITRATE = re.compile(r", (\d+) kb/s")

_COLOR_RANGES = {"tv", "pc"}
_OTHER_THAN_COLOR = {"progressive", "top first", "bottom first", "top coded first", "bottom coded first"}
_CHANNELS = {"mono": 1, "stereo": 2, "2.1": 3, "quad": 4, "5.0": 5, "5.1": 6, "7.1": 8}


class FfmpegError(Exception):
    """ffmpeg could not do what was asked; its own last words are the message."""

    @classmethod
    def ended(cls, returncode: int, output: str | Path, said: str) -> FfmpegError:
        """It ended with a code, negative for a signal, on a file."""
        last_words = said.strip().splitlines()[-1:]
        return cls(": ".join([f"ffmpeg ended with {returncode} on {output}", *last_words]))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a video file holds, as far as the catalog records it; ``None`` where ffmpeg does not say."""

    file_size: int
    """Bytes."""
    duration: float
    """Seconds."""
    codec: str
    width: int
    height: int
    """Pixels."""
    container: str | None = None
    bitrate: int | None = None
    """Bits a second, like `audio_bitrate`."""
    fps: float | None = None
    pixel_format: str | None = None
    color_space: str | None = None
    color_range: str | None = None
    aspect_ratio: str | None = None
    audio_codec: str | None = None
    audio_bitrate: int | None = None
    audio_sample_rate: int | None = None
    audio_channels: int | None = None


def ffmpeg(*arguments: str | Path) -> str:
    """Run ffmpeg to its end and return what it wrote to stderr; raises `FfmpegError` when it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="backslashreplace", check=False
    )
    if result.returncode != 0:
        raise FfmpegError.ended(result.returncode, arguments[-1], result.stderr)
    return result.stderr


def probe(path: Path) -> Probe:
    """Open the file again, decode its first picture and say what it holds, as ffprobe would.

    Raises `FfmpegError` for what is no video, `FileNotFoundError` for a file that is gone afterwards.
    """
    said = ffmpeg("-i", path, "-map", "0:v:0", "-frames:v", "1", "-f", "null", "-")
    duration, video = _DURATION.search(said), _VIDEO.search(said)
    if duration is None or video is None:
        raise FfmpegError(f"ffmpeg found neither duration nor video stream in {path}")
    hours, minutes, seconds = duration.groups()
    pixels, audio = _PIXELS.search(video[0]), _AUDIO.search(said)
    colors = pixels["color"].split(", ") if pixels and pixels["color"] else []
    fps, layout = _first(_FPS, video[0]), audio["layout"] if audio else ""
    return Probe(
        file_size=os.stat(path).st_size,
        duration=int(hours) * 3600 + int(minutes) * 60 + float(seconds),
        codec=video["codec"],
        width=int(video["width"]),
        height=int(video["height"]),
        container=_container(said, path),
        bitrate=_bits(_first(_BITRATE, said)),
        fps=float(fps) if fps else None,
        pixel_format=pixels["format"] if pixels else None,
        color_space=next((word.split("/")[0] for word in colors if _is_color_space(word)), None),
        color_range=next((word for word in colors if word in _COLOR_RANGES), None),
        aspect_ratio=_first(_ASPECT_RATIO, video[0]),
        audio_codec=audio["codec"] if audio else None,
        audio_bitrate=_bits(_first(_STREAM_BITRATE, audio[0])) if audio else None,
        audio_sample_rate=int(audio["rate"]) if audio else None,
        audio_channels=_CHANNELS.get(layout.partition("(")[0]),
    )


def _container(said: str, path: Path) -> str | None:
    """The one of the names of the container that the file bears, or the first."""
    names = (_first(_CONTAINER, said) or "").split(",")
    extension = path.suffix.lower().lstrip(".")
    return extension if extension in names else names[0] or None


def _is_color_space(word: str) -> bool:
    return word not in _COLOR_RANGES and word not in _OTHER_THAN_COLOR


def _first(pattern: re.Pattern[str], said: str) -> str | None:
    found = pattern.search(said)
    return found[1] if found else None


def _bits(kilobits: str | None) -> int | None:
    return int(kilobits) * 1000 if kilobits else None
