"""systemd's journal reads the priority of a line from its beginning: ``<4>`` is a warning (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

PRIORITIES: Final[Mapping[int, int]] = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""By level of a log line, the priority of syslog(3)."""


def is_journal(descriptor: int = 2) -> bool:
    """Whether a file descriptor, by default standard error, is a stream of the journal.

    systemd names device and inode of the stream that it has opened, which may have been redirected since
    (systemd.exec(5), JOURNAL_STREAM).
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def prioritized(text: str, level: int) -> str:
    """The lines of a text, each with the priority of a log level."""
    prefix = f"<{PRIORITIES.get(level, PRIORITIES[logging.INFO])}>"
    return prefix + text.replace("\n", f"\n{prefix}")
