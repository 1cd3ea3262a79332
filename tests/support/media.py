"""Small real videos, made by a real ffmpeg."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import imageio_ffmpeg

FFMPEG: Final[str] = imageio_ffmpeg.get_ffmpeg_exe()

_PICTURE: Final = "testsrc2=size=160x90:rate=10"
_QUIETLY: Final = ("-v", "error", "-nostdin", "-y")


@dataclass(frozen=True, slots=True)
class Media:
    """Paths of one-second videos; the MP4s have their index in front, behind, and in fragments.

    `per_frame` has a fragment for each frame; the segment of `live` has no size.
    """

    faststart: str
    plain: str
    fragmented: str
    per_frame: str
    mov: str
    webm: str
    mkv: str
    live: str


def make_media(directory: str) -> Media:
    """Encode the videos into a directory."""
    mpeg4 = ("-c:v", "mpeg4")
    vp8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8")
    return Media(
        faststart=_encode(directory, "faststart.mp4", *mpeg4, "-movflags", "+faststart"),
        plain=_encode(directory, "plain.mp4", *mpeg4),
        fragmented=_encode(directory, "fragmented.mp4", *mpeg4, "-g", "5", "-movflags", "frag_keyframe"),
        per_frame=_encode(directory, "per_frame.mp4", *mpeg4, "-movflags", "frag_every_frame"),
        mov=_encode(directory, "plain.mov", *mpeg4),
        webm=_encode(directory, "small.webm", *vp8),
        mkv=_encode(directory, "small.mkv", *mpeg4),
        live=_encode(directory, "live.webm", *vp8, "-g", "5", "-live", "1"),
    )


def encode(path: str, *options: str) -> None:
    """Encode one second of video into a file, or into a package of several files beside it."""
    _encode(os.path.dirname(path), os.path.basename(path), *options)


@contextmanager
def encoding(path: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """An encode that goes on, writing its file, until it is told to end; it is killed after the block."""
    command = [FFMPEG, *_QUIETLY, "-progress", "pipe:1", "-stats_period", "0.05", "-re", "-f", "lavfi"]
    command += ["-i", _PICTURE, "-c:v", "mpeg4", "-flush_packets", "1", *options, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            while not (os.path.exists(path) and os.path.getsize(path)):
                assert process.stdout.readline(), "ffmpeg ended before it wrote anything"
            yield process
        finally:
            process.kill()


def _encode(directory: str, name: str, *options: str) -> str:
    path = os.path.join(directory, name)
    command = [FFMPEG, *_QUIETLY, "-f", "lavfi", "-i", f"{_PICTURE}:duration=1", *options, path]
    subprocess.run(command, check=True)
    return path
