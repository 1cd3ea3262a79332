"""Files of which next to nothing was ever written: a name and a size, and no video.

They cost whoever makes them nothing, and whoever reads them hours: see lseek(2) for SEEK_HOLE.
"""

import errno
import os
from collections.abc import Iterator

from watcher.containers.reading import MAX_ELEMENTS, FileBytes, IncompleteError

SAMPLE = 64
"""Bytes. A file system may call a hole what it has not put on the disk yet; a hole reads as zeros."""

# ENXIO: there is nothing of that kind behind the offset. The others: the file system cannot say.
_NOTHING_FOUND = frozenset({errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP})


def require_written(file: FileBytes) -> None:
    """Raise IncompleteError if more than nine tenths of the file are holes; OSError if reading fails."""
    never_written = sum(end - begin for begin, end in _holes(file) if _is_zero(file, begin, end))
    if never_written * 10 > file.size * 9:
        raise IncompleteError(
            f"Next to nothing of it was ever written: {never_written} of its {file.size} bytes are holes."
        )


def _holes(file: FileBytes) -> Iterator[tuple[int, int]]:
    end = 0
    for _ in range(MAX_ELEMENTS):
        begin = _seek(file, end, os.SEEK_HOLE)
        if begin >= file.size:
            return
        end = _seek(file, begin, os.SEEK_DATA)
        yield begin, end


def _seek(file: FileBytes, offset: int, whence: int) -> int:
    """The next hole, or the next data, or the end of the file."""
    try:
        return min(os.lseek(file.descriptor, offset, whence), file.size)
    except OSError as error:
        if error.errno in _NOTHING_FOUND:
            return file.size
        raise


def _is_zero(file: FileBytes, begin: int, end: int) -> bool:
    return not any(file.at(begin + (end - begin) // 2, min(SAMPLE, end - begin)))
