"""A daemon that must not fail while its file system does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from db import State
from tests.support.daemon_process import DaemonProcess, rows, running_daemon
from watcher.settings.model import Settings


def states(settings: Settings) -> dict[str, State]:
    """Every file's state in the ledger."""
    return {row.path: row.state for row in rows(settings)}


@contextmanager
def going_well(settings: Settings, *, first: str = "daemon_ready", **options: Any) -> Iterator[DaemonProcess]:
    """A daemon that must end as asked, with nothing unforeseen in its log and nothing failed or gone.

    It is given once it has said the event `first`.
    """
    with running_daemon(settings, **options) as daemon:
        daemon.patience_seconds = 45
        daemon.expect(first)
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    said = {line["event"] for line in daemon.events}
    assert said.isdisjoint({"internal_error", "(not JSON)", "upload_gone", "daemon_stalled"})
