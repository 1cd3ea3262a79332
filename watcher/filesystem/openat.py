"""openat(2) restricted to directories and regular files with one name; symbolic links are never followed.

Where hard links are allowed, a regular file may have more than one name; nothing else changes.
"""

import ctypes
import errno
import os
import stat
import struct

from db import Identity

_MIN_TIME, _MAX_TIME = -(2**63), 2**63 - 1
"""The times in nanoseconds that a column of the ledger holds."""

# O_PATH needs no read permission on a directory and triggers no inotify event on it.
SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a directory that is only traversed."""

LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a directory that is listed or fsynced."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800
_STATX_BYTES, _STX_BTIME = 256, 80
"""The size of `struct statx` of linux/stat.h, the same on all architectures, and where the birth time is."""
_statx = getattr(ctypes.CDLL(None), "statx", None)


class TreeError(Exception):
    """An operation on `path` failed; `reason` says why, as a sentence."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r}: {reason}")
        self.path = path
        self.reason = reason


class FileMissingError(TreeError):
    """There is no such file, although the watched directory is present and the known one."""


class NotOursError(TreeError):
    """The path is not a regular file with one name inside the watched directory."""


class SecondNameError(NotOursError):
    """The file has more than one name: for a moment only, if a process moves it with link and unlink."""


class UnreadableError(TreeError):
    """The kernel refuses or fails to open a file or a directory; `errno` is its code, see errno(3)."""

    def __init__(self, path: str, reason: str, code: int | None) -> None:
        super().__init__(path, reason)
        self.errno = code


class RootUnavailableError(TreeError):
    """The watched directory is missing, unreadable or replaced: the state of its files is unknown."""


class Owned:
    """Close a descriptor at the end of a `with` block."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def identity_of(status: os.stat_result) -> Identity:
    """The identity in a stat result. A ctime that the ledger cannot hold is replaced by the nearest one."""
    ctime_ns = max(_MIN_TIME, min(status.st_ctime_ns, _MAX_TIME))
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, ctime_ns)


def birth_time_ns(descriptor: int) -> int | None:
    """When the inode of an open file was made, in nanoseconds since the epoch.

    None if the kernel or the file system does not know. See STATX_BTIME in statx(2), which Python 3.11 lacks.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx is None or _statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return None
    (known,) = struct.unpack_from("=I", buffer)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _STX_BTIME)
    # A file system that does not keep it may say that it is the epoch.
    return seconds * 1_000_000_000 + nanoseconds if known & _STATX_BTIME and seconds else None


def open_file_at(directory: int, name: str, relative: str, *, allow_hard_links: bool = False) -> int:
    """Open the regular file `name` of an open directory for reading; the caller closes the descriptor.

    `relative` is its path for error messages. Raises FileMissingError, NotOursError, UnreadableError.
    """
    # Opening a FIFO or a device before its type is known would unblock a writer or start the device.
    plain_status_at(directory, name, relative, allow_hard_links=allow_hard_links)
    try:
        descriptor = os.open(name, _FILE, dir_fd=directory)
        try:
            _require_plain(os.fstat(descriptor), relative, allow_hard_links)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _translated(error, relative) from error
    return descriptor


def open_directory_at(directory: int, name: str, relative: str, flags: int) -> int:
    """Open the directory `name` of an open directory, with SEARCH or LIST; the caller closes the descriptor.

    `relative` is the path for error messages. Raises FileMissingError, NotOursError, UnreadableError.
    """
    try:
        return os.open(name, flags, dir_fd=directory)
    except NotADirectoryError as error:
        # O_DIRECTORY with O_NOFOLLOW fails in the same way for a symbolic link and for a file.
        if _is_link(directory, name):
            raise NotOursError(relative, f"{name!r} is a symbolic link and is not followed.") from error
        raise FileMissingError(relative, f"{name!r} is not a directory.") from error
    except OSError as error:
        raise _translated(error, relative) from error


def _is_link(directory: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def plain_status_at(
    directory: int, name: str, relative: str, *, allow_hard_links: bool = False
) -> os.stat_result:
    """The status of a regular file with exactly one name, without opening it. Raises as `open_file_at`."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise _translated(error, relative) from error
    _require_plain(status, relative, allow_hard_links)
    return status


def _require_plain(status: os.stat_result, relative: str, allow_hard_links: bool) -> None:
    """Raise unless a stat result is of a regular file with exactly one name, or with any number."""
    if stat.S_ISLNK(status.st_mode):
        raise NotOursError(relative, "It is a symbolic link and is not followed.")
    if not stat.S_ISREG(status.st_mode):
        raise NotOursError(relative, "It is not a regular file.")
    if status.st_nlink == 0:
        raise FileMissingError(relative, "It was removed a moment ago.")
    if status.st_nlink != 1 and not allow_hard_links:
        raise SecondNameError(
            relative,
            f"The file has {status.st_nlink} names (hard links): it may be in use under another one,"
            " or belong to another user; see ALLOW_HARD_LINKS.",
        )


def _translated(error: OSError, relative: str) -> TreeError:
    match error.errno:
        # A name too long for the file system cannot exist.
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG:
            return FileMissingError(relative, "There is no such file.")
        case errno.ELOOP:
            return NotOursError(relative, "It is a symbolic link and is not followed.")
        case errno.EACCES | errno.EPERM:
            hint = "Let the service run as the user who writes the files, or give it the right to read them."
            return UnreadableError(relative, f"{sentence(error)} {hint}", error.errno)
        case _:
            return UnreadableError(relative, sentence(error), error.errno)


def sentence(error: OSError) -> str:
    """The system's message about a failed call, as a sentence."""
    return f"The system says: {error.strerror}."
