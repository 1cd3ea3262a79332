"""The steps of a file's way, by name: the places where a crash has to be survived, listed once.

With ``VIDEO_UPLOADER_CRASH_AT`` in the environment, as in ``confirmed`` or ``part-sent:3``, the process is
killed with SIGKILL when it reaches that step, the so-manieth time: for tests, and for whoever wants to see.
Without it a step is one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from enum import StrEnum

VARIABLE = "VIDEO_UPLOADER_CRASH_AT"


class Point(StrEnum):
    """What has just been done, and nothing after it."""

    SETTLED = "settled"
    """A file is known to be finished; nothing is written down."""
    ENQUEUED = "enqueued"
    """It has a row in the ledger."""
    HASHED = "hashed"
    """Its checksum is in the ledger; nothing is sent."""
    MULTIPART_CREATED = "multipart-created"
    """The server knows a multipart upload that the ledger does not know yet."""
    MULTIPART_RECORDED = "multipart-recorded"
    """The ledger knows it, too; no part is sent."""
    PART_SENT = "part-sent"
    """The server has accepted a part, or the whole of a small file."""
    COMPLETED = "completed"
    """The object is there; nobody has looked at it."""
    CONFIRMED = "confirmed"
    """A HEAD agreed; nothing is written down."""
    VERIFIED = "verified"
    """The proof is in the ledger."""
    ROW_PUBLISHED = "row-published"
    """The catalog row has the URL, in a transaction that is not committed."""
    PUBLISHED = "published"
    """Catalog and ledger have it."""
    LINKED_ASIDE = "linked-aside"
    """The local copy has the name of a file set aside besides its own, for a moment."""
    RENAMED_ASIDE = "renamed-aside"
    """It has that name and no other one."""
    LEASED = "leased"
    """It is aside, nobody writes it and nothing speaks against it; it is about to be unlinked."""
    UNLINKED = "unlinked"
    """The local copy is gone; the ledger does not know yet."""
    RECORDED = "recorded"
    """The ledger knows."""


hook: Callable[[Point], None] | None = None
"""What is called at each step; None in all but tests."""


def failpoint(point: Point) -> None:
    """Say that a step has been reached."""
    if hook is not None:
        hook(point)


def killer(plan: str) -> Callable[[Point], None]:
    """A hook that kills this process as `plan` says, ``step`` or ``step:n``; ValueError for no such plan."""
    name, _, times = plan.partition(":")
    fatal, last = Point(name), int(times or 1)
    counter = itertools.count(1)

    def kill(point: Point) -> None:
        if point is fatal and next(counter) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


if VARIABLE in os.environ:
    hook = killer(os.environ[VARIABLE])
