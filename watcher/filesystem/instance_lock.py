"""One daemon per instance and per directory, by locks that the kernel releases however the process ends.

The lock of an instance is a file. That of the watched directory must hold whatever the state directory is. It
is no file in the directory, and no open descriptor of it, which would keep its file system from being
unmounted, but the name of an abstract socket (unix(7)) that has its device and inode: every daemon binds one
and looks for those of others. Names are seen within one network namespace, so not by another machine or a
container with a network of its own. Every user can bind such a name; the kernel tells which one has.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_FLOCK = struct.Struct("hhqqi0q")
"""``struct flock`` of fcntl(2): type, whence, start, length, pid."""
_UCRED = struct.Struct("iII")
"""``struct ucred`` of unix(7): pid, uid, gid."""
_BACKLOG = 128
"""How many processes can ask who holds a lock; the holder answers none, and the kernel keeps each of them."""

_EXCLUSIVE, _SHARED, _BELOW = "exclusive", "shared", "below"
_NAME = re.compile(r"@(video-uploader-directory/[0-9a-f]+:[0-9a-f]+)/([a-z]+)/([0-9]+)/[0-9a-f]+")


class InstanceRunningError(Exception):
    """Another daemon of this instance, or on this directory, is running."""


class LockUnavailableError(Exception):
    """The lock file can be neither locked nor queried."""

    def __init__(self, path: str, error: OSError) -> None:
        remedy = (
            "Run this as the user of the daemon, and let STATE_DIRECTORY name a directory that this user can "
            "write to."
        )
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            remedy = "Make free space on its disk."
        elif error.errno == errno.EROFS:
            remedy = "Mount its file system for writing; the system log says why it is read-only."
        super().__init__(f"The lock {path} cannot be used: {error.strerror}. {remedy}")


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
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as exc:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise InstanceRunningError(
                f"Another daemon of this instance is running (process {pid}) and holds {path}; stop it, or "
                "give this one another INSTANCE_ID."
            ) from exc
        except OSError as exc:
            raise LockUnavailableError(path, exc) from exc
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
                # Commands that only ask whether the lock is held start sooner without it.
                log = import_module("structlog").get_logger()
                hint = "Make sure that no other daemon works in this directory, or set SHARED_DIRECTORY."
                log.warning("directory_unlocked", directory=self._directory, reason=str(exc), hint=hint)
            for match in others:
                self._require_no_conflict(match, own, above)
            self.release()
            self._held, self._names = bound.pop_all(), names

    def release(self) -> None:
        """End the lock, if it is held."""
        self._held.close()
        self._names = frozenset()

    def _require_no_conflict(self, match: re.Match[str], own: str, above: Collection[str]) -> None:
        name, kind, _ = match.groups()
        if name == own and not (self._is_shared and kind == _SHARED):
            place = (
                f"a directory below {self._directory}"
                if kind == _BELOW
                else f"the directory {self._directory}"
            )
        elif name in above and kind != _BELOW:
            place = f"a directory above {self._directory}"
        else:
            return
        raise InstanceRunningError(_Holder.of(match).describe(place, os.stat(self._directory).st_uid))


@contextmanager
def directory_held(directory: str, *, is_shared: bool) -> Iterator[DirectoryLock]:
    """Hold a directory's lock for the length of a `with` block. Raises `InstanceRunningError`."""
    lock = DirectoryLock(directory, is_shared=is_shared)
    try:
        lock.acquire()
        yield lock
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process that has bound a name; `uid` is None where the kernel does not tell its user."""

    pid: int
    uid: int | None

    @classmethod
    def of(cls, match: re.Match[str]) -> _Holder:
        """The holder of a name; one that does not listen, as an earlier version, is known by it alone."""
        pid, uid = int(match[3]), None
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            asking.connect(f"\0{match[0].removeprefix('@')}")
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            told, uid, _ = _UCRED.unpack(credentials)
            # A process of another PID namespace has no number here.
            pid = told or pid
        return cls(pid, uid)

    def describe(self, place: str, owner: int) -> str:
        """Say who works in a place, whose directory `owner` owns, and what to do."""
        if self.uid is None:
            return f"Another daemon works in {place} (process {self.pid}). {_TWO_DAEMONS}"
        user = str(self.uid)
        with suppress(KeyError):
            user = pwd.getpwuid(self.uid).pw_name
        who = f"(process {self.pid} of user {user})"
        if self.uid in {0, os.geteuid(), owner}:
            return f"Another daemon works in {place} {who}. {_TWO_DAEMONS}"
        return (
            f"Another process claims to work in {place} {who}. Its user is neither root, nor that of this "
            f"daemon, nor the owner of the directory. If it is no daemon of yours, end it. {_TWO_DAEMONS}"
        )


_TWO_DAEMONS = (
    "Two daemons would publish and remove each other's files: stop one of them, or give each a directory of "
    "its own; to share one directory, set SHARED_DIRECTORY=true for both."
)


def _name_of(directory: Path) -> str:
    """The start of the names of all daemons in a directory, the same by whatever path. Raises OSError."""
    status = directory.stat()
    return f"video-uploader-directory/{status.st_dev:x}:{status.st_ino:x}"


def _bind(bound: ExitStack, name: str, kind: str) -> str:
    """Bind a name of this process until the end of `bound`; return it as /proc shows it. Raises OSError."""
    name = f"{name}/{kind}/{os.getpid()}/{secrets.token_hex(4)}"
    holder = bound.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    holder.bind(f"\0{name}")
    holder.listen(_BACKLOG)
    return f"@{name}"


def _bound_names() -> list[re.Match[str]]:
    """The names that daemons have bound, in this network namespace (proc(5)). Raises OSError."""
    with open("/proc/self/net/unix", encoding="utf-8", errors="replace") as lines:
        return [match for line in lines if (match := _NAME.fullmatch(line.rstrip("\n").rpartition(" ")[2]))]


def _write_lock() -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
