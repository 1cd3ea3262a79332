"""When the watched file system fills up, published copies go before their retention is over: oldest first.

The compressor needs the room more than players need the local URL of what they can have from S3. Nothing here
gives up a file: it makes as many published uploads due as would make room enough, and tells the release stage
that they need not wait. They go the way of every release, or stay if anything speaks against it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from db import JSON, Database, DatabaseError, Ledger, State
from watcher.errors import Code
from watcher.filesystem.openat import RootUnavailableError, owned
from watcher.filesystem.tree import Tree
from watcher.settings.policy import Policy
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOK_SECONDS = 5.0
"""How often the file system is asked how full it is: one call, and no query while there is room."""

PATIENCE_SECONDS = 120.0

HASTENED = 64
"""So many uploads at most are made due at a time; what else it takes is found by the next look."""


@dataclass(frozen=True, slots=True)
class Fullness:
    """How full a file system is, counted as df(1) does: what only root may use is neither used nor free."""

    used: int
    room: int

    @classmethod
    def of(cls, status: os.statvfs_result) -> Fullness | None:
        """What a statvfs result says; None for file systems that do not tell (see statvfs(3))."""
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        room = used + status.f_bavail * status.f_frsize
        return cls(used, room) if room > 0 else None

    @property
    def percent(self) -> float:
        """How much of the room is used."""
        return 100 * self.used / self.room

    def excess(self, limit_percent: float) -> int:
        """How many bytes are used beyond a limit; 0 or less if it is not passed."""
        return self.used - int(self.room * limit_percent / 100)


class DiskPressure:
    """Looks at the watched directory's file system every few seconds, in a thread of its own.

    A network file system that hangs, hangs this thread and no other one. `wake` tells the release stage that
    something is due.
    """

    def __init__(
        self,
        tree: Tree,
        ledger: Ledger,
        policy: Policy,
        *,
        database: Database,
        metrics: Metrics,
        liveness: Liveness,
        wake: Callable[[State], None],
    ) -> None:
        self._tree = tree
        self._ledger = ledger
        self._policy = policy
        self._database = database
        self._metrics = metrics
        self._liveness = liveness
        self._wake = wake
        self._fullness: Fullness | None = None
        self._was_high = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_until_stopped, name="disk", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()
        self._liveness.add_check("disk thread", lambda: self._stopping.is_set() or self._thread.is_alive())

    def request_stop(self) -> None:
        """Look no more; what was made due stays so."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the thread to end; False if it goes on."""
        return join_all([self._thread], timeout)

    @property
    def is_high(self) -> bool:
        """Whether the file system was fuller than it may be at the last look."""
        return self._excess() > 0

    def is_high_now(self) -> bool:
        """The same after a fresh look, which changes nothing else; a copy is not given up on an old one."""
        return not self._policy.keep_local and self._measure() and self.is_high

    def report(self) -> dict[str, JSON]:
        """What the ledger keeps of it for `status`."""
        used = None if self._fullness is None else round(self._fullness.percent, 1)
        return {"used_percent": used, "limit_percent": self._policy.disk_percent, "is_high": self.is_high}

    def relieve(self) -> int:
        """Look, and make due what has to go; says how many uploads were. May raise `db.DatabaseError`."""
        if not self._measure():
            return 0
        self._tell()
        if not self.is_high or self._policy.keep_local:
            return 0
        hastened = self._ledger.make_due_for_space(
            State.PUBLISHED, size=self._excess(), limit=HASTENED, waiting_for=Code.RETENTION
        )
        if hastened:
            self._wake(State.PUBLISHED)
        return hastened

    def _excess(self) -> int:
        fullness = self._fullness
        return 0 if fullness is None else fullness.excess(self._policy.disk_percent)

    def _measure(self) -> bool:
        """Ask the file system; False if it cannot be asked, for the directory may be unmounted."""
        try:
            with owned(self._tree.open_root()) as root:
                self._fullness = Fullness.of(os.fstatvfs(root))
        except (RootUnavailableError, OSError):
            # The stages and the scan say what is wrong with it; how full it is, nobody knows.
            self._fullness = None
        return self._fullness is not None

    def _tell(self) -> None:
        fullness, is_high = self._fullness, self.is_high
        if fullness is None:
            return
        self._metrics.disk_used.set(fullness.used / fullness.room)
        self._metrics.disk_pressure.set(is_high)
        if is_high != self._was_high:
            self._was_high = is_high
            told = {"percent": round(fullness.percent, 1), "limit_percent": self._policy.disk_percent}
            if not is_high:
                log.info("disk_pressure_over", **told)
            elif self._policy.keep_local:
                log.warning("disk_pressure", hint="KEEP_LOCAL keeps every local copy: make room.", **told)
            else:
                log.warning(
                    "disk_pressure",
                    hint="Published copies are released now, without waiting for RELEASE_AFTER_SECONDS.",
                    **told,
                )

    def _look_until_stopped(self) -> None:
        pulse = self._liveness.pulse("disk", PATIENCE_SECONDS)
        with self._database.session():
            while not self._stopping.is_set():
                pulse.beat()
                try:
                    self.relieve()
                except DatabaseError as exc:
                    # Without the ledger nothing can be released either; the stages say so.
                    log.debug("hastening_failed", reason=str(exc))
                pulse.idle()
                self._stopping.wait(LOOK_SECONDS)
        pulse.stop()
