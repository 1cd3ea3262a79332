"""Which other users may write or read the settings file, which holds credentials and decides where videos go.

Group and others count alike, as they do for ssh, because the members of a group cannot be determined
reliably. Read access for a group is left to the operator.
"""

from __future__ import annotations

import os
import stat

_ROOT = 0


def permission_problems(path: str) -> list[str]:
    """Return one sentence for each way in which another user can change a settings file.

    A file that does not exist has no problems. The directory counts too, because a user who can write to
    it can replace the file; behind a symbolic link both directories count, those above them do not.
    Raises OSError.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    problems = []
    if writer := _other_writer(status):
        problems.append(f"{path} can be changed by {writer}; restrict it: {_remedy(path, status)}")
    for directory in sorted(
        {os.path.dirname(os.path.abspath(path)), os.path.dirname(os.path.realpath(path))}
    ):
        parent = os.stat(directory)
        is_sticky = bool(parent.st_mode & stat.S_ISVTX)
        # In a sticky directory only the owners of file and directory can replace a file: see chmod(1).
        if (writer := _other_writer(parent)) and not (is_sticky and _is_trusted(parent.st_uid)):
            problems.append(
                f"{path} can be replaced by {writer}, who can write to its directory {directory}; "
                f"restrict it: {_remedy(directory, parent)}"
            )
    return problems


def is_world_readable(path: str) -> bool:
    """Whether every user of this machine may read a file; False if it does not exist."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _other_writer(status: os.stat_result) -> str | None:
    """Name a writer other than root and this program's user; None if there is none."""
    if not _is_trusted(status.st_uid):
        return f"its owner, user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return "every user"
    return f"group {status.st_gid}" if status.st_mode & stat.S_IWGRP else None


def _is_trusted(user: int) -> bool:
    return user in {_ROOT, os.geteuid()}


def _remedy(path: str, status: os.stat_result) -> str:
    return f"chmod go-w {path}" if _is_trusted(status.st_uid) else f"chown {os.geteuid()} {path}"
