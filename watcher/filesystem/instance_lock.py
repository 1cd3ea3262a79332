"""One daemon per instance: a file lock, which the kernel releases however the process ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_FLOCK = struct.Struct("hhqqi0q")
"""``struct flock`` of fcntl(2): type, whence, start, length, pid."""


class InstanceRunningError(Exception):
    """Another daemon of this instance is running."""


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
    finally:
        os.close(descriptor)


def _write_lock() -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
