"""A directory on a network file system is polled, and what changes in it is found."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.support.observed_paths import WAIT_SECONDS, Told, write
from watcher.detection.observer import TreeObserver


@pytest.fixture
def polling(root: str, told: Told) -> Iterator[TreeObserver]:
    """An observer of the same directory that takes it for one on an NFS server."""
    before = set(os.listdir("/proc/self/fd"))
    observer = TreeObserver(
        root,
        told.callbacks,
        file_system=lambda _descriptor: "nfs4",
        poll_seconds=0.02,
    )
    yield observer
    observer.stop()
    assert set(os.listdir("/proc/self/fd")) == before


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
