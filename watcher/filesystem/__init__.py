"""Access to the watched directory: through descriptors only, never through a symbolic link."""

from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    RootUnavailableError,
    SecondNameError,
    TreeError,
    UnreadableError,
)
from watcher.filesystem.packages import Packages
from watcher.filesystem.tree import FoundFile, Tree, UnreadableDirectory

__all__ = [
    "FileMissingError",
    "FoundFile",
    "NotOursError",
    "Packages",
    "RootUnavailableError",
    "SecondNameError",
    "Tree",
    "TreeError",
    "UnreadableDirectory",
    "UnreadableError",
]
