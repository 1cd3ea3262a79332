"""A root that is missing, replaced or unreadable is never taken for an empty one."""

import os
from collections.abc import Callable

import pytest

from tests.support.tree_files import Unprivileged, read, write
from watcher.filesystem.openat import RootUnavailableError
from watcher.filesystem.tree import Tree

pytestmark = pytest.mark.usefixtures("no_descriptor_left")


def every_use(tree: Tree) -> list[Callable[[], object]]:
    return [
        tree.ensure_mounted,
        tree.open_root,
        lambda: tree.exists("a.mp4"),
        lambda: tree.open("a.mp4"),
        lambda: tree.open_parent("a.mp4"),
        lambda: tree.stat("a.mp4"),
        lambda: list(tree.walk()),
        lambda: list(tree.walk("x")),
    ]


def test_a_root_that_is_gone_is_never_taken_for_an_empty_one(place: str) -> None:
    root = f"{place}/root"
    os.mkdir(root)
    tree = Tree(root)
    os.rmdir(root)
    for use in every_use(tree):
        with pytest.raises(RootUnavailableError, match="No such file"):
            use()


def test_another_directory_in_place_of_the_root_is_never_taken_for_it(place: str) -> None:
    root = f"{place}/root"
    write(root, "a.mp4")
    write(root, "x/a.mp4")
    tree = Tree(root)
    os.rename(root, f"{root}.unmounted")
    os.mkdir(root)
    for use in every_use(tree):
        with pytest.raises(RootUnavailableError, match="Another directory"):
            use()
    os.rmdir(root)
    os.rename(f"{root}.unmounted", root)
    assert read(tree, "a.mp4") == b"video"


def test_a_root_that_may_not_be_listed_is_unavailable(place: str, unprivileged: Unprivileged) -> None:
    root = f"{place}/root"
    write(root, "a.mp4")
    tree = Tree(root)
    os.chmod(root, 0)
    with unprivileged():
        for use in (tree.open_root, tree.ensure_mounted, lambda: list(tree.walk())):
            with pytest.raises(RootUnavailableError, match="Permission denied"):
                use()
        with pytest.raises(RootUnavailableError):
            Tree(root)
    os.chmod(root, 0o755)


def test_a_root_that_never_was_there_or_is_a_file_is_unavailable(place: str) -> None:
    with pytest.raises(RootUnavailableError, match="No such file"):
        Tree(f"{place}/nothing")
    with pytest.raises(RootUnavailableError, match="Not a directory"):
        Tree(write(place, "file"))


def test_a_missing_file_proves_nothing_while_the_root_is_empty(place: str, tree: Tree) -> None:
    with pytest.raises(RootUnavailableError, match="mounted"):
        tree.ensure_mounted()
    write(place, "a.mp4")
    tree.ensure_mounted()
