"""Sparse files that consist almost only of holes; see SEEK_HOLE in lseek(2).

Such a file takes no disk space and no time to create, and hours to hash and to upload.
"""

import errno
import os
from collections.abc import Iterator

from watcher.containers.reading import MAX_ELEMENTS, FileBytes, IncompleteError

SAMPLE = 64
"""Bytes read from a hole: it must be zeros, as a file system may report unflushed data as a hole."""

# ENXIO: no hole or data follows the offset. The others: the file system does not support the query.
_NOTHING_FOUND = frozenset({errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP})


def require_written(file: FileBytes) -> None:
    """Raise IncompleteError if more than nine tenths of the file are holes; OSError if reading fails."""
    never_written = sum(end - begin for begin, end in _holes(file) if _is_zero(file, begin, end))
    if never_written * 10 > file.size * 9:
        raise IncompleteError(
            f"Most of it was never written: {never_written} of its {file.size} bytes are holes."
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
    """The offset of the next hole or data, or the end of the file."""
    try:
        return min(os.lseek(file.descriptor, offset, whence), file.size)
    except OSError as error:
        if error.errno in _NOTHING_FOUND:
            return file.size
        raise


def _is_zero(file: FileBytes, begin: int, end: int) -> bool:
    return not any(file.read_at(begin + (end - begin) // 2, min(SAMPLE, end - begin)))
