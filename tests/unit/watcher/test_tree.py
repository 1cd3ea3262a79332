"""Only real files of the watched directory are ever opened, whatever is put in their place."""

import errno
import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from db import Identity
from tests.support.peer_process import peer
from tests.support.tree_files import Unprivileged, read, write
from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    Owned,
    UnreadableError,
    birth_time_ns,
    identity_of,
)
from watcher.filesystem.tree import Tree

pytestmark = pytest.mark.usefixtures("no_descriptor_left")


@pytest.mark.parametrize(
    "relative", ["a.mp4", "x/a.mp4", "x/y/ä %#+'\".mp4", "x/" + os.fsdecode(b"\xff.mp4")]
)
def test_a_regular_file_is_opened_at_any_depth(place: str, tree: Tree, relative: str) -> None:
    path = write(place, relative)
    assert read(tree, relative) == b"video"
    assert tree.stat(relative) == identity_of(os.stat(path))


@pytest.mark.parametrize(
    "relative", ["", ".", "..", "/etc/passwd", "x/../a.mp4", "x/./a.mp4", "x//a.mp4", "x/", "a\0b", "\ud800"]
)
def test_a_path_that_is_not_plainly_relative_is_refused(place: str, tree: Tree, relative: str) -> None:
    write(place, "a.mp4")
    write(place, "x/a.mp4")
    for use in (tree.open, tree.stat, tree.open_parent):
        with pytest.raises(NotOursError):
            use(relative)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_symbolic_link_is_not_followed_at_any_level(
    place: str, tree: Tree, tmp_path_factory: pytest.TempPathFactory, level: int
) -> None:
    outside = str(tmp_path_factory.mktemp("outside"))
    relative = "x/y/a.mp4"
    write(place, relative)
    write(outside, relative, b"secret")
    exchanged = "/".join(relative.split("/")[:level])
    os.rename(f"{place}/{exchanged}", f"{outside}/moved")
    os.symlink(f"{outside}/{exchanged}", f"{place}/{exchanged}")
    with pytest.raises(NotOursError, match="symbolic link"):
        tree.open(relative)
    with pytest.raises(NotOursError, match="symbolic link"):
        tree.stat(relative)
    assert list(tree.walk()) == []
    assert list(tree.walk("x")) == []


def test_a_symbolic_link_within_the_directory_and_one_to_nowhere_are_not_followed_either(
    place: str, tree: Tree
) -> None:
    write(place, "a.mp4")
    os.symlink("a.mp4", f"{place}/b.mp4")
    os.symlink("nowhere", f"{place}/c.mp4")
    for relative in ("b.mp4", "c.mp4"):
        with pytest.raises(NotOursError, match="symbolic link"):
            tree.open(relative)


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (lambda path: os.symlink("b.mp4", path), "symbolic link"),
        (os.mkfifo, "regular"),
        (lambda path: os.link(f"{os.path.dirname(path)}/b.mp4", path), "2 names"),
    ],
    ids=["link", "FIFO", "second name"],
)
def test_a_file_exchanged_between_look_and_open_for_what_is_not_ours_is_refused(
    place: str, tree: Tree, monkeypatch: pytest.MonkeyPatch, put: Callable[[str], None], reason: str
) -> None:
    write(place, "a.mp4")
    write(place, "b.mp4", b"another")
    look = os.stat

    def look_and_exchange(name: str, **options: bool) -> os.stat_result:
        status = look(name, **options)
        if name == "a.mp4":
            os.unlink(f"{place}/a.mp4")
            put(f"{place}/a.mp4")
        return status

    monkeypatch.setattr(os, "stat", look_and_exchange)
    with pytest.raises(NotOursError, match=reason):
        tree.open("a.mp4")


def test_a_file_removed_while_it_is_opened_is_missing(
    place: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(place, "a.mp4")
    open_it = os.open

    def open_and_remove(name: str, flags: int, **options: int) -> int:
        descriptor = open_it(name, flags, **options)
        if name == "a.mp4":
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    with pytest.raises(FileMissingError):
        tree.open("a.mp4")


def test_the_identity_of_a_file_is_its_device_inode_size_and_mtime(place: str, tree: Tree) -> None:
    """Inodes are counted by each file system for itself: only the device tells two of them apart."""
    status = os.stat(write(place, "a.mp4"))
    assert status.st_dev != 0
    assert tree.stat("a.mp4") == Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def test_on_a_shared_directory_the_device_does_not_count(place: str) -> None:
    """Each machine that sees it has a number of its own for it."""
    status = os.stat(write(place, "a.mp4"))
    shared = Tree(place, is_shared=True)
    assert shared.stat("a.mp4") == Identity(0, status.st_ino, status.st_size, status.st_mtime_ns)
    assert shared.identity(status) == shared.stat("a.mp4")


def test_a_file_with_several_names_is_refused(place: str, tree: Tree) -> None:
    path = write(place, "a.mp4")
    os.link(path, f"{place}/b.mp4")
    with pytest.raises(NotOursError, match="2 names"):
        tree.open("a.mp4")
    with pytest.raises(NotOursError, match="2 names"):
        tree.stat("b.mp4")


def test_a_file_with_several_names_is_ours_where_hard_links_are_allowed(place: str) -> None:
    os.link(path := write(place, "a.mp4"), f"{place}/b.mp4")
    tree = Tree(place, allows_hard_links=True)
    os.close(tree.open("a.mp4"))
    assert tree.stat("b.mp4") == identity_of(os.stat(path))
    assert not tree.has_one_name("a.mp4")


def test_whether_a_file_has_one_name_is_asked_of_the_disk_and_never_guessed(place: str, tree: Tree) -> None:
    write(place, "a.mp4")
    assert tree.has_one_name("a.mp4")
    os.symlink("a.mp4", f"{place}/link")
    assert not tree.has_one_name("link")
    assert not tree.has_one_name("missing")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("b.mp4", path)], ids=["FIFO", "link"])
