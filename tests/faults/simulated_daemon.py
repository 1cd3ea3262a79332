"""A daemon's life in its world, in any order: its threads' work, step by step, with crashes and outages.

A crash is an exception that nothing catches, thrown at a named step; then everything is built anew from what
is on the disk and in the database.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from db import DatabaseError, State
from storage import StorageError
from tests.faults.invariants import NAMES
from tests.faults.simulated_environment import World
from tests.support.harness import Harness, open_harness
from watcher import failpoints
from watcher.failpoints import Point
from watcher.filesystem.openat import TreeError

REPORTED = (DatabaseError, StorageError, TreeError)
"""What the daemon's threads report and try again."""

MOST_WAITS = 3
"""So often something is tried again that the database must take, before it is back."""


class CrashError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@dataclass
class Life(World):
    """The world with a daemon in it."""

    surprises: dict[Point, Callable[[], None]] = field(default_factory=dict)
    """What happens the next time that a step is reached."""
    harness: Harness | None = None
    """None while there is no daemon: one that starts waits for its database."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        super().__post_init__()
        failpoints.hook = self._be_surprised
        self._start()

    def settle(self, name: str) -> None:
        """An event says that something is there."""
        self._do(lambda harness: harness.settle(self.path(name)))

    def scan(self) -> None:
        """A full scan with all that follows it."""

        def scan(harness: Harness) -> None:
            harness.app.asides.repair(harness.app.scanner.scan().quarantined)
            harness.sweep()
            for name in NAMES:
                harness.settle(self.path(name))

        self._do(scan)

    def ask(self) -> None:
        """The gate is asked."""
        self._do(Harness.ask)

    def step(self, state: State) -> None:
        """A stage works on what is due now by the database's clock."""
        self._do(lambda harness: harness.step(state))

    def step_at_once(self, state: State) -> None:
        """A stage works on everything, for nobody waits here."""
        self.rows.connection.execute(
            "UPDATE video_uploader.uploads SET due_at = now(), claimed_until = NULL WHERE NOT awaits_row"
        )
        self.step(state)

    def watch(self) -> None:
        """The rows just published are looked at."""

        def watch(harness: Harness) -> None:
            catalog_thread = harness.app.catalog_thread
            assert catalog_thread is not None
            catalog_thread.republisher.watch()

        self._do(watch)

    def wait(self) -> None:
        """As much time goes by as anything may ever have to wait for: the longest backoff, and a claim."""
        harness = self.running()
        longest = max(runner.stage.horizon for runner in harness.app.runners.values())
        self.jump(longest + timedelta(seconds=self.settings.claim_seconds + 1))

    def crash(self) -> None:
        """For a step at which the daemon dies."""
        raise CrashError

    def restart(self) -> None:
        """A new life, from what is on the disk and in the database."""
        self.close()
        failpoints.hook = self._be_surprised
        self._start()

    def close(self) -> None:
        """The end of the daemon."""
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
        """The daemon, which runs if it can."""
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
            self.harness.app.asides.repair(self.harness.app.scanner.scan().quarantined)
        except REPORTED:
            self.close()
            failpoints.hook = self._be_surprised

    def _be_patient(self) -> None:
        """What only waits for its database gets it back in the end."""
        assert self.harness is not None
        if self.database.is_away and len(self.harness.waited) % MOST_WAITS == 0:
            self.database.come_back()
