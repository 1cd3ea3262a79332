"""Files below a directory, written and read as tests of `Tree` do it."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from watcher.filesystem.openat import Owned
from watcher.filesystem.tree import Tree

Unprivileged = Callable[[], AbstractContextManager[None]]


def write(place: str, relative: str, content: bytes = b"video") -> str:
    path = os.path.join(place, relative)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def read(tree: Tree, relative: str) -> bytes:
    with Owned(tree.open(relative)) as descriptor:
        return os.read(descriptor, 100)
