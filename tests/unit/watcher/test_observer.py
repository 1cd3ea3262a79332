"""The kernel's hints, on a real directory: what is told, and that nothing is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, WatchDescriptor, inotify_rm_watch

from watcher.detection import inotify as watches_module
from watcher.detection.inotify import Watches, add_watch
from watcher.detection.observer import TreeObserver

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


def test_a_link_is_not_watched_wherever_it_leads(
    root: str, observer: TreeObserver, told: Told, tmp_path: Path
) -> None:
    os.mkdir(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", f"{root}/link")
    observer.start()
    assert not watches_of(observer).watch("link")
    assert (observer.watched, observer.unwatched) == (1, 0)
    write(f"{root}/link/foreign.mp4")
    write(f"{root}/own.mp4")
    assert told.files.get(timeout=WAIT_SECONDS) == "own.mp4"


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
    scan(root, observer)
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
    scan(root, observer)
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


def test_a_directory_whose_rights_change_is_told(root: str, told: Told, observer: TreeObserver) -> None:
    os.mkdir(f"{root}/x")
    observer.start()
    scan(root, observer)
    os.chmod(f"{root}/x", 0o700)
    told.expect_directory("x")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: os.utime(path, (1, 1)), id="time"),
        pytest.param(lambda path: os.chmod(path, 0o600), id="rights"),
    ],
)
def test_a_file_whose_time_or_rights_change_is_told(
    root: str, told: Told, observer: TreeObserver, change: Callable[[str], None]
) -> None:
    write(f"{root}/a.mp4")
    observer.start()
    change(f"{root}/a.mp4")
    told.expect_file("a.mp4")


def test_the_end_of_a_watched_file_system_is_not_told_as_a_file(
    root: str, told: Told, observer: TreeObserver
) -> None:
    """Nobody asked for that event, and the kernel sends it all the same."""
    observer.start()
    watches = observer._watches
    assert watches is not None
    watches.handle_event(
        InotifyEvent(WatchDescriptor(watches._root_watch), InotifyConstants.IN_UNMOUNT, 0, b"")
    )
    write(f"{root}/a.mp4")
    assert told.files.get(timeout=WAIT_SECONDS) == "a.mp4"


def test_ignored_directories_are_neither_told_nor_watched(root: str, told: Told) -> None:
    observer = TreeObserver(
        root,
        notice_file=told.files.put,
        notice_directory=told.directories.put,
        lost_events=told.lost.set,
        ignores=lambda path: path.endswith(".cache"),
    )
    observer.start()
    try:
        os.mkdir(f"{root}/.cache")
        os.makedirs(f"{root}.outside/.cache")
        os.rename(f"{root}.outside", f"{root}/x")
        assert told.directories.get(timeout=WAIT_SECONDS) == "x"
        assert observer.watched == 2
    finally:
        observer.stop()


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
        notice_file=told.files.put,
        notice_directory=told.directories.put,
        lost_events=told.lost.set,
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


def test_a_new_directory_that_cannot_be_watched_is_counted_and_told_to_be_scanned(
    root: str, told: Told
) -> None:
    kernel = FewWatches(1)
    observer = TreeObserver(
        root,
        notice_file=told.files.put,
        notice_directory=told.directories.put,
        lost_events=told.lost.set,
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


def test_a_deleted_root_ends_the_observers_life_and_a_new_one_begins_another(
    root: str, told: Told, observer: TreeObserver
) -> None:
    observer.start()
    assert observer.is_alive()
    watches = watches_of(observer)
    shutil.rmtree(root)
    watches.join(WAIT_SECONDS)
    assert not observer.is_alive()
    observer.stop()
    os.mkdir(root)
    observer.start()
    assert observer.is_alive()
    write(f"{root}/a.mp4")
    told.expect_file("a.mp4")


@pytest.mark.parametrize("has_successor", [True, False])
def test_a_root_that_is_moved_away_ends_the_observers_life(
    root: str, observer: TreeObserver, has_successor: bool
) -> None:
    """No event tells that a directory, or one above it, has another name now."""
    observer.start()
    os.rename(root, f"{root}.moved")
    if has_successor:
        os.mkdir(root)
    assert not observer.is_alive()


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
    assert observer._watches is not None
    assert observer._poller is None


def test_a_polled_root_that_goes_away_ends_the_observers_life(
    root: str, told: Told, polling: TreeObserver
) -> None:
    begin(polling, told)
    os.rmdir(root)
    assert polling._poller is not None
    for emitter in list(polling._poller.emitters):
        emitter.join(WAIT_SECONDS)
    assert not polling.is_alive()
    polling.stop()
    with pytest.raises(FileNotFoundError):
        polling.start()
    os.mkdir(root)
    begin(polling, told)
    assert polling.is_alive()
