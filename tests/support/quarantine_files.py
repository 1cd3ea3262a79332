"""One file on its way into quarantine and out of it, and what may happen to it there."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from db import Identity
from watcher.filesystem import leases
from watcher.filesystem.leases import LeaseAttempt
from watcher.filesystem.openat import identity_of
from watcher.filesystem.removal import (
    Quarantined,
    quarantine,
)
from watcher.filesystem.tree import Tree

RELATIVE = "x/a.mp4"
TOKEN = "0123456789abcdef"
ASIDE = f"x/.video-uploader-{TOKEN}-7-0-a.mp4.aside"
LIKE_AN_ENCODER = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def make_video(place: str) -> str:
    """Write a file in the tree, at RELATIVE; returns where it is."""
    os.mkdir(f"{place}/x")
    path = f"{place}/{RELATIVE}"
    with open(path, "wb") as file:
        file.write(b"hashed")
    return path


def identity(path: str) -> Identity:
    """What the ledger keeps of a file."""
    return identity_of(os.stat(path))


def content(path: str) -> bytes:
    """What a file holds."""
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Write a file."""
    with open(path, "wb") as file:
        file.write(data)


def names(path: str) -> set[str]:
    """The names in a file's directory."""
    return set(os.listdir(os.path.dirname(path)))


def put_aside(tree: Tree, path: str) -> Quarantined:
    """Quarantine a file that nothing keeps from it."""
    aside = quarantine(tree, RELATIVE, 7, identity(path), token=TOKEN)
    assert isinstance(aside, Quarantined)
    return aside


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)


def under_the_lease(monkeypatch: pytest.MonkeyPatch, happens: Callable[[LeaseAttempt], None]) -> None:
    hold = leases.hold

    @contextmanager
    def hold_and_more(descriptor: int) -> Iterator[LeaseAttempt]:
        with hold(descriptor) as held:
            happens(held)
            yield held

    monkeypatch.setattr(leases, "hold", hold_and_more)
