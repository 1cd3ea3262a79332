"""The observer on a real directory: what it reports, and that it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, WatchDescriptor

from tests.support.observed_paths import WAIT_SECONDS, Told, scan, watches_of, write
from watcher.detection.observer import TreeObserver


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
        replace(told.callbacks, ignores=lambda path: path.endswith(".cache")),
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
