"""File-system events below the watched directory: from inotify, or from polling on network file systems.

Events are hints that make detection fast; correctness comes from scans. A lost event costs time, never a
file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog
from watchdog.events import DirMovedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler

from watcher.detection import polling
from watcher.detection.inotify import AddWatch, Callbacks, Watches, add_watch
from watcher.filesystem import mounts
from watcher.filesystem.openat import Owned
from watcher.telemetry import RepeatFilter

log = structlog.get_logger()


class TreeObserver:
    """Watches a directory tree, in threads of its own.

    A scan must call `watch` for every directory before it lists it: the scan finds the files that are in it
    then, events report those that come later. `begin_pass` and `end_pass` enclose a scan of the whole tree.

    `file_system` returns the type of an open directory's file system. A directory on a network file system is
    polled, with pauses of at least `poll_seconds`, and needs no watches. After the first poll
    `notice_directory` is called for the root, because changes before it are not reported.
    """

    def __init__(
        self,
        root: str,
        callbacks: Callbacks,
        *,
        file_system: Callable[[int], str | None] = mounts.file_system_type,
        poll_seconds: float = polling.POLL_SECONDS,
        add: AddWatch = add_watch,
    ) -> None:
        self._root = root
        self._callbacks = callbacks
        self._file_system = file_system
        self._poll_seconds = poll_seconds
        self._add = add
        self._reported = RepeatFilter()
        self._watches: Watches | None = None
        self._poller: polling.PollingObserver | None = None

    def start(self) -> None:
        """Start watching. Raises OSError if the root cannot be watched; may be called again then."""
        with Owned(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            kind = self._file_system(directory)
        if mounts.is_network(kind):
            self._poll(kind)
            return
        watches = Watches(self._root, self._callbacks, add=self._add)
        watches.start()
        self._watches = watches

    def _poll(self, kind: str | None) -> None:
        if self._reported.is_news(self._root, str(kind)):
            log.info("observer_polls", file_system=kind, seconds=self._poll_seconds)
        poller = polling.PollingObserver(
            seconds=self._poll_seconds, begun=lambda: self._callbacks.notice_directory("")
        )
        handler = _PollingHandler(self._root, self._callbacks)
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
        """Whether events still arrive, and from the directory that is now at the root's path."""
        if (watches := self._watches) is not None:
            return watches.is_sound()
        poller = self._poller
        # The observer stays alive when its emitter has ended because the root vanished.
        return (
            poller is not None
            and poller.is_alive()
            and any(emitter.is_alive() for emitter in poller.emitters)
        )

    def watch(self, directory: str) -> None:
        """Watch a directory that a scan is about to list."""
        if (watches := self._watches) is not None:
            watches.watch(directory)

    def begin_pass(self) -> None:
        """A scan of the whole tree begins."""
        if (watches := self._watches) is not None:
            watches.begin_pass()

    def end_pass(self) -> None:
        """The scan of the whole tree is complete."""
        if (watches := self._watches) is not None:
            watches.end_pass()

    def retry_unwatched(self) -> bool:
        """Whether directories that could not be watched can be watched now; a full scan then does so."""
        watches = self._watches
        return watches is not None and watches.retry_unwatched()

    @property
    def watched(self) -> int:
        """The number of watched directories."""
        watches = self._watches
        return 0 if watches is None else len(watches)

    @property
    def unwatched(self) -> int:
        """The number of directories that cannot be watched: only scans find new files in them."""
        watches = self._watches
        return 0 if watches is None else watches.unwatched


class _PollingHandler(FileSystemEventHandler):
    def __init__(self, root: str, callbacks: Callbacks) -> None:
        self._root = root
        self._callbacks = callbacks

    def on_any_event(self, event: FileSystemEvent) -> None:
        is_move = isinstance(event, (FileMovedEvent, DirMovedEvent))
        path = os.path.relpath(os.fsdecode(event.dest_path if is_move else event.src_path), self._root)
        if path == ".." or path.startswith("../"):
            return
        if event.is_directory:
            self._callbacks.notice_directory("" if path == "." else path)
        else:
            self._callbacks.notice_file(path)
