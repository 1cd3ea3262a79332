"""Where the kernel tells nothing of what other machines do, the directory is looked at again and again."""

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
"""Between two looks at the directory. A file is settled by a quiet window there, so sooner gains little."""

SHARE = 4
"""The pause is at least this many times as long as the look before it: a large tree is not a load."""

EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
"""What can mean a new or finished file. Nobody tells of a file that is closed; its time changes."""


class PollingObserver(BaseObserver):
    """watchdog's observer without inotify. `begun` is called when changes are seen from then on.

    `seconds` is the shortest pause between two looks.
    """

    def __init__(self, *, seconds: float, begun: Callable[[], None]) -> None:
        super().__init__(_Emitter, timeout=seconds, begun=begun)

    def abandon(self) -> None:
        """There is nothing to give back."""


class _Emitter(PollingEmitter):
    """Makes its first snapshot in its own thread, for it may take a minute, and never follows a link."""

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
        self._seconds_taken = 0.0
        self._take_snapshot = self._look

    def on_thread_start(self) -> None:
        """Make sure that there is a directory. Raises OSError."""
        with os.scandir(self.watch.path):
            pass

    def queue_events(self, timeout: float) -> None:
        if self._has_begun:
            super().queue_events(max(timeout, SHARE * self._seconds_taken))
            return
        try:
            self._snapshot = self._look()
        except OSError:
            # A root that is gone ends the thread, as it does later on; anything else may pass.
            if not os.path.isdir(self.watch.path):
                self.stop()
            self.stopped_event.wait(timeout)
            return
        self._has_begun = True
        self._begun()

    def _look(self) -> DirectorySnapshot:
        started = time.monotonic()
        try:
            return DirectorySnapshot(self.watch.path, recursive=True, stat=os.lstat)
        finally:
            self._seconds_taken = time.monotonic() - started
