"""`run --once`: everything that is there now, and then an end that says whether all of it went well."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from db import State, Upload
from watcher.app.wiring import Application
from watcher.errors import Failure
from watcher.supervision.background_thread import stop_all

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
        app: Application,
        *,
        signals: queue.SimpleQueue[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._signals = signals
        self._clock = clock
        self._interrupted = False

    def run(self) -> list[str]:
        """Do it all, and return a sentence for everything that did not end well; empty means fine.

        Raises `db.DatabaseError` and `watcher.filesystem.openat.RootUnavailableError`.
        """
        app = self._app
        started_at = app.ledger.now()
        app.ledger.release_all_claims()
        app.ledger.reschedule_published(app.policy.retention)
        app.abandoned_multiparts.adopt_or_abort()
        app.settler.start()
        try:
            report = app.scanner.scan(stopped=self._must_stop)
            app.asides.repair(report.asides)
            if app.catalog_thread is not None:
                app.catalog_thread.republisher.sweep()
            for runner in app.runners.values():
                runner.start()
            self._wait_until_settled()
            self._wait_until_drained()
        finally:
            stop_all((*app.runners.values(), app.settler), STOP_SECONDS)
        if app.invalidator is not None and not self._interrupted:
            app.invalidator.flush()
        unreadable = ["directories could not be read; see the log"] * bool(report.unreadable)
        return [*self._left_undone(started_at), *unreadable]

    def _must_stop(self) -> bool:
        if not self._signals.empty():
            self._interrupted = True
        return self._interrupted or self._app.supervisor.reason_to_stop is not None

    def _wait_until_settled(self) -> None:
        """It can take long, and what has settled goes on meanwhile."""
        settler = self._app.settler
        while not settler.wait_until_only_writers_remain(self._must_stop, seconds=GATE_SECONDS):
            if self._must_stop() or settler.failure is not None:
                return
            self._ask_gate()

    def _ask_gate(self) -> bool:
        """Have the catalog gate asked, which no thread does here; False if something has only come to it."""
        app = self._app
        if app.catalog_thread is None:
            return True
        app.catalog_thread.gate.ask()
        return app.ledger.count_awaiting_row() == app.ledger.count_awaiting_row(longer_than=GATE_PATIENCE)

    def _wait_until_drained(self) -> None:
        while not self._must_stop() and not self._is_drained():
            try:
                self._app.disk_pressure.check()
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
            (runner.breaker.failure is not None or not self._is_due_soon(state)) and runner.is_idle
            for state, runner in self._app.runners.items()
        )

    def _is_due_soon(self, state: State) -> bool:
        app = self._app
        stage = app.runners[state].stage
        if not stage.is_enabled():
            return False
        due = app.ledger.next_due(state, horizon=stage.horizon, awaits_others=False)
        return due is not None and due <= app.ledger.now() + PATIENCE

    def _left_undone(self, started_at: datetime) -> list[str]:
        app = self._app
        undone = [f"{path}: some process still writes it" for path in app.settler.waiting_for_writers()]
        if self._interrupted:
            undone.append("interrupted; the next run goes on")
        undone += [f"{error}; the log has the traceback" for error in app.supervisor.internal_errors()]
        if app.supervisor.reason_to_stop is not None:
            undone.append(app.supervisor.reason_to_stop)
        problems: list[tuple[str, Failure | None]] = [("settling", app.settler.failure)]
        problems += [(name, breaker.failure) for name, breaker in app.breakers.items()]
        undone += [f"{name} is paused: {failure.sentence}" for name, failure in problems if failure]
        if app.invalidator is not None and app.invalidator.has_waiting():
            undone.append("the CDN was not told of every replaced object yet; the next run goes on")
        for state in (State.PENDING, State.VERIFIED, State.REJECTED, State.FAILED, State.GONE):
            undone += [
                f"{upload.path}: {self._in_words(upload)}"
                for upload in app.ledger.iter_uploads(state=state)
                if self._counts(upload, started_at)
            ]
        return undone

    def _in_words(self, upload: Upload) -> str:
        if upload.awaits_row:
            return "waits for its catalog row"
        if self._app.ledger.is_held_by_another(upload):
            return f"{upload.state}: {upload.claimed_by} is at work on it"
        return upload.state + (f": {upload.last_error}" if upload.last_error else "")

    def _counts(self, upload: Upload, started_at: datetime) -> bool:
        """What ended badly long ago counts only if its file is among those that are there now."""
        return (
            upload.state.is_open
            or upload.changed_at >= started_at
            or (upload.state is not State.GONE and self._app.tree.exists(upload.path))
        )
