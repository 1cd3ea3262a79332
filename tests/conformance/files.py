"""Sparse files of any size, no two parts of which are alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from storage import SourceFile

MIB = 1024 * 1024
MARK_BYTES = 32


def make_file(path: str, size: int, seed: str = "") -> str:
    """Make a sparse file with a mark at each whole MiB, which says where it is; returns its path.

    Files of the same size and different seeds differ in every MiB.
    """
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in range(0, size, MIB):
            mark = hashlib.sha256(f"{seed} {offset}".encode()).digest()
            file.seek(offset)
            file.write(mark[: min(MARK_BYTES, size - offset)])
    return path


@contextmanager
def source_of(path: str) -> Iterator[SourceFile]:
    """The file as what is to be uploaded."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield SourceFile(fd)
    finally:
        os.close(fd)


def content_of(path: str) -> bytes:
    """All of the file."""
    with open(path, "rb") as file:
        return file.read()
