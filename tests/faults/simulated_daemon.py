"""A daemon without threads, whose work is done step by step, in any order, with crashes and outages.

A crash is an exception that nothing catches, raised at a failpoint; then a new daemon starts from what is on
the disk and in the database.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from db import DatabaseError, State
from storage import StorageError
from tests.faults.invariants import NAMES
from tests.faults.simulated_environment import SimulatedEnvironment
from tests.support.harness import Harness, open_harness
from watcher import failpoints
from watcher.failpoints import Point
from watcher.filesystem.openat import TreeError

REPORTED = (DatabaseError, StorageError, TreeError)
"""What the daemon's threads report and try again."""

MOST_WAITS = 3
"""How often a commit is retried before the database comes back."""


class CrashError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@dataclass
class SimulatedDaemon(SimulatedEnvironment):
    """The environment with a daemon in it."""

    surprises: dict[Point, Callable[[], None]] = field(default_factory=dict)
    """What happens the next time that a failpoint is reached."""
    harness: Harness | None = None
    """None while there is no daemon: one that starts waits for its database."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        super().__post_init__()
        failpoints.hook = self._be_surprised
        self._start()

    def settle(self, name: str) -> None:
        """Handle an event about a file."""
        self._do(lambda harness: harness.settle(self.path(name)))

    def scan(self) -> None:
        """Run a full scan and what follows it."""

        def scan(harness: Harness) -> None:
            harness.app.quarantine_repair.run(harness.app.scanner.scan().quarantined)
            harness.check_rows()
            for name in NAMES:
                harness.settle(self.path(name))

        self._do(scan)

    def ask(self) -> None:
        """The gate is asked."""
        self._do(Harness.admit_waiting)

    def step(self, state: State) -> None:
        """Run a stage on what is due by the database's clock."""
        self._do(lambda harness: harness.step(state))

    def step_at_once(self, state: State) -> None:
        """Make every row due, then run a stage."""
        self.rows.connection.execute(
            "UPDATE video_uploader.uploads SET due_at = now(), claimed_until = NULL WHERE NOT awaits_row"
        )
        self.step(state)

    def watch(self) -> None:
        """Check the rows that were published a moment ago."""

        def watch(harness: Harness) -> None:
            catalog_thread = harness.app.catalog_thread
            assert catalog_thread is not None
            catalog_thread.republisher.check_recent()

        self._do(watch)

    def wait(self) -> None:
        """Let as much time pass as anything ever waits: the longest backoff and the length of a claim."""
        harness = self.running()
        longest = max(runner.horizon for runner in harness.app.runners.values())
        self.jump(longest + timedelta(seconds=self.settings.claim_seconds + 1))

    def crash(self) -> None:
        """Kill the daemon; called at a failpoint."""
        raise CrashError

    def restart(self) -> None:
        """Start a new daemon from what is on the disk and in the database."""
        self.close()
        failpoints.hook = self._be_surprised
        self._start()

    def close(self) -> None:
        """Stop the daemon."""
        self.surprises.clear()
        failpoints.hook = None
        with suppress(DatabaseError):
            self._stack.close()
        self._stack = ExitStack()
        self.harness = None

    def _be_surprised(self, failpoint: Point) -> None:
        if surprise := self.surprises.pop(failpoint, None):
            surprise()

    def _do(self, act: Callable[[Harness], object]) -> None:
        if self.harness is None:
            self._start()
        if self.harness is None:
            return
        try:
            act(self.harness)
        except CrashError:
            self.restart()
        except REPORTED:
            return

    def running(self) -> Harness:
        """The daemon, started if it does not run."""
        if self.harness is None:
            self._start()
        assert self.harness is not None, "the daemon does not start"
        return self.harness

    def _start(self) -> None:
        try:
            self.harness = self._stack.enter_context(open_harness(self.settings, self.server))
            self.harness.while_waiting = self._be_patient
            self.harness.app.ledger.release_all_claims()
            with suppress(StorageError):
                self.harness.app.abandoned_multiparts.adopt_or_abort()
            self.harness.app.quarantine_repair.run(self.harness.app.scanner.scan().quarantined)
        except REPORTED:
            self.close()
            failpoints.hook = self._be_surprised

    def _be_patient(self) -> None:
        """End the outage after a number of retries."""
        assert self.harness is not None
        if self.database.is_away and len(self.harness.waited) % MOST_WAITS == 0:
            self.database.come_back()
