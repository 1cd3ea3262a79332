"""Whether a video file is all there, judged by the outermost structure of its container.

An encoder that was killed leaves a file that is closed and quiet but has no end, no index, or a length that
was never filled in. A few small reads tell; nothing is decoded, and no file, however strange, is much work.
"""

from collections.abc import Callable, Mapping

from watcher.containers import holes, matroska, mp4
from watcher.containers.reading import FileBytes, IncompleteError

_CHECKS: Mapping[str, Callable[[FileBytes], None]] = {
    ".mp4": mp4.require_complete,
    ".m4v": mp4.require_complete,
    ".mov": mp4.require_complete,
    ".webm": matroska.require_complete,
    ".mkv": matroska.require_complete,
}


def inspect(descriptor: int, size: int, extension: str) -> str | None:
    """What is wrong with a container, as a sentence; None if it is complete or of a kind we cannot judge.

    `size` is the file's in bytes, `extension` with its dot in any case. An empty file is never complete,
    nor is one that is all but empty, whatever its kind. Raises OSError if reading fails.
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
