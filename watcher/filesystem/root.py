"""The watched directory itself: its identity, and when another directory at its path is adopted.

An unmounted file system leaves an empty directory behind, into which programs may write beneath the mount. So
the directory is identified by device and inode, and by the mount point of its file system.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from watcher.filesystem.instance_lock import InstanceRunningError
from watcher.filesystem.mounts import mount_point
from watcher.filesystem.openat import LIST, Owned, RootUnavailableError, sentence

INITIAL_NAMES = frozenset({"lost+found"})
"""Names that a new file system contains: a directory with no other entry counts as empty."""


@dataclass(frozen=True, slots=True)
class _DirectoryIdentity:
    """A directory, and the mount point of its file system, None if that is unknown."""

    device: int
    inode: int
    mounted_at: str | None

    def is_directory(self, status: os.stat_result) -> bool:
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


class Root:
    """The directory at a path. Raises RootUnavailableError unless it can be listed."""

    def __init__(self, path: str) -> None:
        try:
            self.path = os.path.realpath(path, strict=True)
            with Owned(os.open(self.path, LIST)) as directory:
                self._known = _identify(directory)
        except OSError as error:
            raise RootUnavailableError(path, sentence(error)) from error
        self._candidate: _DirectoryIdentity | None = None
        self.has_entries()

    def open(self, flags: int) -> int:
        """Open the known directory; the caller closes it. Raises RootUnavailableError."""
        directory = self._open_path(flags)
        try:
            is_known = self._known.is_directory(os.fstat(directory))
        except BaseException:
            os.close(directory)
            raise
        if is_known:
            return directory
        os.close(directory)
        raise RootUnavailableError(
            self.path,
            "Another directory is at this path than before: was something mounted, unmounted or"
            " moved? It is adopted once it is not empty and mounted where the old one was.",
        )

    def has_entries(self) -> bool:
        """Whether the known directory has any entry. Raises RootUnavailableError."""
        with Owned(self.open(LIST)) as directory:
            return self._is_populated(directory)

    def adopt(self, lock: Callable[[], None] = lambda: None) -> bool:
        """Make the directory now at the path the known one; False if it already is.

        Another directory is adopted only if it is not empty, its file system is mounted where that of the
        known one was or further down, and the previous call found it, too: during mounts and moves a
        directory may be at the path only for a moment. `lock` locks it, and raises InstanceRunningError if
        another daemon has it. Raises RootUnavailableError.
        """
        with Owned(self._open_path(LIST)) as directory:
            if self._known.is_directory(os.fstat(directory)):
                self._candidate = None
                self._is_populated(directory)
                return False
            found = _identify(directory)
            previous, self._candidate = self._candidate, found
            self._require_mount(found)
            if not self._is_populated(directory):
                raise RootUnavailableError(
                    self.path,
                    "Another directory is at this path than before, and it is empty: is its file system"
                    " mounted? It is adopted as soon as it has an entry.",
                )
            if found != previous:
                raise RootUnavailableError(
                    self.path, "Another directory is at this path than before; it is checked again shortly."
                )
            try:
                lock()
            except InstanceRunningError as error:
                raise RootUnavailableError(self.path, str(error)) from error
            self._known, self._candidate = found, None
            return True

    def _require_mount(self, found: _DirectoryIdentity) -> None:
        before, now = self._known.mounted_at, found.mounted_at
        if before is None or now is None:
            if found.device == self._known.device:
                return
        elif now == before or now.startswith(before.rstrip("/") + "/"):
            return
        raise RootUnavailableError(
            self.path,
            f"Its file system is not mounted: its mount point was {before or 'unknown'}, and the directory"
            f" now at this path is on {now or 'another one'}. Mount it, or restart the program if this is the"
            " right directory.",
        )

    def _open_path(self, flags: int) -> int:
        try:
            return os.open(self.path, flags)
        except OSError as error:
            raise RootUnavailableError(self.path, sentence(error)) from error

    def _is_populated(self, directory: int) -> bool:
        try:
            with os.scandir(directory) as listing:
                return any(entry.name not in INITIAL_NAMES for entry in listing)
        except OSError as error:
            raise RootUnavailableError(self.path, sentence(error)) from error


def _identify(directory: int) -> _DirectoryIdentity:
    status = os.fstat(directory)
    return _DirectoryIdentity(status.st_dev, status.st_ino, mount_point(directory))
