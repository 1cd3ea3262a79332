"""What an examination of a file means, in words."""

from __future__ import annotations

import time

from watcher.detection.completeness import (
    Busy,
    FileStatus,
    Finished,
    Missing,
    QuietPeriod,
    Refused,
    Unreadable,
    check_complete,
)
from watcher.filesystem.tree import Tree


def describe(tree: Tree, path: str) -> str:
    """Look at a file once and say what is seen; raises `watcher.filesystem.openat.RootUnavailableError`."""
    return in_words(check_complete(tree, path, previous=None, now=time.monotonic(), settle_seconds=1))


def in_words(file_status: FileStatus) -> str:
    """A sentence for a finding."""
    match file_status:
        case Finished(_, None):
            return "It is there and finished."
        case Finished(_, finding):
            return f"It is there, and nobody writes it, but: {finding}"
        case Busy(reason):
            return f"It is not finished: {reason}"
        case QuietPeriod():
            return "It is there; whether somebody writes it, only a quiet time can tell."
        case Refused(reason):
            return f"It is not taken: {reason}"
        case Unreadable(reason):
            return f"It cannot be read: {reason}"
        case Missing():
            return "It is not there."
