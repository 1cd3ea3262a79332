"""The kernel's own word on whether somebody has a file open for writing: read leases, see fcntl(2).

A read lease is granted only while nobody has the file open for writing, shared writable mappings included.
While it is held, whoever opens the file for writing waits in open(2), for at most the seconds of
/proc/sys/fs/lease-break-time, and the holder gets SIGIO, which kills a process that does not ignore it.
"""

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from watcher.filesystem.mounts import mount_id, mount_type

# Where every writer of a file passes through this kernel's own inode, mappings included. Not so on network
# and cluster file systems, FUSE, 9p and virtiofs (writers elsewhere), overlay (misses a writer that has only
# a mapping left), nor perhaps on one not named here: a quiet window costs seconds there, trust costs a video.
TRUSTED_FILE_SYSTEMS = frozenset(
    {
        *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "reiserfs", "xfs", "zfs"),
        *("exfat", "hfsplus", "msdos", "ntfs3", "vfat"),
        *("ramfs", "tmpfs"),
    }
)

# Other machines, or a program behind FUSE, change files there without this kernel's hearing of it: no inotify
# event comes of that. Every `fuse.…` counts, be it GlusterFS, sshfs or s3fs; `fuseblk` is a local disk.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "coda", "ncpfs", "virtiofs", "vboxsf", "fuse"),
        *("ceph", "lustre", "glusterfs", "gfs2", "ocfs2", "gpfs", "beegfs", "orangefs", "pvfs2", "prl_fs"),
    }
)

# EACCES: neither owner nor CAP_LEASE. EPERM: a seccomp filter. The rest: the file system has no leases.
_CANNOT_SAY = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.ENOTTY}
)


class Writers(Enum):
    """Whether anybody has a file open for writing."""

    NONE = auto()
    SOME = auto()
    UNKNOWN = auto()


def ignore_sigio() -> None:
    """Let a broken lease not kill this process. To be called once, in the main thread, before any lease."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def ask(descriptor: int) -> Writers:
    """Whether anybody has the file open for writing at this moment.

    The lease is given back at once, for a held one makes the next writer wait. `descriptor` must be open for
    reading only. UNKNOWN where the kernel cannot say, or not reliably.
    """
    answer = _take(descriptor)
    if answer is Writers.NONE:
        _give_back(descriptor)
    return _believed(answer, descriptor)


@dataclass(frozen=True, slots=True)
class Hold:
    """An attempt to hold a lease. `writers` is what it says, `is_granted` whether there is a lease at all.

    NONE: nobody writes, and whoever opens the file for writing waits until the end of the block. SOME: there
    is a writer, and no lease. UNKNOWN: nothing can be relied upon, though a lease may have been granted.
    """

    descriptor: int
    writers: Writers
    is_granted: bool

    def is_broken(self) -> bool:
        """Whether there was a lease and a writer is waiting for its end: proof of a writer anywhere."""
        return self.is_granted and not still_held(self.descriptor)


@contextmanager
def hold(descriptor: int) -> Iterator[Hold]:
    """Try to keep the read lease for the length of a `with` block, which must be short."""
    answer = _take(descriptor)
    is_granted = answer is Writers.NONE
    try:
        yield Hold(descriptor, _believed(answer, descriptor), is_granted)
    finally:
        if is_granted:
            _give_back(descriptor)


def still_held(descriptor: int) -> bool:
    """Whether there is a lease on this descriptor and no writer is waiting for its end."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _take(descriptor: int) -> Writers:
    """Try to take the lease; NONE means that we have it now."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return Writers.SOME
        if error.errno in _CANNOT_SAY:
            return Writers.UNKNOWN
        raise
    return Writers.NONE


def _give_back(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _believed(answer: Writers, descriptor: int) -> Writers:
    """What an answer is worth on the file's file system: a writer it knows of is one anywhere."""
    if answer is Writers.NONE and file_system(descriptor) not in TRUSTED_FILE_SYSTEMS:
        return Writers.UNKNOWN
    return answer


def is_network(kind: str | None) -> bool:
    """Whether a file system of this type has writers that this kernel hears nothing of."""
    return kind is not None and (kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse."))


def file_system(descriptor: int) -> str | None:
    """The type of the file system a file is on, as in /proc/filesystems; None if it cannot be told."""
    mount = mount_id(descriptor)
    # Mount ids are used again after an unmount; together with the device they name one file system.
    return None if mount is None else _type_of_mount(mount, os.fstat(descriptor).st_dev)


@lru_cache(maxsize=256)
def _type_of_mount(mount: str, _device: int) -> str | None:
    return mount_type(mount)
