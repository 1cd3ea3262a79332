"""inotify watches, one directory at a time, on watchdog's reader; see inotify(7).

watchdog's recursive watch removes and re-adds every watch after the kernel's queue has overflowed. Each
removal queues an event (IN_IGNORED), so that above some ten thousand directories the repair overflows the
queue again, in an endless loop. Here an overflow changes no watch. Adding a watch that exists already queues
no event, so the full scan that must follow an overflow adds the missing watches, and removes at its end only
those of directories that it did not visit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

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
    # Changed permissions; and the modification time, which a copy gets only after it was closed.
    | InotifyConstants.IN_ATTRIB
)
MASK = CHANGE_MASK | InotifyConstants.IN_ONLYDIR | InotifyConstants.IN_DONT_FOLLOW
"""Only events that can mean a new or finished file or directory; others would fill the queue."""

ENTRIES_AT_ONCE = 1000
"""Most entries of a new directory that are read before its scan, so that the queue does not fill up."""

_NEEDS_NO_WATCH = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)

WATCHES_HINT = (
    "Only scans (RESCAN_SECONDS) find new files in directories that are not watched. Raise "
    "fs.inotify.max_user_watches with sysctl; no restart is needed."
)

AddWatch = Callable[[int, bytes], int]


def add_watch(inotify: int, path: bytes) -> int:
    """inotify_add_watch(2) with `MASK`; returns the watch descriptor. Raises OSError."""
    watch = inotify_add_watch(inotify, path, MASK)
    if watch == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return watch


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What an observer of a directory tree calls, from its own threads; none of them may block.

    Paths are relative to the root, with '/' between their components. `ignores` tells which directories are
    not watched.
    """

    notice_file: Callable[[str], None]
    notice_directory: Callable[[str], None]
    """Like `notice_file`, called whenever what is at the path may have changed."""
    lost_events: Callable[[], None]
    """Called after the kernel's queue has overflowed."""
    ignores: Callable[[str], bool] = lambda _: False


