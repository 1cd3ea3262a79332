"""Packages for streaming: the files that a playlist in their directory, or in one above it, names.

A playlist elsewhere below the video's directory may name them by `../`, too.

Each of them is of use only under its own name, beside the others. So none of them is a rendition.
"""

from __future__ import annotations

import os
import posixpath
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from db import Identity
from watcher.containers.playlists import PlaylistNames, is_playlist, names_in
from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    Owned,
    RootUnavailableError,
    UnreadableError,
    sentence,
)
from watcher.filesystem.tree import Tree

MAX_BYTES = 2**23
"""How much of a playlist is read."""
MAX_PLAYLISTS = 256
"""How many playlists of a directory are read."""
MAX_DIRECTORIES = 1024
MAX_BELOW = 64
"""How many directories below that of a video are looked at for playlists."""
MAX_NAMES = 200_000
"""How many names of playlists are kept in memory, about."""

MANY_ENTRIES = 1000
_LONGEST_SHARE = 20
"""A listing of more entries is used without a look at the directory for so many times as long as it took."""
_CLOCK_TICK_NS = 100_000_000
"""Two changes of a directory within one tick of the kernel's clock leave the same time."""


@dataclass(frozen=True, slots=True)
class _Playlist:
    path: str
    identity: Identity | None
    names: PlaylistNames | None
    """None if it cannot be read."""
    problem: str = ""


@dataclass(slots=True)
class _Listing:
    """The playlists of a directory, whose times were `changed_ns`.

    It stands until `fresh_until`, and then if neither the directory nor a playlist has changed. That cannot
    be told unless it `is_certain`.
    """

    changed_ns: tuple[int, int]
    playlists: tuple[_Playlist, ...]
    directories: tuple[str, ...]
    fresh_until: float
    is_certain: bool

    @property
    def weight(self) -> int:
        return sum(len(playlist.names or ()) for playlist in self.playlists)


