"""The daemon: everything started in the right order, kept running, and stopped within seconds."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from signal import SIGHUP

import structlog

from db import DatabaseError, State
from watcher.app.factories import make_path_template
from watcher.app.status_report import DaemonStatus
from watcher.app.wiring import Application
from watcher.detection.observer import TreeObserver
from watcher.detection.observer_supervisor import ObserverSupervisor
from watcher.detection.scanner import ScanReport
from watcher.errors import Code
from watcher.filesystem.pruning import prune_directories
from watcher.settings.loading import SettingsError
from watcher.settings.model import Settings
from watcher.supervision.sd_notify import Notifier
from watcher.supervision.workers import Worker, stop_all
from watcher.telemetry.logging import configure_logging
from watcher.telemetry.metrics import MetricsServer

log = structlog.get_logger()

HEARTBEAT_SECONDS = 5.0
"""How often the daemon tells the ledger and systemd how it is."""

STOP_SECONDS = 4.0
"""How long what is under way may take to end after a signal to stop; the observer may take as long again."""

WAKE = 0
"""In the queue of signals: no signal, but something changed that everybody should be told at once."""

RELOADABLE = frozenset(
    {
        "release_after_seconds",
        "disk_pressure_percent",
        "keep_local",
        "rescan_seconds",
        "prune_directories_after_days",
        "log_level",
        "max_bandwidth",
    }
)
"""The settings that SIGHUP changes; the others need a restart."""


class Daemon:
    """Runs a house until a signal says stop.

    `signals` gives the numbers of the signals that arrive: SIGHUP reloads, any other one stops.
    """

    def __init__(
        self,
        app: Application,
        *,
        notifier: Notifier,
        signals: queue.SimpleQueue[int],
        reload_settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._settings = app.settings
        self._notifier = notifier
        self._signals = signals
        self._reload_settings = reload_settings
        self._clock = clock
        self._metrics_server = MetricsServer(app.metrics, app.settings.metrics_address)
        self._template = make_path_template(app.settings)
        observer = TreeObserver(
            app.tree.root,
            notice_file=app.settler.check,
            notice_directory=app.scan_scheduler.request,
            lost_events=app.scan_scheduler.request_after_lost_events,
            ignores=self._ignores,
        )
        app.scanner.watch_with(observer)
        self._observer_supervisor = ObserverSupervisor(
            app.tree,
            observer,
            scan_everything=lambda: app.scan_scheduler.request(""),
            root_returned=self._probe_after_root_returned,
            liveness=app.liveness,
            metrics=app.metrics,
        )
        self._condition = DaemonStatus(
            app, observer, observer_trouble=lambda: self._observer_supervisor.trouble
        )
        self._first_scan_succeeded = False
        self._is_ready = False

    def run(self) -> bool:
        """Work until told to stop. Returns whether everything came to an end in time.

        Raises `db.DatabaseError` if the ledger cannot be used at the start.
        """
        self._start()
        try:
            self._main_loop()
        finally:
            ended = self._stop()
        return ended

    def _start(self) -> None:
        app = self._app
        freed = app.ledger.release_all_claims()
        app.ledger.reschedule_published(app.policy.retention)
        log.info(
            "daemon_started",
            instance=app.ledger.instance,
            directory=app.tree.root,
            freed_claims=freed,
        )
        self._condition.watch()
        self._metrics_server.start()
        app.abandoned_multiparts.start(then=app.runners[State.PENDING].start)
        app.scan_scheduler.on_full_scan(self._after_full_scan)
        for breaker in app.breakers.values():
            breaker.on_change(lambda: self._signals.put(WAKE))
        self._observer_supervisor.start()
        app.settler.start()
        app.runners[State.VERIFIED].start()
        if app.invalidator is not None:
            app.invalidator.start()
        if app.catalog_thread is not None:
            app.catalog_thread.start()
        app.scan_scheduler.start()
        self._notifier.status("First scan of the directory")

    def _after_full_scan(self, report: ScanReport) -> None:
        """Runs in the scan's thread. Releases begin only when what an earlier life left aside is repaired.

        Later scans repair what other daemons left aside that never came back.
        """
        app = self._app
        app.quarantine_repair.run(report.quarantined)
        if not self._first_scan_succeeded:
            app.runners[State.PUBLISHED].start()
            app.disk_pressure.start()
            self._first_scan_succeeded = True
            self._signals.put(WAKE)
        if app.catalog_thread is not None:
            app.catalog_thread.republisher.check_all()
        if app.policy.prune_after is not None:
            prune_directories(app.tree, app.policy.prune_after, ignores=self._ignores)

    def _ignores(self, path: str) -> bool:
        return self._template.ignores(path) is not None

    def _probe_after_root_returned(self) -> None:
        for breaker in self._app.breakers.values():
            breaker.probe_soon(Code.ROOT_UNAVAILABLE)
        for state in self._app.runners:
            self._app.context.signals.wake_stage(state)

    def _main_loop(self) -> None:
        """Wait for signals, and in between tell everybody how it goes."""
        interval = min(HEARTBEAT_SECONDS, self._notifier.watchdog_interval or HEARTBEAT_SECONDS)
        while True:
            self._publish_status()
            number = self._next_signal(self._clock() + interval)
            if number == SIGHUP:
                self._reload()
            elif number:
                log.info("stop_requested", signal=number)
                return

    def _next_signal(self, deadline: float) -> int:
        """The next signal, or WAKE at the deadline."""
        try:
            return self._signals.get(timeout=max(0.0, deadline - self._clock()))
        except queue.Empty:
            return WAKE

    def _publish_status(self) -> None:
        """Readiness, status and watchdog for systemd; a heartbeat for the ledger."""
        status = self._condition.words(is_ready=self._is_ready)
        if not self._is_ready and self._first_scan_succeeded:
            self._is_ready = True
            log.info("daemon_ready")
            self._notifier.ready(status)
        else:
            self._notifier.status(status)
        stalls = self._app.liveness.stalled()
        if stalls and stalls != self._condition.stalls:
            log.error("daemon_stalled", stalls=stalls)
        self._condition.stalls = stalls
        if not stalls:
            self._notifier.watchdog()
        self._heartbeat("running" if self._is_ready else "starting")

    def _heartbeat(self, phase: str) -> None:
        try:
            self._app.ledger.heartbeat(self._condition.report(phase))
        except DatabaseError as exc:
            log.debug("heartbeat_unrecorded", reason=str(exc))

    def _reload(self) -> None:
        self._notifier.reloading()
        try:
            fresh = self._reload_settings()
        except SettingsError as exc:
            log.error("reload_refused", problems=exc.problems)
        else:
            self._apply_settings(fresh)
        self._app.scan_scheduler.request("")
        self._notifier.ready(self._condition.words(is_ready=self._is_ready))

    def _apply_settings(self, fresh: Settings) -> None:
        app = self._app
        changed = {
            field.upper(): field
            for field in Settings.model_fields
            if getattr(fresh, field) != getattr(self._settings, field)
        }
        if later := sorted(name for name, field in changed.items() if field not in RELOADABLE):
            log.warning("restart_needed", settings=later)
        app.policy.update(fresh)
        app.context.store.set_bandwidth(fresh.bandwidth)
        configure_logging(fresh.log_level, app.settings.log_format)
        try:
            app.ledger.reschedule_published(app.policy.retention)
        except DatabaseError as exc:
            log.warning("retention_not_rescheduled", reason=str(exc))
        app.context.signals.wake_stage(State.PUBLISHED)
        self._settings = fresh
        log.info("settings_reloaded", changed=sorted(changed.keys() - set(later)))

    def _stop(self) -> bool:
        app = self._app
        self._notifier.stopping("Stopping: what is under way goes on at the next start")
        stop_all([self._observer_supervisor], STOP_SECONDS)
        workers: list[Worker] = [
            *app.runners.values(),
            app.scan_scheduler,
            app.settler,
        ]
        workers += [app.abandoned_multiparts, app.disk_pressure]
        workers += [worker for worker in (app.invalidator, app.catalog_thread) if worker is not None]
        in_time = stop_all(workers, STOP_SECONDS)
        self._metrics_server.stop()
        self._heartbeat("stopped")
        log.info("daemon_stopped", in_time=in_time)
        return in_time
