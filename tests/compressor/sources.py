"""Real source videos, made in a second or so each: what somebody might have uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.compressor.ffmpeg import ffmpeg

_H264: Final = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
_MPEG: Final = ("-c:v", "mpeg2video", "-c:a", "mp2")
FORMATS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        ".3g2": _H264,
        ".3gp": _H264,
        ".asf": ("-c:v", "wmv2", "-c:a", "wmav2"),
        ".avi": ("-c:v", "mpeg4", "-c:a", "libmp3lame"),
        ".divx": ("-c:v", "mpeg4", "-c:a", "libmp3lame", "-f", "avi"),
        ".dv": ("-target", "pal-dv"),
        ".f4v": _H264,
        ".flv": ("-c:v", "flv", "-c:a", "libmp3lame", "-ar", "44100"),
        ".m2t": (*_MPEG, "-f", "mpegts"),
        ".m2ts": (*_H264, "-f", "mpegts"),
        ".m2v": (*_MPEG, "-f", "mpeg"),
        ".m4v": _H264,
        ".mkv": _H264,
        ".mov": _H264,
        ".mp4": _H264,
        ".mpe": (*_MPEG, "-f", "mpeg"),
        ".mpeg": (*_MPEG, "-f", "mpeg"),
        ".mpg": (*_MPEG, "-f", "mpeg"),
        ".mts": (*_H264, "-f", "mpegts"),
        ".mxf": ("-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"),
        ".ogm": ("-c:v", "libtheora", "-c:a", "libvorbis", "-f", "ogg"),
        ".ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
        ".qt": (*_H264, "-f", "mov"),
        ".rm": ("-c:v", "rv20", "-c:a", "ac3"),
        ".rmvb": ("-c:v", "rv20", "-c:a", "ac3", "-f", "rm"),
        ".ts": _H264,
        ".vob": (*_MPEG, "-f", "vob"),
        ".webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"),
        ".wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
        # What users upload under names that tell nothing.
        "": (*_H264, "-f", "mp4"),
        ".tmp": (*_H264, "-f", "mp4"),
        ".part": (*_H264, "-f", "matroska"),
    }
)
"""How ffmpeg makes a source with an extension: the compressor takes whatever ffmpeg reads."""


def make_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture with a tone; a few MB. The container goes by the path's extension."""
    _make(path, seconds, f"testsrc2=size={_size(height)}:rate=30:duration={seconds}", *_H264, "-crf", "23")


def make_source_in_format(path: Path, *, seconds: float, height: int = 144) -> None:
    """The same, in the container and with the codecs of the path's extension: see `FORMATS`."""
    # 25 frames a second: DV and MPEG-1 know few rates.
    picture = f"testsrc2=size={_size(height)}:rate=25:duration={seconds}"
    _make(path, seconds, picture, *FORMATS[path.suffix])


def make_large_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture under noise, which hardly compresses: some 24 MB for a second of 720 lines."""
    picture = f"testsrc2=size={_size(height)}:rate=30:duration={seconds},noise=alls=40:allf=t"
    _make(path, seconds, picture, *_H264, "-qp", "20")


def _size(height: int) -> str:
    return f"{height * 16 // 9}x{height}"


def _make(path: Path, seconds: float, picture: str, *output: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # An endless tone cut with -shortest is now and then cut late on a busy machine.
    tone = f"sine=frequency=440:duration={seconds}"
    ffmpeg(
        *("-loglevel", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone),
        *output,
        "-y",
        path,
    )
