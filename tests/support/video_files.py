"""Paths and contents of the video files that tests write."""

from __future__ import annotations

from tests.support.harness import VIDEO_ID

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
OTHER_VIDEO = "1c9f4a71-0e6d-4d2b-9f9f-4c2a1b8e3d22"
FREE_BOX = b"\0\0\0\x08free"
"""An empty box of free space (ISO/IEC 14496-12, 8.1.2): content that leaves a video playable."""
LARGE = 17 * 1024 * 1024
"""More than the largest file that is sent with a single PUT."""


def padded(video: bytes, size: int) -> bytes:
    """The video, made larger by a box of free space at its end (ISO/IEC 14496-12, 8.1.2)."""
    length = size - len(video)
    return video + length.to_bytes(4) + b"free" + bytes(length - 8)
