"""The mount and the file system of an open file, read from /proc; see proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from functools import lru_cache

from watcher.filesystem.openat import Owned

# Other machines, or a program behind FUSE, change files there, and inotify reports nothing of it. Every
# `fuse.…` counts (GlusterFS, sshfs, s3fs); `fuseblk` is a local disk.
_NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "coda", "ncpfs", "virtiofs", "vboxsf", "fuse"),
        *("ceph", "lustre", "glusterfs", "gfs2", "ocfs2", "gpfs", "beegfs", "orangefs", "pvfs2", "prl_fs"),
    }
)

_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\S+)", re.MULTILINE)
_INFORMATION_BYTES = 1024
"""More than what is there of a descriptor before its mount."""

# Fields of a line of mountinfo, before the optional ones, which a single dash ends.
_ID = 0
_POINT = 4


def file_system_type(descriptor: int) -> str | None:
    """The type of an open file's file system, as in /proc/filesystems; None if it is unknown."""
    mount = _mount_id(descriptor)
    # The kernel reuses mount ids after an unmount; together with the device they identify a file system.
    return None if mount is None else _type_of_mount(mount, os.fstat(descriptor).st_dev)


def is_network(kind: str | None) -> bool:
    """Whether files on a file system of this type can be written without this kernel's knowledge."""
    return kind is not None and (kind in _NETWORK_FILE_SYSTEMS or kind.startswith("fuse."))


def mount_point(descriptor: int) -> str | None:
    """The mount point of an open file, as the kernel escapes it; None if it is unknown."""
    fields = _mount_fields(_mount_id(descriptor))
    return None if fields is None else fields[_POINT]


@lru_cache(maxsize=256)
def _type_of_mount(mount: str, _device: int) -> str | None:
    fields = _mount_fields(mount)
    return None if fields is None else fields[fields.index("-") + 1]


def _mount_id(descriptor: int) -> str | None:
    try:
        with Owned(os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)) as information:
            found = _MOUNT_ID.search(os.read(information, _INFORMATION_BYTES))
    except FileNotFoundError:
        return None
    return None if found is None else found[1].decode("ascii")


def _mount_fields(mount: str | None) -> list[str] | None:
    """The line of mountinfo for a mount; None if the mount does not exist any more."""
    if mount is None:
        return None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            return next((fields for line in lines if (fields := line.split())[_ID] == mount), None)
    except FileNotFoundError:
        return None
