"""Read leases: whether any process has a file open for writing; see F_SETLEASE in fcntl(2).

The kernel grants a read lease only while no process has the file open for writing, shared writable mappings
included. While the lease is held, a process that opens the file for writing blocks in open(2), for at most
the seconds of /proc/sys/fs/lease-break-time, and the holder gets SIGIO, whose default action is to terminate.
"""

import errno
import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from watcher.filesystem.mounts import file_system_type

# Every writer of a file there goes through this kernel's own inode, mappings included. That does not hold for
# network and cluster file systems, FUSE, 9p and virtiofs (remote writers) or overlay (misses a writer that
# keeps only a mapping). A type that is not listed is not trusted: a quiet period costs seconds, a wrong
# answer costs a video.
TRUSTED_FILE_SYSTEMS = frozenset(
    {
        *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "reiserfs", "xfs", "zfs"),
        *("exfat", "hfsplus", "msdos", "ntfs3", "vfat"),
        *("ramfs", "tmpfs"),
    }
)

# EACCES: neither owner nor CAP_LEASE. EPERM: a seccomp filter. The rest: the file system has no leases.
_NO_LEASES = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.ENOTTY}
)


class Writers(Enum):
    """Whether any process has a file open for writing."""

    NONE = auto()
    SOME = auto()
    UNKNOWN = auto()


def ignore_sigio() -> None:
    """Keep a broken lease from terminating this process. Call it in the main thread, before any lease."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def check_writers(descriptor: int) -> Writers:
    """Whether any process has the file open for writing at this moment.

    Takes the lease and releases it at once, because a held one blocks the next writer. `descriptor` must be
    open for reading only. UNKNOWN where the kernel does not answer, or not reliably.
    """
    answer = _take(descriptor)
    if answer is Writers.NONE:
        _release(descriptor)
    return _on_trusted_file_system(answer, descriptor)


@dataclass(frozen=True, slots=True)
class LeaseAttempt:
    """The result of trying to hold a lease: `writers`, and `is_granted` if a lease is held at all.

    NONE: no process writes the file, and one that opens it for writing blocks until the lease is released.
    SOME: there is a writer and no lease. UNKNOWN: no conclusion is possible, even if a lease was granted.
    """

    descriptor: int
    writers: Writers
    is_granted: bool

    def is_broken(self) -> bool:
        """Whether a writer waits for the end of the lease: proof of a writer on any file system."""
        return self.is_granted and not still_held(self.descriptor)


@contextmanager
def hold(descriptor: int) -> Iterator[LeaseAttempt]:
    """Try to hold the read lease for the length of a `with` block, which must be short."""
    answer = _take(descriptor)
    is_granted = answer is Writers.NONE
    try:
        yield LeaseAttempt(descriptor, _on_trusted_file_system(answer, descriptor), is_granted)
    finally:
        if is_granted:
            _release(descriptor)


def still_held(descriptor: int) -> bool:
    """Whether this descriptor has a lease and no writer waits for its end."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _take(descriptor: int) -> Writers:
    """Try to take the lease; NONE means that it was granted."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return Writers.SOME
        if error.errno in _NO_LEASES:
            return Writers.UNKNOWN
        raise
    return Writers.NONE


def _release(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _on_trusted_file_system(answer: Writers, descriptor: int) -> Writers:
    """Turn NONE into UNKNOWN on a file system that can have writers the kernel does not see."""
    if answer is Writers.NONE and file_system_type(descriptor) not in TRUSTED_FILE_SYSTEMS:
        return Writers.UNKNOWN
    return answer
