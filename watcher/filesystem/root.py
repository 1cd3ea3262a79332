"""The watched directory itself: which one it is, and when another one in its place is believed.

An unmounted file system leaves an empty directory behind, and whoever writes meanwhile writes beneath the
mount. So the directory is known by device and inode, and by where its file system was mounted.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from watcher.filesystem.mounts import mount_point
from watcher.filesystem.openat import LIST, RootUnavailableError, owned, sentence

NO_PROOF = frozenset({"lost+found"})
"""Names that a file system has from the beginning: a directory that holds nothing else is an empty one."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """Which directory it is, and where its file system is mounted, as far as that can be told."""

    device: int
    inode: int
    mounted_at: str | None

    def is_directory(self, status: os.stat_result) -> bool:
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


class Root:
    """One directory by its path. Raises RootUnavailableError if there is none that can be listed."""

    def __init__(self, path: str) -> None:
        try:
            self.path = os.path.realpath(path, strict=True)
            with owned(os.open(self.path, LIST)) as directory:
                self._known = _standing(directory)
        except OSError as error:
            raise RootUnavailableError(path, sentence(error)) from error
        self._candidate: _Standing | None = None
        self.has_entries()

    def open(self, flags: int) -> int:
        """Open the directory that is known; the caller closes it. Raises RootUnavailableError."""
        with ExitStack() as undo:
            directory = self._open_whatever(flags)
            undo.callback(os.close, directory)
            if not self._known.is_directory(os.fstat(directory)):
                raise RootUnavailableError(
                    self.path,
                    "Another directory is here than before: was something mounted, unmounted or moved? It is"
                    " taken up by itself once it is not empty and mounted where the old one was.",
                )
            undo.pop_all()
            return directory

    def has_entries(self) -> bool:
        """Whether anything is in the directory that is known. Raises RootUnavailableError."""
        with owned(self.open(LIST)) as directory:
            return self._holds_anything(directory)

    def take_up(self) -> bool:
        """Take the directory that is here for the root from now on; False if it is the known one.

        Another one is believed only if it is not empty, its file system is mounted where that of the known
        one was or further down, and it was here at the previous call too: while disks are mounted and trees
        are moved, directories come and go. Raises RootUnavailableError.
        """
        with owned(self._open_whatever(LIST)) as directory:
            if self._known.is_directory(os.fstat(directory)):
                self._candidate = None
                self._holds_anything(directory)
                return False
            found = _standing(directory)
            previous, self._candidate = self._candidate, found
            self._require_mount(found)
            if not self._holds_anything(directory):
                raise RootUnavailableError(
                    self.path,
                    "Another directory is here than before, and it is empty: is its file system mounted? It"
                    " is taken up as soon as anything is in it.",
                )
            if found != previous:
                raise RootUnavailableError(
                    self.path, "Another directory is here than before: it is looked at again in a moment."
                )
            self._known, self._candidate = found, None
            return True

    def _require_mount(self, found: _Standing) -> None:
        before, now = self._known.mounted_at, found.mounted_at
        if before is None or now is None:
            if found.device == self._known.device:
                return
        elif now == before or now.startswith(before.rstrip("/") + "/"):
            return
        raise RootUnavailableError(
            self.path,
            f"Its file system is not mounted: that was at {before or 'an unknown place'}, and what is here"
            f" belongs to {now or 'another one'}. Mount it, or restart the program if this is the right one.",
        )

    def _open_whatever(self, flags: int) -> int:
        try:
            return os.open(self.path, flags)
        except OSError as error:
            raise RootUnavailableError(self.path, sentence(error)) from error

    def _holds_anything(self, directory: int) -> bool:
        try:
            with os.scandir(directory) as listing:
                return any(entry.name not in NO_PROOF for entry in listing)
        except OSError as error:
            raise RootUnavailableError(self.path, sentence(error)) from error


def _standing(directory: int) -> _Standing:
    status = os.fstat(directory)
    return _Standing(status.st_dev, status.st_ino, mount_point(directory))
