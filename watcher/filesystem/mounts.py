"""What /proc says about the mounts that open files are on, see proc_pid_mountinfo(5)."""

from __future__ import annotations

# Fields of a line of mountinfo, before the optional ones that end with a lone dash.
_ID = 0
_POINT = 4


def mount_id(descriptor: int) -> str | None:
    """The id of the mount that an open file is on; None if it cannot be told."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
    except FileNotFoundError:
        return None


def mount_point(descriptor: int) -> str | None:
    """Where the mount is that an open file is on, in the kernel's spelling; None if it cannot be told."""
    fields = mount_fields(mount_id(descriptor))
    return None if fields is None else fields[_POINT]


def mount_type(mount: str | None) -> str | None:
    """The type of the file system of a mount, as in /proc/filesystems; None if it cannot be told."""
    fields = mount_fields(mount)
    return None if fields is None else fields[fields.index("-") + 1]


def mount_fields(mount: str | None) -> list[str] | None:
    """The line of mountinfo about a mount; None if there is no such mount any more."""
    if mount is None:
        return None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            return next((fields for line in lines if (fields := line.split())[_ID] == mount), None)
    except FileNotFoundError:
        return None
