"""The kernel's watches on a real directory: lost events, limits, and what a scan does to the watches."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from structlog.testing import capture_logs
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, WatchDescriptor, inotify_rm_watch

from tests.support.observed_paths import WAIT_SECONDS, Told, scan, watches_of, write
from watcher.detection import inotify as watches_module
from watcher.detection.inotify import Watches, add_watch
from watcher.detection.observer import TreeObserver

QUEUE_LIMIT = "/proc/sys/fs/inotify/max_queued_events"


def is_told_of_something_new(root: str, told: Told) -> bool:
    """Whether the observer lives; so short a queue may overflow more than once, so one file may be lost."""
    for number in range(100):
        write(f"{root}/after-{number}.mp4")
        with suppress(queue.Empty):
            while not told.files.get(timeout=WAIT_SECONDS / 100).startswith("after-"):
                continue
            return True
    return False


@contextmanager
def shortest_queue() -> Iterator[None]:
    """A block in which new inotify instances queue next to nothing."""
    with open(QUEUE_LIMIT, encoding="ascii") as file:
        # The limit is the whole machine's: two test runs at once must not take each other's for the real one.
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        try:
            set_queue_limit("16")
        except OSError as error:
            pytest.skip(f"{QUEUE_LIMIT} cannot be changed here: {error}")
        try:
            yield
        finally:
            set_queue_limit(before)


def set_queue_limit(limit: str) -> None:
    with open(QUEUE_LIMIT, "w", encoding="ascii") as file:
        file.write(limit)


def test_an_overflow_of_the_kernels_queue_is_told_and_survived(
    root: str, told: Told, observer: TreeObserver
) -> None:
    with shortest_queue():
        observer.start()
    with watches_of(observer)._state_lock:  # the reader waits for it, and the queue fills up
        for number in range(100):
            write(f"{root}/{number}.mp4")
    assert told.lost.wait(WAIT_SECONDS)
    assert is_told_of_something_new(root, told)


def test_an_overflow_takes_no_watch_off_and_the_next_scan_sets_what_is_missing(
    root: str, told: Told, observer: TreeObserver
) -> None:
    """A watch that is taken off is an event itself: a repair by that overflows the queue again."""
    os.makedirs(f"{root}/known")
    observer.start()
    scan(root, observer)
    watches = watches_of(observer)
    before = dict(watches._paths)
    os.mkdir(f"{root}/x")
    told.expect_directory("x")
    forget(watches, "x")
    watches.handle_event(InotifyEvent(WatchDescriptor(-1), InotifyConstants.IN_Q_OVERFLOW, 0, b""))
    assert told.lost.is_set()
    assert watches._paths == before
    scan(root, observer)
    assert before.items() < watches._paths.items()
    write(f"{root}/x/a.mp4")
    told.expect_file("x/a.mp4")
    write(f"{root}/known/b.mp4")
    told.expect_file("known/b.mp4")


def forget(watches: Watches, path: str) -> None:
    """Make it as if the event that a directory was made had been lost."""
    (watch,) = (watch for watch, known in watches._paths.items() if known == path)
    inotify_rm_watch(watches._inotify_fd, WatchDescriptor(watch))
    watches._paths.pop(watch, None)


def test_a_scan_takes_the_watches_off_that_are_of_directories_elsewhere(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.makedirs(f"{root}/x/y")
    observer.start()
    scan(root, observer)
    assert observer.watched == 3
    os.rename(f"{root}/x", f"{root}.elsewhere")
    scan(root, observer)
    assert observer.watched == 1
    write(f"{root}.elsewhere/y/a.mp4")
    write(f"{root}/b.mp4")
    assert told.files.get(timeout=WAIT_SECONDS) == "b.mp4"


def test_a_scan_that_does_not_come_to_its_end_takes_nothing_off(root: str, observer: TreeObserver) -> None:
    os.makedirs(f"{root}/x/y")
    observer.start()
    scan(root, observer)
    observer.begin_pass()
    observer.watch("")
    assert observer.watched == 3


def test_a_directory_that_is_renamed_in_the_middle_of_a_scan_stays_watched(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.mkdir(f"{root}/x")
    observer.start()
    observer.begin_pass()
    observer.watch("")
    os.rename(f"{root}/x", f"{root}/z")
    told.expect_directory("z")
    observer.watch("x")
    observer.end_pass()
    write(f"{root}/z/a.mp4")
    told.expect_file("z/a.mp4")


class FewWatches:
    """A kernel that allows only so many watches."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.given: set[int] = set()

    def add(self, inotify: int, path: bytes) -> int:
        watch = add_watch(inotify, path)
        if watch not in self.given and len(self.given) >= self.limit:
            inotify_rm_watch(inotify, WatchDescriptor(watch))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.given.add(watch)
        return watch


def test_watches_that_ran_out_are_told_once_counted_and_mended_by_a_scan(root: str, told: Told) -> None:
    for number in range(4):
        os.mkdir(f"{root}/{number}")
    kernel = FewWatches(3)
    observer = TreeObserver(
        root,
        told.callbacks,
        add=kernel.add,
    )
    observer.start()
    try:
        with capture_logs() as logs:
            for _ in range(2):
                scan(root, observer)
                assert (observer.watched, observer.unwatched) == (3, 2)
            assert not observer.retry_unwatched()
            kernel.limit = 100
            assert observer.retry_unwatched()
            scan(root, observer)
        assert (observer.watched, observer.unwatched) == (5, 0)
        assert [entry["event"] for entry in logs] == ["watches_exhausted", "watches_complete"]
        assert "max_user_watches" in logs[0]["hint"]
        assert not observer.retry_unwatched()
    finally:
        observer.stop()


def test_a_directory_that_became_unreadable_is_not_retried_for_ever_before_the_others(
    root: str, told: Told
) -> None:
    for name in ("first", "second"):
        os.mkdir(f"{root}/{name}")
    refused: dict[bytes, int] = dict.fromkeys((b"first", b"second"), errno.ENOSPC)

    def add(inotify: int, path: bytes) -> int:
        if code := refused.get(os.path.basename(os.path.realpath(path))):
            raise OSError(code, os.strerror(code))
        return add_watch(inotify, path)

    observer = TreeObserver(root, told.callbacks, add=add)
    observer.start()
    try:
        scan(root, observer)
        assert observer.unwatched == 2
        refused[b"first"] = refused[b"second"] = errno.EACCES
        assert not observer.retry_unwatched()
        assert not observer.retry_unwatched()
        assert observer.unwatched == 0
    finally:
        observer.stop()


def test_a_new_directory_that_cannot_be_watched_is_counted_and_told_to_be_scanned(
    root: str, told: Told
) -> None:
    kernel = FewWatches(1)
    observer = TreeObserver(
        root,
        told.callbacks,
        add=kernel.add,
    )
    observer.start()
    try:
        os.mkdir(f"{root}/x")
        told.expect_directory("x")
        assert observer.unwatched == 1
        os.rmdir(f"{root}/x")
        assert not observer.retry_unwatched()
        assert observer.unwatched == 0
    finally:
        observer.stop()


def test_a_large_new_tree_is_left_to_the_scan(
    root: str, told: Told, observer: TreeObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches_module, "ENTRIES_AT_ONCE", 3)
    for number in range(10):
        os.makedirs(f"{root}.outside/{number}")
    observer.start()
    os.rename(f"{root}.outside", f"{root}/x")
    told.expect_directory("x")
    assert observer.watched == 2
    scan(root, observer)
    assert observer.watched == 12
