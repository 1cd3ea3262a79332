"""The watched directory, traversed by file descriptors, one path component at a time.

A process that may write into the directory can create a symbolic link, a FIFO or a hard link to another
user's file in it, and can replace a component between two of our calls. A path that the kernel resolves in
one call would follow all of these; openat(2) with `O_NOFOLLOW` for every component follows none.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from db import Identity
from watcher.filesystem.openat import (
    LIST,
    SEARCH,
    FileMissingError,
    NotOursError,
    Owned,
    RootUnavailableError,
    TreeError,
    UnreadableError,
    identity_of,
    open_directory_at,
    open_file_at,
    plain_status_at,
    sentence,
)
from watcher.filesystem.root import Root

# A walk keeps two descriptors open per level; no path template comes near this depth.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file found by a walk. Its number of names is not checked: `Tree.open` does that."""

    path: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class UnreadableDirectory:
    """A directory that a walk could not list completely: its files are unknown, not missing."""

    path: str
    reason: str


Entry = FoundFile | UnreadableDirectory


class Tree:
    """The files below one directory, named by relative paths with '/' between the components.

    The root is resolved once, in the constructor, so that it may be a symbolic link of the operator's; from
    then on it is that directory, until `adopt_root` accepts another one. It is opened anew for every call,
    because an open descriptor would keep its file system from being unmounted.

    `is_shared`: several machines use the directory, each with a device number of its own.
    `allows_hard_links`: files with several names are accepted; otherwise they raise NotOursError.

    Raises RootUnavailableError if there is no such directory.
    """

    def __init__(self, root: str, *, is_shared: bool = False, allows_hard_links: bool = False) -> None:
        self.is_shared = is_shared
        self.allows_hard_links = allows_hard_links
        self._root = Root(root)
        self.lock_root: Callable[[], None] = lambda: None
        """Locks the directory at the root's path, before it is adopted; see `Root.adopt`."""

    @property
    def root(self) -> str:
        """The root's absolute path."""
        return self._root.path

    def identity(self, status: os.stat_result) -> Identity:
        """The identity in a stat result, the same on every machine that uses the directory."""
        identity = identity_of(status)
        return replace(identity, device=0) if self.is_shared else identity

    def adopt_root(self) -> bool:
        """Check the root, and adopt another directory at its path if the conditions of `Root.adopt` hold.

        Returns whether the root is another directory from now on. Raises RootUnavailableError.
        """
        return self._root.adopt(self.lock_root)

    def ensure_mounted(self) -> None:
        """Raise RootUnavailableError if a missing file may only mean that its file system is not mounted.

        A program that was started without the mount has the empty directory beneath it as its root: so an
        empty root proves nothing about any file.
        """
        if not self._root.has_entries():
            raise RootUnavailableError(
                self.root,
                "It is empty, and files that existed are missing: is its file system mounted? Mount it and"
                " restart the program; if the files were really deleted, create any entry in the directory.",
            )

    def open_root(self) -> int:
        """Open the root for listing; the caller closes the descriptor. Raises RootUnavailableError."""
        return self._root.open(LIST)

    def open(self, relative: str) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        Raises FileMissingError, NotOursError, UnreadableError, RootUnavailableError.
        """
        *parents, name = _components(relative)
        with Owned(self._enter(parents, relative, SEARCH)) as directory:
            return open_file_at(directory, name, relative, allow_hard_links=self.allows_hard_links)

    def open_parent(self, relative: str) -> tuple[int, str]:
        """Open the directory of a file for rename, link, unlink and fsync; returns it with the file's name.

        The file itself is not checked. The caller closes the descriptor. Raises as `open` does.
        """
        *parents, name = _components(relative)
        return self._enter(parents, relative, LIST), name

    def directory_statuses(self, parents: Sequence[str]) -> list[os.stat_result]:
        """The status of the root and of each directory below it that `parents` name, one in the other.

        Raises as `open` does.
        """
        relative = "/".join(parents)
        directory = self._root.open(SEARCH)
        statuses = []
        for name in parents:
            with Owned(directory) as above:
                statuses.append(os.fstat(above))
                directory = open_directory_at(above, name, relative, SEARCH)
        with Owned(directory):
            return [*statuses, os.fstat(directory)]

    def stat(self, relative: str) -> Identity | None:
        """The identity of a regular file, without opening it; None if it is missing.

        Raises NotOursError, UnreadableError, RootUnavailableError.
        """
        *parents, name = _components(relative)
        try:
            with Owned(self._enter(parents, relative, SEARCH)) as directory:
                return self.identity(
                    plain_status_at(directory, name, relative, allow_hard_links=self.allows_hard_links)
                )
        except FileMissingError:
            return None

    def has_one_name(self, relative: str) -> bool:
        """Whether the file has exactly one name; False if it cannot be examined."""
        *parents, name = _components(relative)
        try:
            with Owned(self._enter(parents, relative, SEARCH)) as directory:
                return plain_status_at(directory, name, relative).st_nlink == 1
        except TreeError:
            return False

    def is_unchanged(self, relative: str, identity: Identity) -> bool:
        """Whether the file at the path has this identity; False if it cannot be examined."""
        try:
            return self.stat(relative) == identity
        except TreeError:
            return False

    def exists(self, relative: str) -> bool:
        """Whether the path exists, with any type of file.

        Raises UnreadableError, RootUnavailableError.
        """
        *parents, name = _components(relative)
        try:
            with Owned(self._enter(parents, relative, SEARCH)) as directory:
                os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileMissingError, NotOursError, FileNotFoundError):
            return False
        except OSError as error:
            raise UnreadableError(relative, sentence(error), error.errno) from error
        return True

    def walk(self, below: str = "", *, enter: Callable[[str], bool] = lambda _: True) -> Iterator[Entry]:
        """Every regular file below a directory of the tree, in no particular order.

        Memory and open descriptors are bounded by the depth, not by the number of files. `enter` decides for
        every directory below `below` whether to descend into it. Entries that vanish meanwhile are skipped;
        an unreadable directory is an entry of its own, so that it is not mistaken for an empty one. Names
        that are not valid UTF-8 have surrogate escapes (PEP 383).

        Raises RootUnavailableError, at the first step or later.
        """
        if not below:
            yield from self._walk_open(self._root.open(LIST), "", enter, depth=0)
            return
        try:
            parts = _components(below)
            directory = self._enter(parts, below, LIST)
        except (FileMissingError, NotOursError):
            return
        except UnreadableError as error:
            yield UnreadableDirectory(below, error.reason)
            return
        yield from self._walk_open(directory, below, enter, depth=len(parts))

    def _walk_open(
        self, directory: int, below: str, enter: Callable[[str], bool], depth: int
    ) -> Iterator[Entry]:
        """Walk an open directory, and close it."""
        with Owned(directory):
            try:
                with os.scandir(directory) as listing:
                    for found in listing:
                        path = f"{below}/{found.name}" if below else found.name
                        if found.is_dir(follow_symlinks=False):
                            if enter(path):
                                yield from self._walk_child(directory, found.name, path, enter, depth + 1)
                        else:
                            yield from self._found(found, path)
            except OSError as error:
                if not below:
                    raise RootUnavailableError(self.root, sentence(error)) from error
                yield UnreadableDirectory(below, sentence(error))

    def _found(self, found: "os.DirEntry[str]", path: str) -> Iterator[FoundFile]:
        try:
            status = found.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            yield FoundFile(path, self.identity(status))

    def _walk_child(
        self, directory: int, name: str, path: str, enter: Callable[[str], bool], depth: int
    ) -> Iterator[Entry]:
        """Walk a subdirectory, if it still exists."""
        if depth > MAX_DEPTH:
            yield UnreadableDirectory(path, f"It is more than {MAX_DEPTH} directories deep: not listed.")
            return
        try:
            child = open_directory_at(directory, name, path, LIST)
        except (FileMissingError, NotOursError):
            return
        except UnreadableError as error:
            yield UnreadableDirectory(path, error.reason)
            return
        yield from self._walk_open(child, path, enter, depth)

    def _enter(self, parents: Sequence[str], relative: str, flags: int) -> int:
        """Open the directory below the root that `parents` name; `flags` apply to it, not to its parents."""
        directory = self._root.open(SEARCH if parents else flags)
        for depth, name in enumerate(parents, start=1):
            with Owned(directory) as above:
                directory = open_directory_at(
                    above, name, relative, flags if depth == len(parents) else SEARCH
                )
        return directory


def _components(relative: str) -> list[str]:
    parts = relative.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\0" in relative:
        raise NotOursError(relative, "It is not a plain relative path: it contains '..', '.', '' or NUL.")
    try:
        os.fsencode(relative)
    except UnicodeEncodeError as error:
        raise NotOursError(relative, "It contains characters that a file name cannot have.") from error
    return parts
