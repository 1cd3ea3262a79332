"""Whether a video file is complete, judged by the top-level structure of its container.

An encoder that was killed leaves a closed file that is truncated, or lacks its index or a length field. A few
small reads detect that; nothing is decoded, and the work is bounded for any file.
"""

from watcher.containers import holes, matroska, mp4
from watcher.containers.reading import FileBytes, IncompleteError

__all__ = ["inspect", "is_live"]

_MP4 = frozenset({".mp4", ".m4v", ".mov"})
_MATROSKA = frozenset({".webm", ".mkv"})


def inspect(descriptor: int, size: int, extension: str, *, accepts_live: bool = False) -> str | None:
    """What is wrong with a container, as a sentence; None if it is complete or its format is not supported.

    `size` is in bytes; `extension` has its dot, in any case. A file that is empty or consists almost only of
    holes is incomplete in any format. A container that `is_live` is so unless `accepts_live`, even if its
    last cluster is whole. Raises OSError if reading fails.
    """
    if size == 0:
        return "The file is empty."
    file = FileBytes(descriptor, size)
    try:
        if extension.lower() in _MP4:
            mp4.require_complete(file)
        elif extension.lower() in _MATROSKA:
            matroska.require_complete(file, accepts_live=accepts_live)
        holes.require_written(file)
    except IncompleteError as error:
        return str(error)
    return None


def is_live(descriptor: int, size: int, extension: str) -> bool:
    """Whether a container has no end of its own, so that more may be appended. Raises OSError."""
    return extension.lower() in _MATROSKA and matroska.is_live(FileBytes(descriptor, size))
