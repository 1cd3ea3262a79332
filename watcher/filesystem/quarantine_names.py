"""Names of files in quarantine: which upload of which ledger each belongs to, and its original name.

An id alone does not tell that: another ledger, or this one after a restore, gives the same ids to other
uploads. So a name has the ledger's token, and the name to restore. Earlier versions used
`.video-uploader-<upload>-<claim>.aside`; whose such a file is, only its identity tells.
"""

import hashlib
import os
import re
from dataclasses import dataclass

from db import Identity, Upload

MAX_BYTES = 255
"""The longest file name (NAME_MAX, limits.h(0p))."""

_NUMBER = "(?:0|[1-9][0-9]{0,17})"
# Any process can create such a name: a longer number would not fit into a column of the database.
_PATTERN = re.compile(
    rf"\.video-uploader-(?P<token>[0-9a-f]{{16}})-(?P<id>{_NUMBER})-(?P<claim>{_NUMBER})"
    r"(?:-(?P<original>.+)|~(?P<digest>[0-9a-f]{16})-.*)\.aside",
    re.ASCII | re.DOTALL,
)
_EARLIER_PATTERN = re.compile(
    r"\.video-uploader-(?P<id>[1-9][0-9]{0,17})(?:-(?P<claim>[1-9][0-9]{0,17}))?\.aside", re.ASCII
)


@dataclass(frozen=True, slots=True)
class QuarantineName:
    """What the name of a quarantined file says."""

    upload_id: int
    token: str | None = None
    """The token of the ledger; None in a name that an earlier version has given."""
    original: str | None = None
    """The name to restore; None if it was too long, or in a name of an earlier version."""
    digest: str | None = None
    """The digest of a name that was too long."""

    def belongs_to(self, upload: Upload, token: str, identity: Identity) -> bool:
        """Whether the file, with this identity, is the upload's, in the ledger with this token.

        Where the ledger alone knows the original name, the identity must agree, apart from the device, whose
        number may change at boot.
        """
        name = os.path.basename(upload.path)
        if self.upload_id != upload.id:
            return False
        if self.original is not None:
            return (self.token, self.original) == (token, name)
        if self.token is not None and (self.token, self.digest) != (token, _digest(name)):
            return False
        same = (upload.inode, upload.size, upload.mtime_ns)
        return (identity.inode, identity.size, identity.mtime_ns) == same


def quarantine_name(original: str, upload_id: int, claim: int, token: str) -> str:
    """The name of an upload's file in quarantine, in the file's own directory; at most `MAX_BYTES` long.

    It contains the claim, so that a daemon that resumes after it was believed dead cannot touch the file that
    its successor quarantined: not even with an unlink that hung in the kernel.
    """
    head, tail = f".video-uploader-{token}-{upload_id}-{claim}", ".aside"
    name = f"{head}-{original}{tail}"
    if len(os.fsencode(name)) <= MAX_BYTES:
        return name
    head += f"~{_digest(original)}-"
    start = os.fsencode(original)[: MAX_BYTES - len(head) - len(tail)]
    return f"{head}{start.decode(errors='ignore')}{tail}"


def parse_quarantine_name(name: str) -> QuarantineName | None:
    """What a name of a quarantined file says; None for any other name."""
    if match := _PATTERN.fullmatch(name):
        return QuarantineName(int(match["id"]), match["token"], match["original"], match["digest"])
    if match := _EARLIER_PATTERN.fullmatch(name):
        return QuarantineName(int(match["id"]))
    return None


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
