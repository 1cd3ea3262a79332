"""What was achieved outside of the database is written down in it, be it away for a while or not."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from db import DatabaseError, ErrorKind
from watcher.stages.runner import Work
from watcher.supervision.backoff import Backoff

log = structlog.get_logger()

BACKOFF = Backoff(base=0.5, factor=2.0, cap=10.0)


def retry_until_committed(record: Callable[[], None], work: Work) -> None:
    """Call `record` until the database takes it: an object that is in S3 is not looked for all over again.

    Raises what `record` raises, be it that the claim was lost meanwhile; and its DatabaseError if a retry
    cannot help, or if it is time to stop: the next life then finds the object in place.
    """
    failures = 0
    while True:
        try:
            record()
        except DatabaseError as exc:
            if exc.kind is not ErrorKind.TRANSIENT or work.wait(BACKOFF.delay(failures).total_seconds()):
                raise
            if not failures:
                log.warning("record_waits", reason=str(exc))
            failures += 1
            work.beat()
        else:
            return
