"""Who else may write or read the file of settings: it says where videos go, and holds the keys to get there.

Whoever can write it can send every video to a bucket of his own. Group and others count alike, as they do
for ssh: nobody can tell from here who is in a group. Reading is the operator's to grant to a group.
"""

from __future__ import annotations

import os
import stat

_ROOT = 0


def complaints(path: str) -> list[str]:
    """Why a file of settings must not be believed, a sentence each; none for a file that is not there.

    Its directory counts too, for who may write that can put another file in its place; behind a symbolic
    link both directories do. Those further up are not looked at. Raises OSError.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    if who := _other_writers(status):
        found.append(f"{path} may be changed by {who}; let nobody else: {_mend(path, status)}")
    for directory in sorted(
        {os.path.dirname(os.path.abspath(path)), os.path.dirname(os.path.realpath(path))}
    ):
        above = os.stat(directory)
        is_sticky = bool(above.st_mode & stat.S_ISVTX)
        # In a sticky directory like /tmp only the owners of file and directory can replace a file.
        if (who := _other_writers(above)) and not (is_sticky and _is_trusted(above.st_uid)):
            found.append(
                f"{path} may be replaced by {who}, who can write to its directory {directory}; "
                f"let nobody else: {_mend(directory, above)}"
            )
    return found


def everybody_reads(path: str) -> bool:
    """Whether everybody on this machine may read a file; nobody reads one that is not there."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _other_writers(status: os.stat_result) -> str | None:
    """Who else than root and this program's user may write something, in words."""
    if not _is_trusted(status.st_uid):
        return f"its owner, user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    return f"group {status.st_gid}" if status.st_mode & stat.S_IWGRP else None


def _is_trusted(user: int) -> bool:
    return user in {_ROOT, os.geteuid()}


def _mend(path: str, status: os.stat_result) -> str:
    return f"chmod go-w {path}" if _is_trusted(status.st_uid) else f"chown {os.geteuid()} {path}"
