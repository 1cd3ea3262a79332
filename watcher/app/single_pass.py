"""`run --once`: everything that is there now, and then an end that says whether all of it went well."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from db import State, Upload
from watcher.app.wiring import House
from watcher.errors import Problem
from watcher.supervision.workers import stop_all

log = structlog.get_logger()

PATIENCE = timedelta(seconds=30)
"""A next attempt that is further away than this is not waited for."""

ASK_SECONDS = 0.1
GATE_PATIENCE = timedelta(seconds=2)
"""So long is waited for what is new at the catalog gate: its row is ready a moment later, or much later."""
GATE_SECONDS = 1.0
"""How often the gate is asked while files are settled."""
STOP_SECONDS = 5.0


class OnceRun:
    """One pass over the directory. `signals` interrupts it."""

    def __init__(
        self,
        house: House,
        *,
        signals: queue.SimpleQueue[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house = house
        self._signals = signals
        self._clock = clock
        self._interrupted = False

    def run(self) -> list[str]:
        """Do it all, and return a sentence for everything that did not end well; empty means fine.

        Raises `db.DatabaseError` and `watcher.filesystem.openat.RootUnavailableError`.
        """
        house = self._house
        started_at = house.ledger.now()
        house.ledger.unclaim_all()
        house.ledger.reschedule_published(house.policy.retention)
        house.janitor.adopt_or_abort()
        house.settler.start()
        try:
            report = house.scanner.scan(stopped=self._is_interrupted)
            house.asides.repair(report.asides)
            if house.catalog_minder is not None:
                house.catalog_minder.sweep.sweep()
            for runner in house.runners.values():
                runner.start()
            self._wait_until_settled()
            self._wait_until_drained()
        finally:
            stop_all((*house.runners.values(), house.settler), STOP_SECONDS)
        if house.invalidator is not None and not self._interrupted:
            house.invalidator.flush()
        unreadable = ["directories could not be read; see the log"] * bool(report.unreadable)
        return [*self._left_undone(started_at), *unreadable]

    def _is_interrupted(self) -> bool:
        if not self._signals.empty():
            self._interrupted = True
        return self._interrupted

    def _wait_until_settled(self) -> None:
        """It can take long, and what has settled goes on meanwhile."""
        settler = self._house.settler
        while not settler.wait_until_only_writers_remain(self._is_interrupted, seconds=GATE_SECONDS):
            if self._interrupted or settler.problem is not None:
                return
            self._ask_gate()

    def _ask_gate(self) -> bool:
        """Have the catalog gate asked, which no thread does here; False if something has only come to it."""
        house = self._house
        if house.catalog_minder is None:
            return True
        house.catalog_minder.gatekeeper.ask()
        return house.ledger.count_awaiting_row() == house.ledger.count_awaiting_row(longer_than=GATE_PATIENCE)

    def _wait_until_drained(self) -> None:
        while not self._is_interrupted() and not self._is_drained():
            try:
                self._house.disk_pressure.relieve()
                self._signals.get(timeout=ASK_SECONDS)
                self._interrupted = True
            except queue.Empty:
                continue

    def _is_drained(self) -> bool:
        """Whether nothing is under way and nothing will be soon; asked in the order that rows move on.

        First the gate, then what is due, then who is idle: a row that is being claimed in between is seen by
        the last one.
        """
        return self._ask_gate() and all(
            (runner.pause.problem is not None or not self._is_due_soon(state)) and runner.is_idle
            for state, runner in self._house.runners.items()
        )

    def _is_due_soon(self, state: State) -> bool:
        house = self._house
        stage = house.runners[state].stage
        if not stage.is_enabled():
            return False
        due = house.ledger.next_due(state, horizon=stage.horizon, awaits_others=False)
        return due is not None and due <= house.ledger.now() + PATIENCE

    def _left_undone(self, started_at: datetime) -> list[str]:
        house = self._house
        undone = [f"{path}: some process still writes it" for path in house.settler.waiting_for_writers()]
        if self._interrupted:
            undone.append("interrupted; the next run goes on")
        problems: list[tuple[str, Problem | None]] = [("settling", house.settler.problem)]
        problems += [(name, pause.problem) for name, pause in house.pauses.items()]
        undone += [f"{name} is paused: {problem.sentence}" for name, problem in problems if problem]
        if house.invalidator is not None and house.invalidator.has_waiting():
            undone.append("the CDN was not told of every replaced object yet; the next run goes on")
        for state in (State.PENDING, State.VERIFIED, State.REJECTED, State.FAILED, State.GONE):
            undone += [
                f"{upload.path}: {self._in_words(upload)}"
                for upload in house.ledger.iter_uploads(state=state)
                if self._counts(upload, started_at)
            ]
        return undone

    def _in_words(self, upload: Upload) -> str:
        if upload.awaits_row:
            return "waits for its catalog row"
        if self._house.ledger.is_held_by_another(upload):
            return f"{upload.state}: {upload.claimed_by} is at work on it"
        return upload.state + (f": {upload.last_error}" if upload.last_error else "")

    def _counts(self, upload: Upload, started_at: datetime) -> bool:
        """What ended badly long ago counts only if its file is among those that are there now."""
        return (
            upload.state.is_open
            or upload.changed_at >= started_at
            or (upload.state is not State.GONE and self._house.tree.exists(upload.path))
        )
