"""Failpoints: the named steps of the pipeline at which a crash must be survivable.

``VIDEO_UPLOADER_CRASH_AT`` in the environment, as in ``confirmed`` or ``part-sent:3``, kills the process with
SIGKILL when it reaches that point for the first, or for the given, time. Without it a failpoint costs one
comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from enum import StrEnum

CRASH_AT_VARIABLE = "VIDEO_UPLOADER_CRASH_AT"


class Point(StrEnum):
    """A point in the pipeline, named after the step that has just been completed."""

    SETTLED = "settled"
    """A file is known to be finished; nothing is recorded."""
    ENQUEUED = "enqueued"
    """It has a row in the ledger."""
    HASHED = "hashed"
    """Its checksum is in the ledger; nothing has been sent, or of a large file no object was made."""
    MULTIPART_CREATED = "multipart-created"
    """The server has a multipart upload that is not in the ledger yet."""
    MULTIPART_RECORDED = "multipart-recorded"
    """The multipart upload is in the ledger; no part has been sent."""
    PART_SENT = "part-sent"
    """The server has accepted a part, or the whole of a small file."""
    COMPLETED = "completed"
    """The object exists; it is not confirmed."""
    CONFIRMED = "confirmed"
    """HEAD has confirmed the object; nothing is recorded."""
    VERIFIED = "verified"
    """The confirmation is in the ledger."""
    ROW_PUBLISHED = "row-published"
    """The catalog row has the URL, in an uncommitted transaction."""
    PUBLISHED = "published"
    """Catalog and ledger have the URL, committed."""
    QUARANTINE_LINKED = "linked-aside"
    """The local copy has its quarantine name besides its own."""
    QUARANTINED = "renamed-aside"
    """The local copy has only its quarantine name."""
    LEASED = "leased"
    """All checks of the quarantined copy have passed; it is about to be unlinked."""
    UNLINKED = "unlinked"
    """The local copy is unlinked; the ledger does not record it yet."""
    RECORDED = "recorded"
    """The ledger records the release."""


hook: Callable[[Point], None] | None = None
"""Called at each failpoint; None except in tests."""


def failpoint(point: Point) -> None:
    """Mark that the step named by `point` has been completed."""
    if hook is not None:
        hook(point)


def killer(plan: str) -> Callable[[Point], None]:
    """A hook that kills this process at ``point`` or ``point:n``. Raises ValueError for any other plan."""
    name, _, times = plan.partition(":")
    fatal, last = Point(name), int(times or 1)
    counter = itertools.count(1)

    def kill(point: Point) -> None:
        if point is fatal and next(counter) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


if CRASH_AT_VARIABLE in os.environ:
    hook = killer(os.environ[CRASH_AT_VARIABLE])