class Packages:
    """Finds the playlists that name a file. Thread-safe; `clock` gives monotonic seconds.

    What was read is kept until the directory or the playlist changes.
    """

    def __init__(self, tree: Tree, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tree = tree
        self._clock = clock
        self._lock = threading.Lock()
        self._listings: dict[str, _Listing] = {}
        self._weight = 0

    def reason(self, path: str) -> str | None:
        """Why the file at a path belongs to a package; completes "it is ignored because".

        None if it does not, or if the watched directory is not available.
        """
        parts = path.split("/")
        try:
            above = self._listings_above(parts[:-1])
        except RootUnavailableError:
            return None
        for depth in range(len(parts) - 1, -1, -1):
            relative = "/".join(parts[depth:])
            listing = above[depth]
            for playlist in () if listing is None else listing.playlists:
                if playlist.names is None and depth == len(parts) - 1:
                    return (
                        f"it may be a part of the package of {playlist.path}, a playlist beside it that "
                        f"cannot be read: {playlist.problem} Make the playlist readable, or move it"
                    )
                if playlist.names is not None and playlist.names.include(relative):
                    return _named_by(playlist, parts[0])
        return self._reason_from_below(path, parts[0], above[1]) if len(parts) > 1 else None

    def _reason_from_below(self, path: str, video: str, top: _Listing | None) -> str | None:
        """As `reason`, by the playlists in other directories of the video, whose own listing is `top`."""
        waiting, looked_at = [video], 0
        while waiting and looked_at < MAX_BELOW:
            directory = waiting.pop(0)
            looked_at += 1
            try:
                listing = top if directory == video else self._listing(directory)
            except RootUnavailableError:
                return None
            if listing is None:
                continue
            waiting += [f"{directory}/{name}" for name in listing.directories]
            if path.startswith(f"{directory}/"):
                continue
            relative = posixpath.relpath(path, directory)
            for playlist in listing.playlists:
                if playlist.names is not None and playlist.names.include(relative):
                    return _named_by(playlist, video)
        return None

    def _listings_above(self, parents: Sequence[str]) -> list[_Listing | None]:
        """The listings of the root and of each directory below it that `parents` name, one in the other.

        Looks at all of them at once, because every file is asked about several times.
        """
        try:
            statuses = self._tree.directory_statuses(parents)
        except (FileMissingError, NotOursError, UnreadableError, OSError):
            statuses = []
        seen = dict(enumerate(map(_changed_ns, statuses)))
        return [
            self._listing("/".join(parents[:depth]), seen.get(depth)) for depth in range(len(parents) + 1)
        ]

    def _listing(self, directory: str, seen_ns: tuple[int, int] | None = None) -> _Listing | None:
        """The listing of a directory, which has the times `seen_ns` if it has just been looked at."""
        with self._lock:
            listing = self._listings.get(directory)
        if listing is not None and (
            self._clock() < listing.fresh_until
            or (listing.is_certain and self._is_current(directory, listing, seen_ns))
        ):
            return listing
        listing = self._list(directory)
        with self._lock:
            if (replaced := self._listings.pop(directory, None)) is not None:
                self._weight -= replaced.weight
            if listing is None:
                return None
            self._listings[directory] = listing
            self._weight += listing.weight
            while len(self._listings) > MAX_DIRECTORIES or (
                self._weight > MAX_NAMES and len(self._listings) > 1
            ):
                oldest = next(iter(self._listings))
                self._weight -= self._listings.pop(oldest).weight
        return listing

    def _is_current(self, directory: str, listing: _Listing, seen_ns: tuple[int, int] | None) -> bool:
        if seen_ns is None:
            try:
                with Owned(self._open(directory)) as descriptor:
                    seen_ns = _changed_ns(os.fstat(descriptor))
            except (FileMissingError, NotOursError, UnreadableError):
                return False
        return seen_ns == listing.changed_ns and all(
            self._identity(playlist.path) == playlist.identity for playlist in listing.playlists
        )

    def _list(self, directory: str) -> _Listing | None:
        """The playlists of a directory; None if it cannot be listed, and holds no file of ours then."""
        began_ns, began = time.time_ns(), self._clock()
        try:
            with Owned(self._open(directory)) as descriptor:
                changed = _changed_ns(os.fstat(descriptor))
                directories: list[str] = []
                entries: list[str] = []
                with os.scandir(descriptor) as listed:
                    for entry in listed:
                        entries.append(entry.name if _may_be_playlist(entry) else "")
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(entry.name)
        except (FileMissingError, NotOursError, UnreadableError, OSError):
            return None
        prefix = f"{directory}/" if directory else ""
        names = sorted(filter(None, entries))[:MAX_PLAYLISTS]
        playlists = tuple(self._read(prefix + name) for name in names)
        ended = self._clock()
        newest = max([*changed, *(one.identity.mtime_ns for one in playlists if one.identity)])
        return _Listing(
            changed_ns=changed,
            playlists=playlists,
            directories=tuple(sorted(directories)[:MAX_BELOW]),
            fresh_until=ended + _LONGEST_SHARE * (ended - began) if len(entries) > MANY_ENTRIES else ended,
            is_certain=newest + _CLOCK_TICK_NS < began_ns,
        )

    def _open(self, directory: str) -> int:
        if not directory:
            return self._tree.open_root()
        # The directory of any name in it.
        return self._tree.open_parent(f"{directory}/_")[0]

    def _read(self, path: str) -> _Playlist:
        identity = self._identity(path)
        try:
            with Owned(self._tree.open(path)) as descriptor:
                content = os.pread(descriptor, MAX_BYTES, 0)
        except FileMissingError:
            return _Playlist(path, None, names_in(b"", path))
        except (NotOursError, UnreadableError) as error:
            return _Playlist(path, identity, None, error.reason)
        except OSError as error:
            return _Playlist(path, identity, None, sentence(error))
        return _Playlist(path, identity, names_in(content, path))

    def _identity(self, path: str) -> Identity | None:
        try:
            return self._tree.stat(path)
        except (NotOursError, UnreadableError):
            return None


def _named_by(playlist: _Playlist, video: str) -> str:
    """The reason that a playlist gives; `video` is the directory outside which it names nothing."""
    directory = posixpath.dirname(playlist.path)
    outside = [
        name
        for name in (playlist.names.above if playlist.names is not None else ())
        if not posixpath.normpath(posixpath.join(directory, name)).startswith(f"{video}/")
    ]
    more = f" (what it names outside {video}, such as {outside[0][:200]}, is not)" if outside else ""
    return (
        f"the playlist {playlist.path} names it: it is a part of a package for streaming{more}, and packages "
        "are not uploaded"
    )


def _changed_ns(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def _may_be_playlist(entry: os.DirEntry[str]) -> bool:
    return is_playlist(entry.name) and (entry.is_file(follow_symlinks=False) or entry.is_symlink())
