"""The kernel's hints, on a real directory: what is told, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from watcher.observer import TreeObserver, _WatchGroup

WAIT_SECONDS = 10
QUEUE_LIMIT = "/proc/sys/fs/inotify/max_queued_events"


@dataclass
class Told:
    """What the observer told."""

    files: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    directories: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    lost: threading.Event = field(default_factory=threading.Event)

    def expect_file(self, path: str) -> None:
        expect(self.files, path)

    def expect_directory(self, path: str) -> None:
        expect(self.directories, path)


def expect(told: queue.SimpleQueue[str], path: str) -> None:
    """Wait until a path is told; others may come before it."""
    while told.get(timeout=WAIT_SECONDS) != path:
        continue


@pytest.fixture
def root(tmp_path: Path) -> str:
    os.mkdir(tmp_path / "completed")
    return str(tmp_path / "completed")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def observer(root: str, told: Told) -> Iterator[TreeObserver]:
    before = set(os.listdir("/proc/self/fd"))
    observer = TreeObserver(
        root,
        notice_file=told.files.put,
        notice_directory=told.directories.put,
        lost_events=told.lost.set,
    )
    yield observer
    observer.stop()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def polling(root: str, told: Told) -> Iterator[TreeObserver]:
    """An observer of the same directory that takes it for one on an NFS server."""
    before = set(os.listdir("/proc/self/fd"))
    observer = TreeObserver(
        root,
        notice_file=told.files.put,
        notice_directory=told.directories.put,
        lost_events=told.lost.set,
        file_system=lambda _descriptor: "nfs4",
        poll_seconds=0.02,
    )
    yield observer
    observer.stop()
    assert set(os.listdir("/proc/self/fd")) == before


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def watch_group(observer: TreeObserver) -> _WatchGroup:
    assert observer._observer is not None
    (emitter,) = observer._observer.emitters
    group: object = getattr(emitter, "_inotify")  # noqa: B009  # watchdog does not type it
    assert isinstance(group, _WatchGroup)
    return group


def test_a_file_is_told_when_it_is_made_and_when_its_writer_closes_it(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    with open(f"{root}/a.mp4", "wb"):
        told.expect_file("a.mp4")
    told.expect_file("a.mp4")


def test_files_that_are_renamed_in_and_within_are_told_by_their_new_name(
    root: str, told: Told, observer: TreeObserver
) -> None:
    write(f"{root}.outside")
    observer.start()
    os.rename(f"{root}.outside", f"{root}/a.mp4")
    told.expect_file("a.mp4")
    os.rename(f"{root}/a.mp4", f"{root}/b.mp4")
    told.expect_file("b.mp4")


def test_what_is_in_directories_that_were_there_before_is_told(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.makedirs(f"{root}/x/y")
    observer.start()
    write(f"{root}/x/y/é \udcff.mp4")
    told.expect_file("x/y/é \udcff.mp4")


def test_a_directory_that_is_made_is_told_and_watched_from_then_on(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    os.mkdir(f"{root}/x")
    told.expect_directory("x")
    write(f"{root}/x/a.mp4")
    told.expect_file("x/a.mp4")


def test_a_directory_that_is_renamed_in_is_told_and_watched_from_then_on(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.makedirs(f"{root}.outside/y")
    write(f"{root}.outside/y/before.mp4")
    observer.start()
    os.rename(f"{root}.outside", f"{root}/x")
    told.expect_directory("x")
    write(f"{root}/x/y/after.mp4")
    told.expect_file("x/y/after.mp4")


def test_a_directory_that_is_renamed_within_is_told_by_its_new_name(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.mkdir(f"{root}/x")
    observer.start()
    os.rename(f"{root}/x", f"{root}/z")
    told.expect_directory("z")
    write(f"{root}/z/a.mp4")
    told.expect_file("z/a.mp4")


def test_a_name_that_begins_with_dots_is_not_taken_for_one_outside(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    write(f"{root}/..a.mp4")
    told.expect_file("..a.mp4")


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
    with watch_group(observer)._lock:  # the reader waits for it, and the queue fills up
        for number in range(100):
            write(f"{root}/{number}.mp4")
    assert told.lost.wait(WAIT_SECONDS)
    assert is_told_of_something_new(root, told)


def test_lost_events_are_told_after_the_watches_were_repaired(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    os.mkdir(f"{root}/x")
    told.expect_directory("x")
    watch_group(observer).on_queue_overflow()
    assert told.lost.is_set()
    write(f"{root}/x/a.mp4")
    told.expect_file("x/a.mp4")


def test_a_deleted_root_ends_the_observers_life_and_a_new_one_begins_another(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    assert observer.is_alive()
    assert observer._observer is not None
    emitters = list(observer._observer.emitters)
    shutil.rmtree(root)
    for emitter in emitters:
        emitter.join(WAIT_SECONDS)
    assert not observer.is_alive()
    observer.stop()
    os.mkdir(root)
    observer.start()
    assert observer.is_alive()
    write(f"{root}/a.mp4")
    told.expect_file("a.mp4")


def test_a_missing_root_cannot_be_watched_and_leaves_nothing_behind(
    root: str, told: Told, observer: TreeObserver
) -> None:
    os.rmdir(root)
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        observer.start()
    assert set(threading.enumerate()) == threads
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert not observer.is_alive()
    os.mkdir(root)
    observer.start()
    write(f"{root}/a.mp4")
    told.expect_file("a.mp4")


def test_stopping_leaves_no_thread_and_no_descriptor_and_may_be_repeated(
    root: str, observer: TreeObserver
) -> None:
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    observer.start()
    assert set(threading.enumerate()) > threads
    observer.stop()
    observer.stop()
    assert not observer.is_alive()
    assert set(threading.enumerate()) == threads
    assert set(os.listdir("/proc/self/fd")) == descriptors


def begin(observer: TreeObserver, told: Told) -> None:
    """Start to poll, and wait for the first look: what changed until then is for a scan."""
    observer.start()
    told.expect_directory("")


def test_on_a_network_file_system_new_and_changed_files_are_found_by_looking(
    root: str, told: Told, polling: TreeObserver
) -> None:
    os.mkdir(f"{root}/x")
    begin(polling, told)
    write(f"{root}/x/é \udcff.mp4")
    told.expect_file("x/é \udcff.mp4")
    with open(f"{root}/x/é \udcff.mp4", "ab") as file:
        file.write(b"more")
    told.expect_file("x/é \udcff.mp4")


def test_looking_finds_what_is_renamed_in_and_within(root: str, told: Told, polling: TreeObserver) -> None:
    write(f"{root}.outside")
    begin(polling, told)
    os.rename(f"{root}.outside", f"{root}/a.mp4")
    told.expect_file("a.mp4")
    os.rename(f"{root}/a.mp4", f"{root}/b.mp4")
    told.expect_file("b.mp4")


def test_looking_finds_new_directories_and_what_is_in_them(
    root: str, told: Told, polling: TreeObserver
) -> None:
    os.makedirs(f"{root}.outside/y")
    write(f"{root}.outside/y/before.mp4")
    begin(polling, told)
    os.rename(f"{root}.outside", f"{root}/x")
    told.expect_directory("x")
    write(f"{root}/x/y/after.mp4")
    told.expect_file("x/y/after.mp4")


def test_looking_follows_no_link_out_of_the_directory(root: str, told: Told, polling: TreeObserver) -> None:
    os.mkdir(f"{root}.outside")
    os.symlink(f"{root}.outside", f"{root}/x")
    begin(polling, told)
    write(f"{root}.outside/foreign.mp4")
    write(f"{root}/own.mp4")
    told_files = [told.files.get(timeout=WAIT_SECONDS)]
    write(f"{root}/last.mp4")
    while told_files[-1] != "last.mp4":
        told_files.append(told.files.get(timeout=WAIT_SECONDS))
    assert "x/foreign.mp4" not in told_files


def test_that_the_directory_is_polled_is_told_once(root: str, told: Told, polling: TreeObserver) -> None:
    with capture_logs() as logged:
        for _ in range(2):
            begin(polling, told)
            polling.stop()
    assert [(line["event"], line["file_system"]) for line in logged] == [("observer_polls", "nfs4")]


def test_on_a_local_file_system_nothing_is_polled(root: str, observer: TreeObserver) -> None:
    with capture_logs() as logged:
        observer.start()
    assert logged == []
    assert watch_group(observer)


def test_a_polled_root_that_goes_away_ends_the_observers_life(
    root: str, told: Told, polling: TreeObserver
) -> None:
    begin(polling, told)
    os.rmdir(root)
    assert polling._observer is not None
    for emitter in list(polling._observer.emitters):
        emitter.join(WAIT_SECONDS)
    assert not polling.is_alive()
    polling.stop()
    with pytest.raises(FileNotFoundError):
        polling.start()
    os.mkdir(root)
    begin(polling, told)
    assert polling.is_alive()
