"""`run --once`: processes the files that exist now, then ends and reports what is unfinished."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from db import State, Upload
from watcher.app.wiring import Application
from watcher.detection import Reading
from watcher.errors import Code, Failure
from watcher.stages import StageRunner
from watcher.supervision.background_thread import stop_all
from watcher.telemetry.formatting import describe_pause

log = structlog.get_logger()

LONGEST_WAIT = timedelta(seconds=30)
"""A next attempt that is due later than this is not waited for."""

POLL_SECONDS = 0.1
GATE_PATIENCE = timedelta(seconds=2)
"""How long an upload is waited for at the catalog gate: its row is ready within moments, or much later."""
GATE_SECONDS = 1.0
"""How often the gate is checked while files are settled."""
STOP_SECONDS = 5.0
SETTLE_PATIENCE_SECONDS = 600.0
"""How long the settler is waited for while it settles nothing and reads nothing."""
STAGES_PATIENCE_SECONDS = 60.0
"""How long the stages are waited for while no upload changes its state and no attempt lasts."""
OUTAGE_PATIENCE_SECONDS = 60.0
"""How long a server that is away is waited for."""
LASTING_SECONDS = 5.0
"""An attempt that lasts longer than this hashes or sends a file, and is waited for."""
COUNT_SECONDS = 1.0
"""Between two looks at the number of uploads in each state."""
MAX_ATTEMPTS = 20
"""An upload whose attempts end so often without a change of its state is not waited for any longer."""


class SinglePass:
    """One pass over the directory. Any number in `signals` interrupts it; `clock` gives monotonic seconds."""

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
        self._gave_up: list[str] = []
        self.stopped_in_time = True
        """Whether every thread had ended when `run` returned."""

    def run(self) -> list[str]:
        """Run the pass; return a sentence for everything that is unfinished or failed, and [] on success.

        Raises `db.DatabaseError` and `watcher.filesystem.openat.RootUnavailableError`.
        """
        app = self._app
        started_at = app.ledger.now()
        app.ledger.release_all_claims()
        app.ledger.reschedule_published(app.policy.retention)
        app.context.orders.look()
        app.forget_undeliverable()
        app.abandoned_multiparts.adopt_or_abort()
        app.settler.start()
        try:
            report = app.scanner.scan(stopped=self._must_stop)
            app.quarantine_repair.run(report.quarantined, Reading(stopped=self._must_stop))
            if app.catalog_thread is not None:
                app.catalog_thread.republisher.check_all()
            for runner in app.runners.values():
                runner.start()
            self._wait_until_settled()
            self._wait_until_drained()
        finally:
            self.stopped_in_time = stop_all((*app.runners.values(), app.settler), STOP_SECONDS)
        if app.context.invalidator is not None and not self._interrupted:
            app.context.invalidator.flush()
        if not self._interrupted:
            app.receipts.run_due(threading.Event())
            if app.notifier is not None:
                app.notifier.flush(LONGEST_WAIT.total_seconds())
        unreadable = ["directories could not be read; see the log"] * bool(report.unreadable)
        return [*self._unfinished(started_at), *unreadable]

    def _must_stop(self) -> bool:
        if not self._signals.empty():
            self._interrupted = True
        return self._interrupted or self._app.supervisor.reason_to_stop is not None

    def _wait_until_settled(self) -> None:
        """Wait for the settler, which can take long, while stages advance what has settled."""
        settler = self._app.settler
        before, changed_at = self._settling(), self._clock()
        while not settler.wait_until_only_writers_remain(self._must_stop, seconds=GATE_SECONDS):
            if self._must_stop() or settler.failure is not None:
                return
            present = self._settling()
            if present != before:
                before, changed_at = present, self._clock()
            elif self._clock() - changed_at > SETTLE_PATIENCE_SECONDS:
                unsettled = settler.unsettled()
                self._gave_up += [f"{path}: it is not settled; the next run continues" for path in unsettled]
                return
            self._app.bandwidth.apply()
            self._check_gate()

    def _settling(self) -> tuple[list[str], int]:
        """What changes while files are settled: the paths, and the bytes that were read of them."""
        return self._app.settler.unsettled(), self._app.context.hashing.bytes_read

    def _check_gate(self) -> bool:
        """Run the catalog gate, which has no thread here; False if an upload just began to wait."""
        app = self._app
        if app.catalog_thread is None:
            return True
        app.catalog_thread.gate.admit_waiting()
        app.catalog_thread.republisher.check_new(fresh_only=True)
        return app.ledger.count_awaiting_row() == app.ledger.count_awaiting_row(longer_than=GATE_PATIENCE)

    def _wait_until_drained(self) -> None:
        progress = _Progress(self._app, self._clock)
        while not self._must_stop() and not self._is_drained():
            if progress.seconds_without() > STAGES_PATIENCE_SECONDS:
                self._gave_up += self._waiting_releases()
                return
            try:
                self._app.bandwidth.apply()
                self._app.disk_pressure.check()
                self._signals.get(timeout=POLL_SECONDS)
                self._interrupted = True
            except queue.Empty:
                continue

    def _is_drained(self) -> bool:
        """Whether no upload is in progress or due soon.

        The order is that in which uploads advance: the gate, what is due, which runner is idle. So an upload
        that is claimed in between is seen by the last check.
        """
        return self._check_gate() and all(
            (_is_paused(runner) or not self._is_due_soon(state)) and runner.is_idle
            for state, runner in self._app.runners.items()
        )

    def _waiting_releases(self) -> list[str]:
        """A sentence for every published upload whose release is due, and is deferred or fails."""
        app = self._app
        if not app.runners[State.PUBLISHED].stage.is_enabled():
            return []
        return [
            f"{upload.path}: its local copy is not released yet: {self._reason_to_wait(upload)}"
            for upload in app.ledger.iter_uploads(state=State.PUBLISHED)
            if upload.error_code not in {None, Code.RETENTION}
        ]

    def _reason_to_wait(self, upload: Upload) -> str:
        if upload.error_code == Code.CATALOG_BUSY:
            reason = self._app.context.catalog.reason_to_keep_copy(upload)
            return reason or "The catalog no longer needs it; the next run releases it."
        return upload.last_error or f"The reason is {upload.error_code}; the next run continues."

    def _is_due_soon(self, state: State) -> bool:
        app = self._app
        runner = app.runners[state]
        if not runner.stage.is_enabled():
            return False
        due = app.ledger.next_due(state, horizon=runner.horizon, awaits_others=False)
        return due is not None and due <= app.ledger.now() + LONGEST_WAIT

    def _unfinished(self, started_at: datetime) -> list[str]:
        app = self._app
        unfinished = [
            f"{path}: a process still has it open for writing" for path in app.settler.waiting_for_writers()
        ]
        unfinished += self._gave_up
        if pause := app.context.orders.pause:
            unfinished.append(f"uploads are paused {describe_pause(pause)}")
        if not self.stopped_in_time:
            unfinished.append(f"a thread did not end within {STOP_SECONDS:.0f} s; the next run continues")
        if self._interrupted:
            unfinished.append("interrupted; the next run continues")
        unfinished += [f"{error}; the log has the traceback" for error in app.supervisor.internal_errors()]
        if app.supervisor.reason_to_stop is not None:
            unfinished.append(app.supervisor.reason_to_stop)
        failures: list[tuple[str, Failure | None]] = [("settling", app.settler.failure)]
        failures += [(name, breaker.failure) for name, breaker in app.breakers.items()]
        unfinished += [f"{name} is paused: {failure.sentence}" for name, failure in failures if failure]
        if app.context.invalidator is not None and app.context.invalidator.has_waiting():
            unfinished.append("some CDN invalidations are not done yet; the next run continues")
        for state in (State.PENDING, State.VERIFIED, State.REJECTED, State.FAILED, State.GONE):
            unfinished += [
                f"{upload.path}: {self._describe(upload)}"
                for upload in app.ledger.iter_uploads(state=state)
                if self._is_reported(upload, started_at)
            ]
        return unfinished

    def _describe(self, upload: Upload) -> str:
        if upload.awaits_row:
            return "waits for its catalog row"
        if self._app.ledger.is_claimed_by_another(upload):
            return f"{upload.state}: {upload.claimed_by} is working on it"
        return upload.state + (f": {upload.last_error}" if upload.last_error else "")

    def _is_reported(self, upload: Upload, started_at: datetime) -> bool:
        """An upload that failed before this run is reported only if its file still exists."""
        return (
            upload.state.is_open
            or upload.changed_at >= started_at
            or (upload.state is not State.GONE and self._app.tree.exists(upload.path))
        )


def _is_paused(runner: StageRunner) -> bool:
    """Whether the stage waits for an operator, or for a server that is not back soon."""
    failure, seconds = runner.breaker.failure, runner.breaker.seconds_paused
    return failure is not None and (not failure.is_outage or seconds > OUTAGE_PATIENCE_SECONDS)


class _Progress:
    """Since when the stages have made no progress.

    Progress is an upload that changed its state, or an attempt that lasts and does not stall: it hashes or
    sends a file. Attempts that end and are repeated without a change are none.
    """

    def __init__(self, app: Application, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock
        self._last = clock()
        self._counted_at = -math.inf
        self._counts: dict[State, int] = {}
        self._began: dict[tuple[int, int], float] = {}
        self._attempts: Counter[int] = Counter()

    def seconds_without(self) -> float:
        """Look for progress; return the seconds since the last."""
        now = self._clock()
        if now - self._counted_at >= COUNT_SECONDS:
            self._counted_at, before = now, self._counts
            self._app.context.orders.look()
            self._app.ledger.add_up_counts()
            self._counts = self._app.ledger.counts()
            if self._counts != before:
                self._last = now
        in_flight = {claim for runner in self._app.runners.values() for claim in runner.in_flight}
        for upload_id, _ in in_flight - self._began.keys():
            self._attempts[upload_id] += 1
        self._began = {claim: self._began.get(claim, now) for claim in in_flight}
        lasts = any(
            now - began >= LASTING_SECONDS and self._attempts[upload_id] <= MAX_ATTEMPTS
            for (upload_id, _), began in self._began.items()
        )
        if lasts and not self._app.supervisor.liveness.stalled():
            self._last = now
        return now - self._last
