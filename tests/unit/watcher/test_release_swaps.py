"""Whatever happens to a file between any two system calls of its release, nothing new is ever lost.

The release runs against the real file system, and before its first system call, its second, and so on to its
last, each kind of interference is tried once: what an encoder or a person could do at that very moment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from watcher.filesystem.openat import TreeError, identity_of
from watcher.filesystem.quarantine_names import quarantine_name
from watcher.filesystem.removal import (
    Kept,
    LeftInQuarantine,
    Quarantined,
    Released,
    delete_quarantined,
    quarantine,
    repair,
    restore,
)
from watcher.filesystem.tree import FoundFile, Tree

OLD, NEW, LATE = b"hashed and published", b"a new encode", b"written aside"
UPLOAD = 7
TOKEN = "0123456789abcdef"
ASIDE_NAME = quarantine_name("a.mp4", UPLOAD, 0, TOKEN)
CALLS = ("open", "stat", "fstat", "link", "unlink", "rename", "fsync")
REAL = {name: getattr(os, name) for name in CALLS}
WAIT_SECONDS = 10


class Swap:
    """What somebody does to the file, in this thread or, where open(2) may wait for our lease, in another."""

    new: dict[str, bytes]
    """What must be found where in the end."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.path = f"{place}/x/a.mp4"
        self.aside = f"{place}/x/{ASIDE_NAME}"
        self.new = {}

    def do(self) -> None:
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether nothing of it goes on in another thread, but what waits for the end of the release."""
        return True

    def end(self) -> None:
        """The release is over: do what is left to do."""

    def where_it_is(self) -> str:
        """Under which name the file is that was there first."""
        return self.path if os.path.lexists(self.path) else self.aside


class Replaced(Swap):
    """Another file is renamed onto its path."""

    def do(self) -> None:
        write(f"{self.place}/x/a.mp4.part", NEW)
        REAL["rename"](f"{self.place}/x/a.mp4.part", self.path)
        self.new = {self.path: NEW}


class Rewritten(Swap):
    """It is opened with O_TRUNC, as an encoder does, written and closed."""

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

    def do(self) -> None:
        self.new = {self.path: NEW}
        self.opened, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._write, args=[self.target()])
        self.thread.start()
        self.release_claim()

    def target(self) -> str:
        return self.path

    def release_claim(self) -> None:
        self.go_on.set()

    def _write(self, path: str) -> None:
        descriptor = REAL["open"](path, self.flags, 0o644)
        self.opened.set()
        assert self.go_on.wait(WAIT_SECONDS)
        os.write(descriptor, NEW)
        os.ftruncate(descriptor, len(NEW))
        os.close(descriptor)

    def is_done(self) -> bool:
        return not self.thread.is_alive()

    def end(self) -> None:
        self.go_on.set()
        self.thread.join(WAIT_SECONDS)


class Encoded(Rewritten):
    """The same by an encoder that opens its file a second time when it has been opened once."""

    found_itself = False

    def _write(self, path: str) -> None:
        descriptor = REAL["open"](path, self.flags, 0o644)
        with suppress(FileNotFoundError):
            self.found_itself = os.path.samestat(REAL["fstat"](descriptor), REAL["stat"](path))
        os.write(descriptor, NEW)
        os.close(descriptor)


class RewrittenByALatecomer(Rewritten):
    """The same by somebody who had looked its path up before it was renamed, and opens it only now."""

    flags = os.O_WRONLY | os.O_TRUNC

    def target(self) -> str:
        return self.where_it_is()


class HeldOpen(RewrittenByALatecomer):
    """It is opened for writing, and written only when the release is over."""

    flags = os.O_WRONLY

    def release_claim(self) -> None:
        """Not yet."""

    def is_done(self) -> bool:
        return self.opened.is_set() or not self.thread.is_alive()


class Linked(Swap):
    """It gets a second name."""

    def do(self) -> None:
        second = f"{self.place}/x/second.mp4"
        with suppress(FileNotFoundError):
            REAL["link"](self.where_it_is(), second)
            self.new = {second: OLD}


class MadeALink(Swap):
    """It is moved elsewhere, and its path becomes a symbolic link to it."""

    def do(self) -> None:
        elsewhere = f"{self.place}/elsewhere.mp4"
        if os.path.lexists(self.path):
            REAL["rename"](self.path, elsewhere)
            self.new = {elsewhere: OLD, self.path: OLD}
        else:
            write(elsewhere, NEW)
            self.new = {elsewhere: NEW, self.path: NEW}
        os.symlink(elsewhere, self.path)


class MovedAway(Swap):
    """It gets another name."""

    def do(self) -> None:
        if os.path.lexists(self.path):
            REAL["rename"](self.path, f"{self.place}/x/moved.mp4")
            self.new = {f"{self.place}/x/moved.mp4": OLD}


class DirectoryReplaced(Swap):
    """Its directory is moved away, and a new one with a new file takes its place."""

    def do(self) -> None:
        REAL["rename"](f"{self.place}/x", f"{self.place}/y")
        os.mkdir(f"{self.place}/x")
        write(self.path, NEW)
        self.new = {self.path: NEW}


KINDS = [Replaced, Rewritten, Linked, MadeALink, MovedAway, DirectoryReplaced]
LATECOMERS = [RewrittenByALatecomer, HeldOpen]


@dataclass
class Calls:
    """Counts the system calls of the code under test, and lets a swap happen before one of them."""

    at: int = -1
    swap: Swap | None = None
    names: list[str] = field(default_factory=list)
    lease: int | None = None
    is_over: bool = False

    def before(self, name: str) -> None:
        if threading.current_thread() is not threading.main_thread() or self.is_over:
            return
        self.names.append(name)
        if self.swap is not None and len(self.names) - 1 == self.at:
            self.swap.do()
        if self.swap is not None and len(self.names) - 1 >= self.at:
            self._let_it_act(self.swap)

    def _let_it_act(self, swap: Swap) -> None:
        """Until the other thread is done, or waits for our lease."""
        while not swap.is_done() and not self._is_broken():
            os.sched_yield()

    def _is_broken(self) -> bool:
        return self.lease is not None and REAL_FCNTL(self.lease, fcntl.F_GETLEASE) != fcntl.F_RDLCK


REAL_FCNTL = fcntl.fcntl


@contextmanager
def counted(calls: Calls) -> Iterator[None]:
    """A block whose system calls are counted."""

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.before(name)
            return REAL[name](*arguments, **options)

        return call

    def fcntl_counted(descriptor: int, command: int, argument: int = 0) -> Any:
        calls.before({fcntl.F_GETLEASE: "getlease", fcntl.F_SETLEASE: "setlease"}.get(command, "fcntl"))
        answer = REAL_FCNTL(descriptor, command, argument)
        if command == fcntl.F_SETLEASE:
            calls.lease = descriptor if argument == fcntl.F_RDLCK else None
        return answer

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counting(name))
        patch.setattr(fcntl, "fcntl", fcntl_counted)
        yield
        calls.is_over = True


def write(path: str, content: bytes) -> None:
    descriptor = REAL["open"](path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, content)
    os.close(descriptor)


def content(path: str) -> bytes | None:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


def prepared(place: str) -> tuple[Tree, str]:
    """A tree with one file in it, as it was hashed."""
    for name in os.listdir(place):
        shutil.rmtree(f"{place}/{name}") if os.path.isdir(f"{place}/{name}") else os.unlink(f"{place}/{name}")
    os.mkdir(f"{place}/x")
    write(f"{place}/x/a.mp4", OLD)
    return Tree(place), f"{place}/x/a.mp4"


def released(calls: Calls, tree: Tree, path: str) -> object:
    """What becomes of a release; what raises is left as it is, as the stage leaves it."""
    identity = identity_of(os.stat(path))
    with counted(calls), suppress(TreeError):
        aside = quarantine(tree, "x/a.mp4", UPLOAD, identity, token=TOKEN)
        if isinstance(aside, Kept):
            return aside
        calls.before("wait")
        return delete_quarantined(tree, aside)
    return None


def given_back(calls: Calls, tree: Tree, path: str) -> object:
    """What becomes of a file that is put back, after a latecomer wrote it while it was aside."""
    aside = quarantine(tree, "x/a.mp4", UPLOAD, identity_of(os.stat(path)), token=TOKEN)
    assert isinstance(aside, Quarantined)
    write(f"{os.path.dirname(path)}/{ASIDE_NAME}", LATE)
    with counted(calls), suppress(TreeError):
        return restore(tree, aside, "The program ends.")
    return None


def repaired(tree: Tree) -> None:
    """The next scan finds what was left aside, wherever it is by now."""
    known = None
    for found in tree.walk():
        if isinstance(found, FoundFile) and os.path.basename(found.path) == ASIDE_NAME:
            known = repair(tree, found.path, "a.mp4", None, is_hashed_content=lambda _: False)
    assert known is None or not isinstance(known, Released), (
        "what is not known to be hashed is never given up"
    )


def points(way: Callable[[Calls, Tree, str], object], place: str) -> list[str]:
    """The system calls of an undisturbed run."""
    calls = Calls()
    way(calls, *prepared(place))
    assert calls.names
    return calls.names


def disturbed(
    way: Callable[[Calls, Tree, str], object], kind: type[Swap], at: int, place: str
) -> tuple[object, Swap]:
    """Do it with a swap before the so-manieth system call, and then have a scan repair what is left."""
    tree, path = prepared(place)
    swap = kind(place)
    with ExitStack() as ending:
        ending.callback(swap.end)
        outcome = way(Calls(at, swap), tree, path)
    repaired(tree)
    return outcome, swap


def test_an_undisturbed_release_is_what_the_points_are_taken_from(place: str) -> None:
    calls = Calls()
    tree, path = prepared(place)
    assert isinstance(released(calls, tree, path), Released)
    assert {"link", "unlink", "rename", "wait", "setlease", "getlease", "fsync"} < set(calls.names)
    assert os.listdir(os.path.dirname(path)) == []
    assert content(path) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_before_any_system_call_of_a_release_loses_nothing(place: str, kind: type[Swap]) -> None:
    names = points(released, place)
    for at in range(len(names)):
        outcome, swap = disturbed(released, kind, at, place)
        lost = {path for path, expected in swap.new.items() if content(path) != expected}
        assert not lost, f"{kind.__name__} before call {at}, {names[at]}: {outcome}"


def test_who_opens_the_path_before_any_system_call_of_a_release_finds_his_file_under_it(place: str) -> None:
    """A file that is away for the second of the wait would make his encode a failed one."""
    names = points(released, place)
    for at in range(len(names)):
        outcome, swap = disturbed(released, Encoded, at, place)
        assert isinstance(swap, Encoded)
        assert swap.found_itself, f"before call {at}, {names[at]}: {outcome}"
        assert content(swap.path) == NEW


@pytest.mark.parametrize("kind", LATECOMERS)
def test_a_latecomer_is_seen_at_any_moment_until_the_last_look_at_the_lease(
    place: str, kind: type[Swap]
) -> None:
    """He looked the path up before the rename; after that last look he would have slept for over a second."""
    names = points(released, place)
    last_look = max(at for at, name in enumerate(names) if name == "getlease")
    for at in range(last_look + 1):
        outcome, swap = disturbed(released, kind, at, place)
        lost = {path for path, expected in swap.new.items() if content(path) != expected}
        assert not lost, f"{kind.__name__} before call {at}, {names[at]}: {outcome}"


@pytest.mark.parametrize("kind", [Replaced, Rewritten, MadeALink, DirectoryReplaced])
def test_a_swap_before_any_system_call_of_putting_back_loses_neither_content(
    place: str, kind: type[Swap]
) -> None:
    """What was put back already is the actor's own to overwrite; what was not stays under its name aside."""
    names = points(given_back, place)
    is_back = names.index("link") + 1
    for at in range(len(names)):
        outcome, swap = disturbed(given_back, kind, at, place)
        where = f"{kind.__name__} before call {at}, {names[at]}: {outcome}"
        if kind is MadeALink and at >= is_back:
            assert content(f"{place}/elsewhere.mp4") == LATE, where
            continue
        assert {path: content(path) for path in swap.new} == swap.new, where
        if kind is DirectoryReplaced:
            assert content(f"{place}/y/a.mp4") == LATE, where
        elif at < is_back:
            assert isinstance(outcome, LeftInQuarantine), where
            assert content(f"{place}/x/{ASIDE_NAME}") == LATE, where
