"""What an observer reported, and how tests wait for it."""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass, field

from watcher.detection.inotify import Callbacks, Watches
from watcher.detection.observer import TreeObserver

WAIT_SECONDS = 10
NO_CALLBACKS = Callbacks(lambda _: None, lambda _: None, lambda: None)


@dataclass
class Told:
    """The paths that the observer reported."""

    files: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    directories: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def callbacks(self) -> Callbacks:
        return Callbacks(self.files.put, self.directories.put, self.lost.set)

    def expect_file(self, path: str) -> None:
        expect(self.files, path)

    def expect_directory(self, path: str) -> None:
        expect(self.directories, path)


def expect(told: queue.SimpleQueue[str], path: str) -> None:
    """Wait until a path is reported; others may come before it."""
    while told.get(timeout=WAIT_SECONDS) != path:
        continue


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def watches_of(observer: TreeObserver) -> Watches:
    assert observer._watches is not None
    return observer._watches


def scan(root: str, observer: TreeObserver) -> None:
    """What a scan of everything does to an observer."""
    observer.begin_pass()
    for directory, _, _ in os.walk(root):
        path = os.path.relpath(directory, root)
        observer.watch("" if path == "." else path)
    observer.end_pass()
