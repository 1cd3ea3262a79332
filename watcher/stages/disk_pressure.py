"""Releases published copies before the end of their retention, oldest first, while the disk is almost full.

The compressor needs the space more than players need local copies of what S3 serves. This module deletes
nothing: it makes as many published uploads due as free enough space and wakes the release stage, which
checks them as it checks every release.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from db import JSON, DatabaseError, Ledger, State
from watcher.errors import Code
from watcher.filesystem import RootUnavailableError, Tree
from watcher.filesystem.openat import Owned
from watcher.settings import Policy
from watcher.supervision.background_thread import Supervisor, Worker
from watcher.telemetry import Metrics

log = structlog.get_logger()

CHECK_SECONDS = 10.0
"""Between two checks; each is one call of statvfs(3), and no query while there is enough space."""

PATIENCE_SECONDS = 120.0

MAX_MADE_DUE = 64
"""At most this many uploads are made due by one check."""


@dataclass(frozen=True, slots=True)
class Fullness:
    """How full a file system is, counted as df(1) does: space reserved for root is neither used nor free."""

    used: int
    capacity: int

    @classmethod
    def of(cls, status: os.statvfs_result) -> Fullness | None:
        """The fullness in a result of statvfs(3); None if the file system reports no size."""
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        capacity = used + status.f_bavail * status.f_frsize
        return cls(used, capacity) if capacity > 0 else None

    @property
    def percent(self) -> float:
        """The used share of `capacity`."""
        return 100 * self.used / self.capacity

    def excess(self, limit_percent: float) -> int:
        """The bytes used beyond a limit; 0 or less if the limit is not exceeded."""
        return self.used - int(self.capacity * limit_percent / 100)


class DiskPressure(Worker):
    """Checks the watched directory's file system every few seconds, in a thread of its own.

    A network file system that does not answer blocks only this thread. `wake_stage` is called with the state
    of the uploads that were made due.
    """

    def __init__(
        self,
        tree: Tree,
        ledger: Ledger,
        policy: Policy,
        *,
        supervisor: Supervisor,
        metrics: Metrics,
        wake_stage: Callable[[State], None],
    ) -> None:
        super().__init__(supervisor, "disk thread")
        self._tree = tree
        self._ledger = ledger
        self._policy = policy
        self._metrics = metrics
        self._wake_stage = wake_stage
        self._fullness: Fullness | None = None
        self._was_high = False
        self.add_thread("disk", self._step, patience=PATIENCE_SECONDS)

    @property
    def is_high(self) -> bool:
        """Whether the file system exceeded the limit at the last check."""
        return self._excess() > 0

    def is_high_now(self) -> bool:
        """Whether it exceeds the limit now and copies may be released; has no other effect."""
        return not self._policy.keep_local and self._measure() and self.is_high

    def report(self) -> dict[str, JSON]:
        """The values of the daemon's report for `status`."""
        fullness = self._fullness
        used = None if fullness is None else round(fullness.percent, 1)
        return {"used_percent": used, "limit_percent": self._policy.disk_percent, "is_high": self.is_high}

    def check(self) -> int:
        """Measure, and make uploads due if there is pressure; returns how many.

        Raises `db.DatabaseError`.
        """
        if not self._measure():
            return 0
        self._report()
        if not self.is_high or self._policy.keep_local:
            return 0
        made_due = self._ledger.make_due_for_space(
            State.PUBLISHED, size=self._excess(), limit=MAX_MADE_DUE, waiting_for=Code.RETENTION
        )
        if made_due:
            self._wake_stage(State.PUBLISHED)
        return made_due

    def _excess(self) -> int:
        fullness = self._fullness
        return 0 if fullness is None else fullness.excess(self._policy.disk_percent)

    def _measure(self) -> bool:
        """Measure the fullness; False if that fails, because the directory may be unmounted."""
        try:
            with Owned(self._tree.open_root()) as root:
                self._fullness = Fullness.of(os.fstatvfs(root))
        except (RootUnavailableError, OSError):
            # The stages and the scan report the error.
            self._fullness = None
        return self._fullness is not None

    def _report(self) -> None:
        fullness, is_high = self._fullness, self.is_high
        if fullness is None:
            return
        self._metrics.disk_used.set(fullness.used / fullness.capacity)
        self._metrics.disk_pressure.set(is_high)
        if is_high != self._was_high:
            self._was_high = is_high
            fields = {"percent": round(fullness.percent, 1), "limit_percent": self._policy.disk_percent}
            if not is_high:
                log.info("disk_pressure_over", **fields)
            elif self._policy.keep_local:
                log.warning("disk_pressure", hint="KEEP_LOCAL keeps every local copy: free space.", **fields)
            else:
                log.warning(
                    "disk_pressure",
                    hint="Published copies are released now, without waiting for RELEASE_AFTER_SECONDS.",
                    **fields,
                )

    def _step(self) -> float:
        try:
            self.check()
        except DatabaseError as exc:
            # Without the ledger nothing can be released either; the stages report the error.
            log.debug("hastening_failed", reason=str(exc))
        return CHECK_SECONDS
