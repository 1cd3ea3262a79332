"""Polling, for network file systems, on which inotify does not report the changes of other machines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
)
from watchdog.observers.api import BaseObserver, EventQueue, ObservedWatch
from watchdog.observers.polling import PollingEmitter
from watchdog.utils.dirsnapshot import DirectorySnapshot

POLL_SECONDS = 5.0
"""Pause between two snapshots. Files need a quiet period there, so a shorter pause gains little."""

PAUSE_FACTOR = 4
"""Least ratio of a pause to the snapshot before it, which bounds the load of a large tree."""

EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
"""What can mean a new or finished file. A close is not visible, but it changes the modification time."""


class PollingObserver(BaseObserver):
    """watchdog's polling observer, with a first snapshot that does not block `start`.

    `seconds` is the shortest pause between two snapshots. `begun` is called after the first one: later
    changes are reported.
    """

    def __init__(self, *, seconds: float, begun: Callable[[], None]) -> None:
        super().__init__(_Emitter, timeout=seconds, begun=begun)


class _Emitter(PollingEmitter):
    """Takes its first snapshot in its own thread, as it may take a minute, and follows no symbolic link."""

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        timeout: float,
        event_filter: list[type[FileSystemEvent]] | None,
        begun: Callable[[], None],
    ) -> None:
        super().__init__(event_queue, watch, timeout=timeout, event_filter=event_filter)
        self._begun = begun
        self._has_begun = False
        self._snapshot_seconds = 0.0
        self._take_snapshot = self._timed_snapshot

    def on_thread_start(self) -> None:
        """Raise OSError unless the directory can be listed."""
        with os.scandir(self.watch.path):
            pass

    def queue_events(self, timeout: float) -> None:
        if self._has_begun:
            super().queue_events(max(timeout, PAUSE_FACTOR * self._snapshot_seconds))
            return
        try:
            self._snapshot = self._timed_snapshot()
        except OSError:
            # A missing root ends the thread, as it does later; any other error may be temporary.
            if not os.path.isdir(self.watch.path):
                self.stop()
            self.stopped_event.wait(timeout)
            return
        self._has_begun = True
        self._begun()

    def _timed_snapshot(self) -> DirectorySnapshot:
        started = time.monotonic()
        try:
            return DirectorySnapshot(self.watch.path, recursive=True, stat=os.lstat)
        finally:
            self._snapshot_seconds = time.monotonic() - started
