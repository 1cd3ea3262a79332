"""The start of the daemon: its steps are repeated until the environment allows them.

A database that refuses, a directory that is missing or a full disk is waited out at the start as it is later:
systemd reads in `STATUS=` what is missing, and `READY=1` comes once nothing is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import structlog

from db import DatabaseError
from storage import StorageError
from watcher.filesystem import TreeError
from watcher.filesystem.instance_lock import LockUnavailableError
from watcher.supervision.backoff import Backoff
from watcher.supervision.sd_notify import SystemdNotifier
from watcher.telemetry.redaction import redact

log = structlog.get_logger()

Result = TypeVar("Result")

BACKOFF = Backoff(base=1.0, factor=2.0, cap=15.0)


class StartStoppedError(Exception):
    """A signal that stops the daemon came while its start waited."""


class Startup:
    """Repeats steps that fail with an error of the environment, or with one of `also`.

    `wait` waits for some seconds, or until a signal, and returns whether the daemon has to stop.
    """

    def __init__(
        self,
        notifier: SystemdNotifier,
        wait: Callable[[float], bool],
        also: type[Exception],
    ) -> None:
        self._notifier = notifier
        self._wait = wait
        self._causes = (DatabaseError, StorageError, TreeError, LockUnavailableError, also)
        self._reason: str | None = None
        self._attempts = 0

    def repeat(self, step: Callable[[ExitStack], Result], holder: ExitStack) -> Result:
        """Call `step` until it succeeds; what it enters into its stack is left at the end of `holder`.

        Raises `StartStoppedError`, and what `step` raises for other reasons.
        """
        while True:
            try:
                with ExitStack() as entered:
                    result = step(entered)
                    holder.enter_context(entered.pop_all())
            except self._causes as exc:
                self._tell(redact(str(exc)))
            else:
                return result
            if self._wait(BACKOFF.ceiling(self._attempts)):
                raise StartStoppedError
            self._attempts += 1

    def _tell(self, reason: str) -> None:
        self._notifier.starting(f"Cannot start yet: {reason}")
        if reason != self._reason:
            log.error(
                "start_waiting", reason=reason, hint="The start continues by itself once this is mended."
            )
        self._reason = reason
