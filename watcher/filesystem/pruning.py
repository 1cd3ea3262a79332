"""Removal of directories that have been empty for long (PRUNE_DIRECTORIES_AFTER_DAYS)."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from watcher.filesystem.openat import Owned
from watcher.filesystem.tree import Tree

log = structlog.get_logger()


def prune_directories(
    tree: Tree,
    older_than: timedelta,
    *,
    ignores: Callable[[str], bool],
    clock: Callable[[], float] = time.time,
) -> int:
    """Remove the empty directories below the root that have not changed for this long; returns how many.

    `ignores` tells which relative paths to skip. Only rmdir(2) is used, which refuses a directory with any
    entry; a new directory stays, because the compressor creates a file in it next.
    Raises `watcher.filesystem.openat.RootUnavailableError`.
    """
    deadline = clock() - older_than.total_seconds()
    removed = 0
    with Owned(tree.open_root()) as root:
        for below, names, _files, directory in os.fwalk(".", topdown=False, dir_fd=root):
            for name in names:
                path = os.path.normpath(os.path.join(below, name))
                if not ignores(path) and _remove_if_old(directory, name, deadline):
                    removed += 1
                    log.info("directory_pruned", path=path)
    return removed


def _remove_if_old(directory: int, name: str, deadline: float) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode) or status.st_mtime > deadline:
            return False
        os.rmdir(name, dir_fd=directory)
    except OSError:
        # Not empty, not permitted, or already removed: in each case there is nothing to do.
        return False
    return True
