"""inotify watches, a directory at a time, on watchdog's reader.

watchdog's own recursive watch takes every watch off and sets it anew after an overflow of the kernel's queue.
Each one taken off is an event of its own, so that above some ten thousand directories the repair overflows
the queue again, for ever. Here an overflow changes no watch: setting one on a directory that has one already
is nothing to the kernel and queues no event, so that the scan which has to follow anyway sets whatever is
missing on its way, and only what it did not come by is taken off at its end.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog
from watchdog.observers.inotify_c import (
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    WatchDescriptor,
    inotify_add_watch,
    inotify_rm_watch,
)

log = structlog.get_logger()

NEW_MASK = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
CHANGE_MASK = (
    NEW_MASK
    | InotifyConstants.IN_CLOSE_WRITE
    # Rights that were given or lost; and a copy gets its source's time only after it was closed.
    | InotifyConstants.IN_ATTRIB
)
MASK = CHANGE_MASK | InotifyConstants.IN_ONLYDIR | InotifyConstants.IN_DONT_FOLLOW
"""Only what can mean a new or finished file or directory: every other event would fill the queue."""

ENTRIES_AT_ONCE = 1000
"""So much of a new directory is looked at before its scan; more would let the queue fill up meanwhile."""

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

AddWatch = Callable[[int, bytes], int]


def add_watch(inotify: int, path: bytes) -> int:
    """inotify_add_watch(2) with our events; returns the watch descriptor. Raises OSError."""
    watch = inotify_add_watch(inotify, path, MASK)
    if watch == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return watch


class Watches(InotifyFD):
    """Watches directories below a root, and tells what happens in them, from a thread of its own.

    Only the root is watched at first: `watch` is for whoever walks the tree. Paths are relative to the root,
    which is "". `ignores` says which directories are nobody's business. Raises OSError if the root cannot be
    watched, and nothing is left behind then.
    """

    def __init__(
        self,
        root: str,
        *,
        notice_file: Callable[[str], None],
        notice_directory: Callable[[str], None],
        lost_events: Callable[[], None],
        ignores: Callable[[str], bool] = lambda _: False,
        add: AddWatch = add_watch,
    ) -> None:
        super().__init__()
        self._root = root
        self._notice_file = notice_file
        self._notice_directory = notice_directory
        self._lost_events = lost_events
        self._ignores = ignores
        self._add = add
        # Guards what follows; events are told outside of it.
        self._books = threading.Lock()
        self._paths: dict[int, str] = {}
        self._unwatched: set[str] = set()
        self._met: set[int] | None = None
        self._met_unwatched: set[str] = set()
        self._is_shortage_told = False
        try:
            self._root_watch = self._add_watch("")
        except OSError:
            self._is_reading = False
            self.close()
            raise

    def __len__(self) -> int:
        """How many directories are watched."""
        with self._books:
            return len(self._paths)

    @property
    def unwatched(self) -> int:
        """How many directories should be watched and cannot be."""
        with self._books:
            return len(self._unwatched)

    def watch(self, path: str) -> bool:
        """Watch a directory from now on, again or not; whether it is watched.

        What was in it before is not told. A directory that is gone or may not be read needs no watch: of
        the latter the scan tells. Any other reason is told once, and counted.
        """
        try:
            self._add_watch(path)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno in _VANISHED:
                self._forget(path)
            else:
                self._cannot_watch(path, error)
            return False
        return True

    def is_sound(self) -> bool:
        """Whether events arrive, and the directory at the root's path is still the one that is watched."""
        if not self.is_alive():
            return False
        try:
            return self._add_watch("") == self._root_watch
        except OSError as error:
            # A watch stays while the root may not be read; whether it is there is for others to say.
            return isinstance(error, PermissionError)

    def retry_unwatched(self) -> bool:
        """Try one of the directories that could not be watched: whether there is room for it now."""
        with self._books:
            path = next(iter(self._unwatched), None)
        return path is not None and self.watch(path)

    def begin_pass(self) -> None:
        """A walk over the whole tree begins; it calls `watch` for every directory."""
        with self._books:
            self._met = set()
            self._met_unwatched = set()

    def end_pass(self) -> None:
        """The walk came to its end: what it did not come by is not below the root any more."""
        with self._lock, self._books:
            if self._met is None or self._closed:
                return
            for watch in self._paths.keys() - self._met - {self._root_watch}:
                del self._paths[watch]
                # It may be gone together with its directory, while nobody heard of that.
                inotify_rm_watch(self._inotify_fd, WatchDescriptor(watch))
            self._unwatched = self._met_unwatched
            self._met = None
            is_mended = self._is_shortage_told and not self._unwatched
            self._is_shortage_told = bool(self._unwatched)
            watched = len(self._paths)
        if is_mended:
            log.info("watches_complete", watched=watched)

    def handle_event(self, event: InotifyEvent) -> None:
        """Called by the reading thread for every event."""
        if event.is_queue_overflow:
            self._lost_events()
            return
        with self._books:
            if event.is_ignored:
                self._paths.pop(event.wd, None)
            directory = self._paths.get(event.wd)
        if event.wd == self._root_watch and event.is_ignored:
            # It was deleted, or its file system unmounted.
            self.stop()
        if directory is None:
            return
        name = os.fsdecode(event.name)
        path = f"{directory}/{name}" if directory and name else directory or name
        if not event.is_directory:
            if event.mask & CHANGE_MASK:
                self._notice_file(path)
        elif not path or not self._ignores(path):
            if event.mask & NEW_MASK:
                self._explore(path)
            self._notice_directory(path)

    def _add_watch(self, path: str) -> int:
        absolute = os.fsencode(f"{self._root}/{path}" if path else self._root)
        # The first event may arrive before the call is back, and has to wait for the path.
        with self._lock, self._books:
            if self._closed:
                raise OSError(errno.ENOENT, "No longer watching.", path)
            watch = self._add(self._inotify_fd, absolute)
            # The same directory has the same watch, whatever it was called before.
            self._paths[watch] = path
            self._unwatched.discard(path)
            if self._met is not None:
                self._met.add(watch)
        return watch

    def _forget(self, path: str) -> None:
        with self._books:
            self._unwatched.discard(path)

    def _cannot_watch(self, path: str, error: OSError) -> None:
        with self._books:
            self._unwatched.add(path)
            self._met_unwatched.add(path)
            is_news, self._is_shortage_told = not self._is_shortage_told, True
            watched = len(self._paths)
        if is_news:
            log.error("watches_exhausted", watched=watched, path=path, reason=words_of(error), hint=HINT)

    def _explore(self, path: str) -> None:
        """Watch a new directory and what is in it already; whatever is missed, its scan finds."""
        budget = ENTRIES_AT_ONCE
        pending = [path]
        while pending and budget > 0:
            directory = pending.pop()
            if not self.watch(directory):
                continue
            # Any failure to list it is for the scan to find out and to tell.
            with suppress(OSError), os.scandir(f"{self._root}/{directory}") as listing:
                for found in listing:
                    budget -= 1
                    below = f"{directory}/{found.name}"
                    if found.is_dir(follow_symlinks=False):
                        if not self._ignores(below):
                            pending.append(below)
                    elif found.is_file(follow_symlinks=False):
                        self._notice_file(below)
                    if budget <= 0:
                        return


HINT = (
    "New files in directories that are not watched are found by the scans alone (RESCAN_SECONDS); raise "
    "fs.inotify.max_user_watches with sysctl, and it goes on by itself."
)


def words_of(error: OSError) -> str:
    """What the kernel means: ENOSPC is about watches here, never about a disk."""
    if error.errno == errno.ENOSPC:
        return "All inotify watches that the system allows this user are in use."
    return f"The system says: {error.strerror}."
