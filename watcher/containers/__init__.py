"""Whether a video file is complete, judged by the top-level structure of its container.

An encoder that was killed leaves a closed file that is truncated, or lacks its index or a length field. A few
small reads detect that; nothing is decoded, and the work is bounded for any file.
"""

from collections.abc import Callable, Mapping

from watcher.containers import holes, matroska, mp4
from watcher.containers.reading import FileBytes, IncompleteError

__all__ = ["inspect"]

_CHECKS: Mapping[str, Callable[[FileBytes], None]] = {
    ".mp4": mp4.require_complete,
    ".m4v": mp4.require_complete,
    ".mov": mp4.require_complete,
    ".webm": matroska.require_complete,
    ".mkv": matroska.require_complete,
}


def inspect(descriptor: int, size: int, extension: str) -> str | None:
    """What is wrong with a container, as a sentence; None if it is complete or its format is not supported.

    `size` is in bytes; `extension` has its dot, in any case. A file that is empty or consists almost only of
    holes is incomplete in any format. Raises OSError if reading fails.
    """
    if size == 0:
        return "The file is empty."
    file = FileBytes(descriptor, size)
    try:
        if require_complete := _CHECKS.get(extension.lower()):
            require_complete(file)
        holes.require_written(file)
    except IncompleteError as error:
        return str(error)
    return None
