"""Real source videos, made in a second or so each: what somebody might have uploaded."""

from __future__ import annotations

from pathlib import Path

from tests.compressor.ffmpeg import ffmpeg


def make_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture with a tone; a few MB. The container goes by the path's extension."""
    _make(path, f"testsrc2=size={_size(height)}:rate=30:duration={seconds}", "-crf", "23")


def make_large_source(path: Path, *, seconds: float, height: int = 720) -> None:
    """A moving test picture under noise, which hardly compresses: some 24 MB for a second of 720 lines."""
    picture = f"testsrc2=size={_size(height)}:rate=30:duration={seconds},noise=alls=40:allf=t"
    _make(path, picture, "-qp", "20")


def _size(height: int) -> str:
    return f"{height * 16 // 9}x{height}"


def _make(path: Path, picture: str, *quality: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg(
        *("-loglevel", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=440"),
        *("-c:v", "libx264", "-preset", "ultrafast", *quality, "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-shortest", "-y", path),
    )
