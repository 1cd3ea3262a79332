"""When another directory at the path is adopted as the watched one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from watcher.filesystem.openat import LIST, Owned, RootUnavailableError
from watcher.filesystem.root import Root


@pytest.fixture
def path(place: str) -> str:
    os.mkdir(f"{place}/root")
    return f"{place}/root"


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def exchange(path: str) -> None:
    """Put another, empty directory at the path; the old one is kept, so that its inode is not used again."""
    os.rename(path, f"{path}.before")
    os.mkdir(path)


@contextmanager
def mounted(path: str) -> Iterator[None]:
    """Mount a new file system at the path."""
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True, capture_output=True)


def test_the_known_directory_is_not_adopted_again(path: str) -> None:
    root = Root(path)
    assert not root.adopt()
    write(f"{path}/a")
    assert not root.adopt()


def test_an_empty_directory_is_never_adopted(path: str) -> None:
    root = Root(path)
    exchange(path)
    for _ in range(3):
        with pytest.raises(RootUnavailableError, match="empty"):
            root.adopt()
    os.mkdir(f"{path}/lost+found")
    for _ in range(3):
        with pytest.raises(RootUnavailableError, match="empty"):
            root.adopt()


def test_another_directory_is_adopted_at_the_second_check(path: str) -> None:
    root = Root(path)
    exchange(path)
    write(f"{path}/a")
    with pytest.raises(RootUnavailableError, match="checked again"):
        root.adopt()
    with pytest.raises(RootUnavailableError, match="Another directory"):
        root.has_entries()
    assert root.adopt()
    assert root.has_entries()
    assert not root.adopt()


def test_directories_that_change_between_checks_are_not_adopted(path: str) -> None:
    root = Root(path)
    exchange(path)
    write(f"{path}/a")
    with pytest.raises(RootUnavailableError, match="checked again"):
        root.adopt()
    os.rename(path, f"{path}.second")
    os.mkdir(path)
    write(f"{path}/a")
    with pytest.raises(RootUnavailableError, match="checked again"):
        root.adopt()


def test_the_known_directory_is_accepted_at_once_when_it_returns(path: str) -> None:
    root = Root(path)
    os.rename(path, f"{path}.away")
    with pytest.raises(RootUnavailableError, match="No such file"):
        root.adopt()
    os.rename(f"{path}.away", path)
    assert not root.adopt()
    root.has_entries()


def test_the_directory_beneath_a_mount_is_never_adopted_and_another_mount_is(path: str) -> None:
    write(f"{path}/beneath")
    with mounted(path):
        root = Root(path)
    for _ in range(3):
        with pytest.raises(RootUnavailableError, match="not mounted"):
            root.adopt()
    with mounted(path):
        write(f"{path}/a")
        # The kernel may give the new file system the number of the old one: then it is the same directory.
        with suppress(RootUnavailableError):
            root.adopt()
        root.adopt()
        assert root.has_entries()


def test_the_root_of_another_file_system_is_another_directory_though_its_inode_is_the_same(path: str) -> None:
    """The roots of two file systems of one type usually have the same inode number."""
    with mounted(path):
        root = Root(path)
        inode = os.stat(path).st_ino
        with mounted(path):
            assert os.stat(path).st_ino == inode
            with pytest.raises(RootUnavailableError, match="Another directory is at this path"):
                root.has_entries()
        assert not root.has_entries()


def test_a_later_mount_is_adopted(path: str) -> None:
    root = Root(path)
    with mounted(path):
        write(f"{path}/a")
        with pytest.raises(RootUnavailableError, match="checked again"):
            root.adopt()
        assert root.adopt()


@pytest.mark.parametrize("is_other_device", [True, False])
def test_where_the_mount_point_is_unknown_the_device_decides(
    path: str, monkeypatch: pytest.MonkeyPatch, is_other_device: bool
) -> None:
    monkeypatch.setattr("watcher.filesystem.root.mount_point", lambda _: None)
    root = Root(path)
    exchange(path)
    write(f"{path}/a")
    if is_other_device:
        root._known = replace(root._known, device=root._known.device + 1)
    for expected in ("not mounted", "not mounted") if is_other_device else ("checked again", None):
        if expected is None:
            assert root.adopt()
        else:
            with pytest.raises(RootUnavailableError, match=expected):
                root.adopt()


def test_no_descriptor_stays_open(path: str) -> None:
    root = Root(path)
    before = os.listdir("/proc/self/fd")
    exchange(path)
    with pytest.raises(RootUnavailableError):
        root.adopt()
    with pytest.raises(RootUnavailableError):
        root.open(LIST)
    write(f"{path}/a")
    root.adopt()
    with Owned(root.open(LIST)):
        pass
    assert os.listdir("/proc/self/fd") == before
