"""Hints that something happened below the watched directory: from the kernel, or from looking.

On network file systems the kernel tells only what this machine does; there the hints come from looking.
Events make the daemon fast; the scan makes it right. A lost event costs time, never a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog
from watchdog.events import DirMovedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler

from watcher.detection import polling
from watcher.detection.inotify import AddWatch, Watches, add_watch
from watcher.filesystem import leases
from watcher.filesystem.openat import owned
from watcher.telemetry.logging import RepeatFilter

log = structlog.get_logger()


class TreeObserver:
    """Watches the directory and what is below it, in threads of its own.

    `notice_file` and `notice_directory` get paths relative to the root, with '/' between the parts, whenever
    something may have changed there; `lost_events` is called after the kernel's queue overflowed.
    None of them may block. `ignores` says which directories are nobody's business.

    Whoever walks the tree has to call `watch` for every directory, before it is listed: what is in it then is
    the walk's to find, and what comes later is told. A walk over everything is a pass.

    `file_system` names the type of the file system that an open directory is on; on a network file system
    the directory is polled, with pauses of at least `poll_seconds`, and there is nothing to be watched. What
    changed before the first look was complete is not told: the root is, as a directory to scan.
    """

    def __init__(
        self,
        root: str,
        *,
        notice_file: Callable[[str], None],
        notice_directory: Callable[[str], None],
        lost_events: Callable[[], None],
        ignores: Callable[[str], bool] = lambda _: False,
        file_system: Callable[[int], str | None] = leases.file_system,
        poll_seconds: float = polling.POLL_SECONDS,
        add: AddWatch = add_watch,
    ) -> None:
        self._root = root
        self._notice_file = notice_file
        self._notice_directory = notice_directory
        self._lost_events = lost_events
        self._ignores = ignores
        self._file_system = file_system
        self._poll_seconds = poll_seconds
        self._add = add
        self._told = RepeatFilter()
        self._watches: Watches | None = None
        self._poller: polling.PollingObserver | None = None

    def start(self) -> None:
        """Begin to watch. Raises OSError if the root cannot be watched; may be tried again then."""
        with owned(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            kind = self._file_system(directory)
        if leases.is_network(kind):
            self._poll(kind)
            return
        watches = Watches(
            self._root,
            notice_file=self._notice_file,
            notice_directory=self._notice_directory,
            lost_events=self._lost_events,
            ignores=self._ignores,
            add=self._add,
        )
        watches.start()
        self._watches = watches

    def _poll(self, kind: str | None) -> None:
        if self._told.is_news(self._root, str(kind)):
            log.info("observer_polls", file_system=kind, seconds=self._poll_seconds)
        poller = polling.PollingObserver(seconds=self._poll_seconds, begun=lambda: self._notice_directory(""))
        handler = _Handler(self._root, self._notice_file, self._notice_directory)
        poller.schedule(handler, self._root, recursive=True, event_filter=polling.EVENTS)
        poller.start()
        self._poller = poller

    def stop(self, timeout: float = 5.0) -> None:
        """Stop watching."""
        watches, self._watches = self._watches, None
        poller, self._poller = self._poller, None
        for running in (watches, poller):
            if running is not None:
                running.stop()
                running.join(timeout)

    def is_alive(self) -> bool:
        """Whether events can still arrive, and from the directory that is at the root's path now."""
        if (watches := self._watches) is not None:
            return watches.is_sound()
        poller = self._poller
        # The observer outlives an emitter that lost its directory.
        return (
            poller is not None
            and poller.is_alive()
            and any(emitter.is_alive() for emitter in poller.emitters)
        )

    def watch(self, directory: str) -> None:
        """A walk comes by this directory and is about to list it."""
        if (watches := self._watches) is not None:
            watches.watch(directory)

    def begin_pass(self) -> None:
        """A walk over the whole tree begins."""
        if (watches := self._watches) is not None:
            watches.begin_pass()

    def end_pass(self) -> None:
        """A walk over the whole tree came to its end."""
        if (watches := self._watches) is not None:
            watches.end_pass()

    def retry_unwatched(self) -> bool:
        """Whether there is room now for directories that could not be watched: a full scan watches them."""
        watches = self._watches
        return watches is not None and watches.retry_unwatched()

    @property
    def watched(self) -> int:
        """How many directories are watched."""
        watches = self._watches
        return 0 if watches is None else len(watches)

    @property
    def unwatched(self) -> int:
        """How many directories should be watched and cannot be: the scans alone find what is new in them."""
        watches = self._watches
        return 0 if watches is None else watches.unwatched


class _Handler(FileSystemEventHandler):
    def __init__(
        self, root: str, notice_file: Callable[[str], None], notice_directory: Callable[[str], None]
    ) -> None:
        self._root = root
        self._notice_file = notice_file
        self._notice_directory = notice_directory

    def on_any_event(self, event: FileSystemEvent) -> None:
        is_move = isinstance(event, (FileMovedEvent, DirMovedEvent))
        path = os.path.relpath(os.fsdecode(event.dest_path if is_move else event.src_path), self._root)
        if path == ".." or path.startswith("../"):
            return
        if event.is_directory:
            self._notice_directory("" if path == "." else path)
        else:
            self._notice_file(path)