class Watches(InotifyFD):
    """Watches directories below a root and reports their events from a thread of its own.

    At first only the root is watched; a scan adds the other directories with `watch`. Paths are relative to
    the root, which is "". Raises OSError if the root cannot be watched, and leaks no descriptor then.
    """

    def __init__(self, root: str, callbacks: Callbacks, *, add: AddWatch = add_watch) -> None:
        super().__init__()
        self._root = root
        self._callbacks = callbacks
        self._add = add
        # Guards the attributes below; callbacks are made without it.
        self._state_lock = threading.Lock()
        self._paths: dict[int, str] = {}
        self._unwatched: set[str] = set()
        self._visited: set[int] | None = None
        self._visited_unwatched: set[str] = set()
        self._is_shortage_logged = False
        try:
            self._root_watch = self._add_watch("")
        except OSError:
            self._is_reading = False
            self.close()
            raise

    def __len__(self) -> int:
        """The number of watched directories."""
        with self._state_lock:
            return len(self._paths)

    @property
    def unwatched(self) -> int:
        """The number of directories that cannot be watched."""
        with self._state_lock:
            return len(self._unwatched)

    def watch(self, path: str) -> bool:
        """Watch a directory, if it is not watched yet; returns whether it is watched.

        Files already in it are not reported. A directory that is missing or unreadable needs no watch: the
        scan reports the latter. Any other failure is logged once, and counted.
        """
        try:
            self._add_watch(path)
        except OSError as error:
            if error.errno in _NEEDS_NO_WATCH:
                self._forget(path)
            else:
                self._note_unwatched(path, error)
            return False
        return True

    def is_sound(self) -> bool:
        """Whether events arrive, and the directory at the root's path is still the watched one."""
        if not self.is_alive():
            return False
        try:
            return self._add_watch("") == self._root_watch
        except OSError as error:
            # The watch persists while the root is unreadable; whether the root exists is checked elsewhere.
            return isinstance(error, PermissionError)

    def retry_unwatched(self) -> bool:
        """Try to watch one of the directories that could not be watched; returns whether it succeeded."""
        with self._state_lock:
            path = next(iter(self._unwatched), None)
        return path is not None and self.watch(path)

    def begin_pass(self) -> None:
        """A scan of the whole tree begins; it calls `watch` for every directory."""
        with self._state_lock:
            self._visited = set()
            self._visited_unwatched = set()

    def end_pass(self) -> None:
        """The scan is complete: remove the watches of directories that it did not visit."""
        with self._lock, self._state_lock:
            if self._visited is None or self._closed:
                return
            for watch in self._paths.keys() - self._visited - {self._root_watch}:
                del self._paths[watch]
                # The kernel may have removed the watch with its directory, and the event may be lost.
                inotify_rm_watch(self._inotify_fd, WatchDescriptor(watch))
            self._unwatched = self._visited_unwatched
            self._visited = None
            is_resolved = self._is_shortage_logged and not self._unwatched
            self._is_shortage_logged = bool(self._unwatched)
            watched = len(self._paths)
        if is_resolved:
            log.info("watches_complete", watched=watched)

    def handle_event(self, event: InotifyEvent) -> None:
        """Handle an event; called by the reading thread."""
        if event.is_queue_overflow:
            self._callbacks.lost_events()
            return
        with self._state_lock:
            if event.is_ignored:
                self._paths.pop(event.wd, None)
            directory = self._paths.get(event.wd)
        if event.wd == self._root_watch and event.is_ignored:
            # The root was deleted, or its file system unmounted.
            self.stop()
        if directory is None:
            return
        name = os.fsdecode(event.name)
        path = f"{directory}/{name}" if directory and name else directory or name
        if not event.is_directory:
            if event.mask & CHANGE_MASK:
                self._callbacks.notice_file(path)
        elif not path or not self._callbacks.ignores(path):
            if event.mask & NEW_MASK:
                self._explore(path)
            self._callbacks.notice_directory(path)

    def _add_watch(self, path: str) -> int:
        absolute = os.fsencode(f"{self._root}/{path}" if path else self._root)
        # The first event may arrive before the call returns, and must wait for the path.
        with self._lock, self._state_lock:
            if self._closed:
                raise OSError(errno.ENOENT, "No longer watching.", path)
            watch = self._add(self._inotify_fd, absolute)
            # A directory that was renamed has the same watch.
            self._paths[watch] = path
            self._unwatched.discard(path)
            if self._visited is not None:
                self._visited.add(watch)
        return watch

    def _forget(self, path: str) -> None:
        with self._state_lock:
            self._unwatched.discard(path)

    def _note_unwatched(self, path: str, error: OSError) -> None:
        with self._state_lock:
            self._unwatched.add(path)
            self._visited_unwatched.add(path)
            is_news, self._is_shortage_logged = not self._is_shortage_logged, True
            watched = len(self._paths)
        if is_news:
            log.error(
                "watches_exhausted", watched=watched, path=path, reason=_reason(error), hint=WATCHES_HINT
            )

    def _explore(self, path: str) -> None:
        """Watch a new directory tree and report its files; its scan finds what is missed here."""
        budget = ENTRIES_AT_ONCE
        pending = [path]
        while pending and budget > 0:
            directory = pending.pop()
            if not self.watch(directory):
                continue
            # The scan reports a directory that cannot be listed.
            with suppress(OSError), os.scandir(f"{self._root}/{directory}") as listing:
                for found in listing:
                    budget -= 1
                    below = f"{directory}/{found.name}"
                    if found.is_dir(follow_symlinks=False):
                        if not self._callbacks.ignores(below):
                            pending.append(below)
                    elif found.is_file(follow_symlinks=False):
                        self._callbacks.notice_file(below)
                    if budget <= 0:
                        return


def _reason(error: OSError) -> str:
    """The reason for an error of inotify_add_watch(2), where ENOSPC means the limit of watches."""
    if error.errno == errno.ENOSPC:
        return "The user's limit of inotify watches is reached."
    return f"The system says: {error.strerror}."
