"""Only real files of the watched directory are ever opened, whatever is put in their place."""

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from db import Identity
from tests.support.peer_process import peer
from watcher.filesystem.tree import (
    MAX_DEPTH,
    FileMissingError,
    FoundFile,
    NotOursError,
    RootUnavailableError,
    Tree,
    UnreadableDirectory,
    UnreadableError,
    identity_of,
    owned,
)

Unprivileged = Callable[[], AbstractContextManager[None]]


def write(place: str, relative: str, content: bytes = b"video") -> str:
    path = os.path.join(place, relative)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def read(tree: Tree, relative: str) -> bytes:
    with owned(tree.open(relative)) as descriptor:
        return os.read(descriptor, 100)


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
        with owned(os.open(fifo, os.O_RDONLY)):
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
    with owned(directory):
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
    with owned(tree.open_root()) as directory:
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


def every_use(tree: Tree) -> list[Callable[[], object]]:
    return [
        tree.check_root,
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
        for use in (tree.check_root, tree.ensure_mounted, lambda: list(tree.walk())):
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
        tree.check_root()
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
