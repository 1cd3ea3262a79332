"""Real source videos, made in a second or so each: what somebody might have uploaded."""

from __future__ import annotations

from pathlib import Path

from tests.compressor.ffmpeg import ffmpeg


def make_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture with a tone; a few MB. The container goes by the path's extension."""
    _make(path, seconds, f"testsrc2=size={_size(height)}:rate=30:duration={seconds}", "-crf", "23")


def make_large_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture under noise, which hardly compresses: some 24 MB for a second of 720 lines."""
    picture = f"testsrc2=size={_size(height)}:rate=30:duration={seconds},noise=alls=40:allf=t"
    _make(path, seconds, picture, "-qp", "20")


def _size(height: int) -> str:
    return f"{height * 16 // 9}x{height}"


def _make(path: Path, seconds: float, picture: str, *quality: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # An endless tone cut with -shortest is now and then cut late on a busy machine.
    tone = f"sine=frequency=440:duration={seconds}"
    ffmpeg(
        *("-loglevel", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone),
        *("-c:v", "libx264", "-preset", "ultrafast", *quality, "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-y", path),
    )
