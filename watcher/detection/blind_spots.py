"""Directories that cannot be looked into: known until a scan has seen into them, or that they are gone."""

from __future__ import annotations

import threading
from collections.abc import Mapping


class UnreadableDirectories:
    """Paths with the reason for each; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._reasons)

    def add(self, path: str, reason: str) -> bool:
        """Note a directory that cannot be looked into. Returns whether that is news."""
        with self._lock:
            is_news = self._reasons.get(path) != reason
            self._reasons[path] = reason
            return is_news

    def replace(self, below: str, met: Mapping[str, str]) -> list[str]:
        """A scan below a directory is complete and met these. Returns the others that were known there."""
        with self._lock:
            others = sorted(path for path in self._reasons.keys() - met.keys() if _is_in(path, below))
            for path in others:
                del self._reasons[path]
            return others

    def first(self, number: int) -> dict[str, str]:
        """So many of the paths with their reasons, in the paths' order."""
        with self._lock:
            return dict(sorted(self._reasons.items())[:number])


def _is_in(path: str, below: str) -> bool:
    return not below or path == below or path.startswith(f"{below}/")