def test_nothing_but_regular_files_is_ours_where_hard_links_are_allowed(
    place: str, make: Callable[[str], None]
) -> None:
    write(place, "b.mp4")
    make(f"{place}/a.mp4")
    with pytest.raises(NotOursError):
        Tree(place, allows_hard_links=True).open("a.mp4")


def test_directories_and_sockets_are_refused(place: str, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(f"{place}/directory.mp4")
    monkeypatch.chdir(place)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        for relative in ("directory.mp4", "socket.mp4"):
            with pytest.raises(NotOursError, match="regular"):
                tree.open(relative)


def test_a_fifo_is_refused_without_letting_its_writer_go_on(place: str, tree: Tree) -> None:
    fifo = f"{place}/fifo.mp4"
    os.mkfifo(fifo)
    script = "import sys; print('starting', flush=True); open(sys.argv[1], 'wb'); print('opened', flush=True)"
    with peer(script, fifo) as process:
        process.expect("starting")
        with pytest.raises(NotOursError, match="regular"):
            tree.open("fifo.mp4")
        assert process.says_nothing()
        with Owned(os.open(fifo, os.O_RDONLY)):
            process.expect("opened")


@pytest.mark.parametrize(
    "relative", ["b.mp4", "y/a.mp4", "a.mp4/b.mp4", "x" * 300, "x/" + "y" * 300 + "/a.mp4"]
)
def test_what_is_not_there_is_missing(place: str, tree: Tree, relative: str) -> None:
    write(place, "a.mp4")
    os.mkdir(f"{place}/x")
    with pytest.raises(FileMissingError):
        tree.open(relative)
    assert tree.stat(relative) is None


@pytest.mark.parametrize("closed", ["x/a.mp4", "x"])
def test_what_may_not_be_read_is_unreadable_not_missing(
    place: str, tree: Tree, unprivileged: Unprivileged, closed: str
) -> None:
    write(place, "x/a.mp4")
    os.chmod(f"{place}/{closed}", 0)
    with unprivileged():
        with pytest.raises(UnreadableError, match="Let the service run as the user") as caught:
            tree.open("x/a.mp4")
        assert caught.value.errno == errno.EACCES
    os.chmod(f"{place}/{closed}", 0o755)


def test_a_directory_that_may_only_be_passed_through_is_passed_through(
    place: str, tree: Tree, unprivileged: Unprivileged
) -> None:
    write(place, "x/a.mp4")
    os.chmod(f"{place}/x", 0o111)
    with unprivileged():
        assert read(tree, "x/a.mp4") == b"video"
    os.chmod(f"{place}/x", 0o755)


def test_the_parent_is_given_with_the_name_whatever_is_there(place: str, tree: Tree) -> None:
    write(place, "x/a.mp4")
    directory, name = tree.open_parent("x/b.mp4")
    with Owned(directory):
        assert name == "b.mp4"
        assert os.listdir(directory) == ["a.mp4"]
        os.fsync(directory)


def test_whether_anything_has_a_name_does_not_depend_on_what_it_is(place: str, tree: Tree) -> None:
    write(place, "x/a.mp4")
    os.symlink("nowhere", f"{place}/link.mp4")
    os.symlink("x", f"{place}/linked")
    assert all(map(tree.exists, ["x", "x/a.mp4", "link.mp4", "linked"]))
    assert not any(map(tree.exists, ["b.mp4", "x/b.mp4", "y/a.mp4", "x/a.mp4/b", "linked/a.mp4"]))


def test_whether_anything_has_a_name_is_not_guessed(
    place: str, tree: Tree, unprivileged: Unprivileged
) -> None:
    write(place, "x/a.mp4")
    os.chmod(f"{place}/x", 0)
    with unprivileged(), pytest.raises(UnreadableError):
        tree.exists("x/a.mp4")
    os.chmod(f"{place}/x", 0o755)


def test_the_root_is_opened_for_listing(place: str, tree: Tree) -> None:
    write(place, "a.mp4")
    with Owned(tree.open_root()) as directory:
        assert os.listdir(directory) == ["a.mp4"]


def test_the_operator_may_put_the_root_behind_a_link_of_his_own(
    place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(place, "a.mp4")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    link = str(elsewhere / "link")
    os.symlink(place, link)
    tree = Tree(link)
    os.unlink(link)
    os.symlink(str(elsewhere), link)
    assert read(tree, "a.mp4") == b"video"


def test_the_birth_of_a_file_is_told_where_the_file_system_knows_it(place: str, tree: Tree) -> None:
    """It is that of the inode: neither writing nor an older modification time changes it."""
    path = write(place, "a.mp4")
    with Owned(tree.open("a.mp4")) as descriptor:
        born = birth_time_ns(descriptor)
        told = subprocess.run(
            ["stat", "--format=%W", path], check=True, capture_output=True, text=True
        ).stdout
        assert (0 if born is None else born // 10**9) == int(told)
        write(place, "a.mp4", b"longer")
        os.utime(path, (5, 5))
        assert birth_time_ns(descriptor) == born


def test_the_birth_of_a_file_is_unknown_without_the_call(
    place: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, "a.mp4")
    monkeypatch.setattr("watcher.filesystem.openat._statx", None)
    with Owned(tree.open("a.mp4")) as descriptor:
        assert birth_time_ns(descriptor) is None
