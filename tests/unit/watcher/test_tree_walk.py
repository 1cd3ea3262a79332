"""A walk finds every regular file, and reports what it cannot read."""

import errno
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.tree_files import Unprivileged, open_descriptors, write
from watcher.filesystem.openat import RootUnavailableError, identity_of
from watcher.filesystem.tree import MAX_DEPTH, FoundFile, Tree, UnreadableDirectory

pytestmark = pytest.mark.usefixtures("no_descriptor_left")


def test_a_walk_finds_every_regular_file_and_nothing_else(place: str, tree: Tree) -> None:
    wanted = {"a.mp4", "x/b.mp4", "x/y/c.mp4", "x/y/" + os.fsdecode(b"\xff")}
    paths = {relative: write(place, relative) for relative in wanted}
    os.symlink("a.mp4", f"{place}/link.mp4")
    os.symlink("x", f"{place}/linked")
    os.mkfifo(f"{place}/fifo.mp4")
    os.mkdir(f"{place}/empty")
    met: list[str] = []

    def enter(path: str) -> bool:
        met.append(path)
        return True

    found = list(tree.walk(enter=enter))
    assert sorted(met) == ["empty", "x", "x/y"]
    assert {entry.path for entry in found} == wanted
    assert len(found) == len(wanted)
    for entry in found:
        assert isinstance(entry, FoundFile)
        assert entry.identity == identity_of(os.stat(paths[entry.path]))


def test_a_walk_can_begin_below_and_leave_directories_out(place: str, tree: Tree) -> None:
    for relative in ("a.mp4", "x/b.mp4", "x/y/c.mp4", "x/z/d.mp4"):
        write(place, relative)
    assert {entry.path for entry in tree.walk("x")} == {"x/b.mp4", "x/y/c.mp4", "x/z/d.mp4"}
    assert {entry.path for entry in tree.walk("x/y")} == {"x/y/c.mp4"}
    assert {e.path for e in tree.walk(enter=lambda path: path != "x/z")} == {"a.mp4", "x/b.mp4", "x/y/c.mp4"}
    assert list(tree.walk("nothing")) == []


def test_a_directory_that_cannot_be_read_is_reported_and_the_others_are_walked(
    place: str, tree: Tree, unprivileged: Unprivileged
) -> None:
    write(place, "x/a.mp4")
    write(place, "y/b.mp4")
    os.chmod(f"{place}/x", 0)
    with unprivileged():
        found = {entry.path: entry for entry in tree.walk()}
        below = list(tree.walk("x"))
    os.chmod(f"{place}/x", 0o755)
    assert found.keys() == {"x", "y/b.mp4"}
    unreadable = found["x"]
    assert isinstance(unreadable, UnreadableDirectory)
    assert "Permission denied" in unreadable.reason
    assert below == [unreadable]


def test_a_root_that_fails_in_the_middle_of_a_walk_is_unavailable_not_empty(
    place: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, "x/a.mp4")

    def broken_disk(_: int) -> Iterator[str]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", broken_disk)
    with pytest.raises(RootUnavailableError, match="Input/output error"):
        list(tree.walk())
    with pytest.raises(RootUnavailableError, match="Input/output error"):
        tree.ensure_mounted()
    assert list(tree.walk("x")) == [UnreadableDirectory("x", "The system says: Input/output error.")]


def test_a_walk_survives_that_everything_vanishes_or_moves_meanwhile(place: str, tree: Tree) -> None:
    for number in range(20):
        write(place, f"{number}/a.mp4")
        write(place, f"{number}/b/c.mp4")
    walk = tree.walk()
    next(walk)
    for number in range(10):
        shutil.rmtree(f"{place}/{number}")
    for number in range(10, 15):
        os.rename(f"{place}/{number}", f"{place}/moved-{number}")
    for number in range(15, 20):
        shutil.rmtree(f"{place}/{number}")
        write(place, str(number))
    assert all(isinstance(entry, FoundFile) for entry in walk)


def test_a_walk_keeps_two_descriptors_a_level_open_and_none_after_it_is_abandoned(
    place: str, tree: Tree
) -> None:
    for number in range(50):
        write(place, f"{number}/x/a.mp4")
    before = open_descriptors()
    walk = tree.walk()
    assert max(open_descriptors() - before for _ in walk) == 3 * 2
    walk = tree.walk()
    next(walk)
    del walk
    assert open_descriptors() == before


def test_a_walk_does_not_go_deeper_than_any_template_could(place: str, tree: Tree) -> None:
    deepest = "/".join(["d"] * MAX_DEPTH)
    write(place, f"{deepest}/a.mp4")
    write(place, f"{deepest}/d/b.mp4")
    found = {entry.path: type(entry) for entry in tree.walk()}
    assert found == {f"{deepest}/a.mp4": FoundFile, f"{deepest}/d": UnreadableDirectory}
