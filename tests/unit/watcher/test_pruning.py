"""Only directories that have been empty for long are removed."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from watcher.filesystem.openat import RootUnavailableError
from watcher.filesystem.pruning import prune_directories
from watcher.filesystem.tree import Tree

NOW = time.time()
DAY = 86_400
LONG_AGO = NOW - 10 * DAY


def make(place: str, *paths: str, at: float = LONG_AGO) -> None:
    """Make directories, or empty files where a path has an extension, all of the same age."""
    for path in paths:
        full = os.path.join(place, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if os.path.splitext(path)[1]:
            with open(full, "wb"):
                pass
        else:
            os.mkdir(full)
    for path in paths:
        directory = os.path.join(place, path)
        while directory != place:
            os.utime(directory, (at, at))
            directory = os.path.dirname(directory)


def prune(tree: Tree, *, ignores: Callable[[str], bool] = lambda _: False) -> int:
    return prune_directories(tree, timedelta(days=7), ignores=ignores, clock=lambda: NOW)


def test_a_directory_that_has_been_empty_for_long_is_removed(place: str, tree: Tree) -> None:
    make(place, "old", "older")
    assert prune(tree) == 2
    assert os.listdir(place) == []


def test_a_directory_made_a_moment_ago_stays(place: str, tree: Tree) -> None:
    make(place, "new", at=NOW - 1)
    make(place, "nearly", at=NOW - 7 * DAY + 1)
    assert prune(tree) == 0
    assert sorted(os.listdir(place)) == ["nearly", "new"]


def test_a_directory_with_any_entry_stays(place: str, tree: Tree) -> None:
    make(place, "file/a.mp4", "hidden/.a.aside")
    os.mkdir(f"{place}/link")
    os.symlink("/nowhere", f"{place}/link/dangling")
    os.utime(f"{place}/link", (LONG_AGO, LONG_AGO))
    assert prune(tree) == 0
    assert sorted(os.listdir(place)) == ["file", "hidden", "link"]


def test_a_directory_emptied_by_pruning_changes_and_waits_for_its_own_time(place: str, tree: Tree) -> None:
    make(place, "outer/inner")
    assert prune(tree) == 1
    assert os.listdir(place) == ["outer"]


def test_what_is_ignored_stays(place: str, tree: Tree) -> None:
    make(place, ".trash", "old")
    assert prune(tree, ignores=lambda path: path.startswith(".")) == 1
    assert os.listdir(place) == [".trash"]


def test_nothing_behind_a_symbolic_link_is_touched(
    place: str, tmp_path: os.PathLike[str], tree: Tree
) -> None:
    outside = os.path.join(tmp_path, "outside")
    make(str(tmp_path), "outside/empty")
    os.symlink(outside, f"{place}/link")
    assert prune(tree) == 0
    assert os.listdir(outside) == ["empty"]


def test_the_watched_directory_itself_stays(place: str, tree: Tree) -> None:
    os.utime(place, (LONG_AGO, LONG_AGO))
    assert prune(tree) == 0
    assert os.path.isdir(place)


def test_a_directory_that_cannot_be_removed_stays(
    place: str, tree: Tree, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    make(place, "old")
    with unprivileged():
        if os.access(place, os.W_OK, effective_ids=True):
            os.chmod(place, 0o555)
        assert prune(tree) == 0
    assert os.listdir(place) == ["old"]


def test_without_the_watched_directory_nothing_is_pruned(place: str) -> None:
    os.mkdir(f"{place}/root")
    tree = Tree(f"{place}/root")
    os.rename(f"{place}/root", f"{place}/away")
    with pytest.raises(RootUnavailableError):
        prune(tree)
