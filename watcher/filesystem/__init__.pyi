from .openat import (
    FileMissingError,
    NotOursError,
    RootUnavailableError,
    SecondNameError,
    TreeError,
    UnreadableError,
)
from .packages import Packages
from .tree import FoundFile, Tree, UnreadableDirectory

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
