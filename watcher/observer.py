"""Hints from the kernel: watchdog's events, turned into paths to check and directories to scan.

On network file systems the kernel tells only what this machine does; there the hints come from looking.
Events make the daemon fast; the scan makes it right. A lost event costs time, never a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, EventQueue, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver, InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyFD

from watcher import lease, polling
from watcher.logs import RepeatFilter
from watcher.openat import owned

log = structlog.get_logger()

EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
"""Only what can mean a new or finished file: every other event would fill the queue for nothing."""


class TreeObserver:
    """Watches the directory and everything below it, in threads of its own.

    `notice_file` and `notice_directory` get paths relative to the root, with '/' between the parts, whenever
    something may have changed there; `lost_events` is called after the kernel's queue overflowed.
    None of them may block.

    `file_system` names the type of the file system that an open directory is on; on a network file system
    the directory is polled, with pauses of at least `poll_seconds`. What changed before the first look was
    complete is not told: the root is, as a directory to scan.
    """

    def __init__(
        self,
        root: str,
        *,
        notice_file: Callable[[str], None],
        notice_directory: Callable[[str], None],
        lost_events: Callable[[], None],
        file_system: Callable[[int], str | None] = lease.file_system,
        poll_seconds: float = polling.POLL_SECONDS,
    ) -> None:
        self._root = root
        self._handler = _Handler(root, notice_file, notice_directory)
        self._notice_directory = notice_directory
        self._lost_events = lost_events
        self._file_system = file_system
        self._poll_seconds = poll_seconds
        self._told = RepeatFilter()
        self._observer: _Observer | polling.PollingObserver | None = None

    def start(self) -> None:
        """Begin to watch. Raises OSError if the root cannot be watched; may be tried again then."""
        with owned(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            kind = self._file_system(directory)
        observer: _Observer | polling.PollingObserver
        if lease.is_network(kind):
            if self._told.is_news(self._root, str(kind)):
                log.info("observer_polls", file_system=kind, seconds=self._poll_seconds)
            observer = polling.PollingObserver(
                seconds=self._poll_seconds, begun=lambda: self._notice_directory("")
            )
            events = polling.EVENTS
        else:
            observer, events = _Observer(self._lost_events), EVENTS
        observer.schedule(self._handler, self._root, recursive=True, event_filter=events)
        try:
            observer.start()
        except OSError:
            observer.abandon()
            raise
        self._observer = observer

    def stop(self, timeout: float = 5.0) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout)
            self._observer = None

    def is_alive(self) -> bool:
        """Whether events can still arrive: the observer outlives an emitter that lost its directory."""
        observer = self._observer
        return (
            observer is not None
            and observer.is_alive()
            and any(emitter.is_alive() for emitter in observer.emitters)
        )


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


class _Emitter(InotifyEmitter):
    """watchdog repairs its watches after an overflow, but tells no handler that events were lost."""

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        timeout: float,
        event_filter: list[type[FileSystemEvent]] | None,
        inotify_fd: InotifyFD,
        lost_events: Callable[[], None],
    ) -> None:
        super().__init__(
            event_queue, watch, timeout=timeout, event_filter=event_filter, inotify_fd=inotify_fd
        )
        self._lost_events = lost_events

    def on_thread_start(self) -> None:
        self._inotify = _WatchGroup(
            self._inotify_fd,
            os.fsencode(self.watch.path),
            is_recursive=self.watch.is_recursive,
            event_mask=self.get_event_mask_from_filter(),
            follow_symlink=self.watch.follow_symlink,
            lost_events=self._lost_events,
        )


@dataclass
class _WatchGroup(InotifyWatchGroup):
    lost_events: Callable[[], None] = field(default=lambda: None, kw_only=True)

    def on_queue_overflow(self) -> None:
        super().on_queue_overflow()
        self.lost_events()


class _Observer(InotifyObserver):
    def __init__(self, lost_events: Callable[[], None]) -> None:
        self._inotify_fd = InotifyFD()
        BaseObserver.__init__(self, _Emitter, inotify_fd=self._inotify_fd, lost_events=lost_events)
        self._inotify_fd.start()

    def abandon(self) -> None:
        """Give back what the constructor took, for an observer that could not be started."""
        self._inotify_fd.stop()
        self._inotify_fd.join()
