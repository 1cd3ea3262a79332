"""One daemon per instance and per directory, by locks that the kernel releases however the process ends.

The lock of an instance is a file. That of the watched directory must hold whatever the state directory is. It
is no file in the directory, and no open descriptor of it, which would keep its file system from being
unmounted, but the name of an abstract socket (unix(7)) that has its device and inode: every daemon binds one
and looks for those of others. Names are seen within one network namespace, so not by another machine or a
container with a network of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger()

_FLOCK = struct.Struct("hhqqi0q")
"""``struct flock`` of fcntl(2): type, whence, start, length, pid."""


_EXCLUSIVE, _SHARED, _BELOW = "exclusive", "shared", "below"
_NAME = re.compile(r"@(video-uploader-directory/[0-9a-f]+:[0-9a-f]+)/([a-z]+)/([0-9]+)/[0-9a-f]+")


class InstanceRunningError(Exception):
    """Another daemon of this instance, or on this directory, is running."""


class LockUnavailableError(Exception):
    """The lock file can be neither locked nor queried."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(
            f"The lock {path} cannot be used: {error.strerror}. Run this as the user of the daemon, and let "
            "STATE_DIRECTORY name a directory that this user can write to."
        )


def lock_path(state_directory: str, instance: str, completed_dir: str) -> str:
    """The lock file of an instance on a directory: a digest, as either name may be no valid file name."""
    digest = hashlib.sha256(f"{instance}\0{os.path.realpath(completed_dir)}".encode()).hexdigest()
    return os.path.join(state_directory, f"instance-{digest[:16]}.lock")


@contextmanager
def held(path: str) -> Iterator[None]:
    """Hold the lock for the length of a `with` block.

    Raises `InstanceRunningError` if another process holds it, `LockUnavailableError` if locking fails. It is
    an open file description lock (fcntl(2)), which `is_held` can query without taking it.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LockUnavailableError(path, exc) from exc
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _write_lock())
        except BlockingIOError as exc:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise InstanceRunningError(
                f"Another daemon of this instance is running (process {pid}); stop it, or give this one "
                "another INSTANCE_ID."
            ) from exc
        except OSError as exc:
            raise LockUnavailableError(path, exc) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(path: str) -> bool:
    """Whether a daemon holds the lock. Raises `LockUnavailableError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise LockUnavailableError(path, exc) from exc
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _write_lock())
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    except OSError as exc:
        raise LockUnavailableError(path, exc) from exc
    finally:
        os.close(descriptor)


class DirectoryLock:
    """Keeps other daemons from a directory, and from those above it and below it.

    With `is_shared`, other daemons that share the very same directory are allowed.
    """

    def __init__(self, directory: str, *, is_shared: bool) -> None:
        self._directory = directory
        self._is_shared = is_shared
        self._held = ExitStack()
        self._names: frozenset[str] = frozenset()

    def acquire(self) -> None:
        """Lock the directory that is at the path now, instead of one that was there before.

        Raises `InstanceRunningError`, and changes nothing, if another process has a lock in the way, by
        whatever path. Does nothing if there is no such directory, which others report; if names cannot be
        bound or listed here, logs that.
        """
        if not os.path.isdir(self._directory):
            return
        names, others = frozenset[str](), list[re.Match[str]]()
        with ExitStack() as bound:
            try:
                own, *above = map(_name_of, (path := Path(os.path.realpath(self._directory)), *path.parents))
                kind = _SHARED if self._is_shared else _EXCLUSIVE
                names = frozenset((_bind(bound, own, kind), *(_bind(bound, name, _BELOW) for name in above)))
                others = [match for match in _bound_names() if match[0] not in names | self._names]
            except OSError as exc:
                log.warning("directory_unlocked", directory=self._directory, reason=str(exc))
            for match in others:
                self._require_no_conflict(match, own, above)
            self.release()
            self._held, self._names = bound.pop_all(), names

    def release(self) -> None:
        """End the lock, if it is held."""
        self._held.close()
        self._names = frozenset()

    def _require_no_conflict(self, match: re.Match[str], own: str, above: Collection[str]) -> None:
        name, kind, pid = match.groups()
        if name == own and not (self._is_shared and kind == _SHARED):
            raise InstanceRunningError(
                _directory_taken(self._directory, "below" if kind == _BELOW else "in", pid)
            )
        if name in above and kind != _BELOW:
            raise InstanceRunningError(_directory_taken(self._directory, "above", pid))


@contextmanager
def directory_held(directory: str, *, is_shared: bool) -> Iterator[DirectoryLock]:
    """Hold a directory's lock for the length of a `with` block. Raises `InstanceRunningError`."""
    lock = DirectoryLock(directory, is_shared=is_shared)
    try:
        lock.acquire()
        yield lock
    finally:
        lock.release()


def _directory_taken(directory: str, place: str, pid: str) -> str:
    where = {
        "in": f"the directory {directory}",
        "above": f"a directory above {directory}",
        "below": f"a directory below {directory}",
    }[place]
    return (
        f"Another daemon works in {where} (process {pid}). Two daemons would publish and remove each other's "
        "files: stop one of them, or give each a directory of its own; to share one directory, set "
        "SHARED_DIRECTORY=true for both."
    )


def _name_of(directory: Path) -> str:
    """The start of the names of all daemons in a directory, the same by whatever path. Raises OSError."""
    status = directory.stat()
    return f"video-uploader-directory/{status.st_dev:x}:{status.st_ino:x}"


def _bind(bound: ExitStack, name: str, kind: str) -> str:
    """Bind a name of this process until the end of `bound`; return it as /proc shows it. Raises OSError."""
    name = f"{name}/{kind}/{os.getpid()}/{secrets.token_hex(4)}"
    bound.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(f"\0{name}")
    return f"@{name}"


def _bound_names() -> list[re.Match[str]]:
    """The names that daemons have bound, in this network namespace (proc(5)). Raises OSError."""
    with open("/proc/self/net/unix", encoding="utf-8", errors="replace") as lines:
        return [match for line in lines if (match := _NAME.fullmatch(line.rstrip("\n").rpartition(" ")[2]))]


def _write_lock() -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
