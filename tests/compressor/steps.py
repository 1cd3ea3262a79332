"""The moments of a compression that somebody may want to hold: a watcher's races lie between them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """What has just happened, in the order in which it happens."""

    ROW_INSERTED = "row-inserted"
    """The row of a quality says ``processing``; its file is not touched yet."""
    ENCODE_STARTED = "encode-started"
    """ffmpeg has opened the file and waits for us with its first frame."""
    ENCODED = "encoded"
    """ffmpeg has closed a good file; nobody has probed it."""
    PROBED = "probed"
    """The probe has closed the file; the row still says ``processing``."""
    BROKEN = "broken"
    """The encode or its probe has failed; the row still says ``processing``."""
    READY = "ready"
    """The row says ``ready`` and has the local URL again."""
    FAILED = "failed"
    """The row says ``failed``."""
    DEFAULTED = "defaulted"
    """All qualities are through: the default row is marked, the video has its status. It has no quality."""
    COPIED = "copied"
    """The original is in its place, copied just now or found there."""
    ORIGINAL_PROBED = "original-probed"
    """The original is probed; it has no row."""
    ORIGINAL_INSERTED = "original-inserted"
    """The original's row is there, ``ready`` and without metadata."""
    DESCRIBED = "described"
    """The original's row has its metadata."""


Hook = Callable[[Step, str, str | None], None]
"""Called with the step, the video's id and the quality; the compressor goes on when it returns.

It is called in the thread that compresses the video, so that other videos go on meanwhile.
"""


def go_on(step: Step, video_id: str, quality: str | None) -> None:
    """The hook of a compressor that nobody holds."""
