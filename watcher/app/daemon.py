"""The daemon: everything started in the right order, kept running, and stopped within seconds."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from signal import SIGHUP

import structlog

from db import DatabaseError, State
from watcher.app.factories import path_template
from watcher.app.status_report import Condition
from watcher.app.wiring import House
from watcher.detection.observer import TreeObserver
from watcher.detection.observer_supervisor import Watchman
from watcher.detection.scanner import ScanReport
from watcher.errors import ROOT_UNAVAILABLE
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

LOOK_AROUND = 0
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
        house: House,
        *,
        notifier: Notifier,
        signals: queue.SimpleQueue[int],
        reload_settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house = house
        self._settings = house.settings
        self._notifier = notifier
        self._signals = signals
        self._reload_settings = reload_settings
        self._clock = clock
        self._metrics_server = MetricsServer(house.metrics, house.settings.metrics_address)
        self._template = path_template(house.settings)
        observer = TreeObserver(
            house.tree.root,
            notice_file=house.settler.notice,
            notice_directory=house.rescan.request,
            lost_events=house.rescan.request_after_lost_events,
            ignores=self._ignores,
        )
        house.scanner.watch_with(observer)
        self._watchman = Watchman(
            house.tree,
            observer,
            scan_everything=lambda: house.rescan.request(""),
            root_returned=self._probe_after_root_returned,
            liveness=house.liveness,
            metrics=house.metrics,
        )
        self._condition = Condition(house, observer, observer_trouble=lambda: self._watchman.trouble)
        self._first_scan_succeeded = False
        self._is_ready = False

    def run(self) -> bool:
        """Work until told to stop. Returns whether everything came to an end in time.

        Raises `db.DatabaseError` if the ledger cannot be used at the start.
        """
        self._start()
        try:
            self._mind()
        finally:
            ended = self._stop()
        return ended

    def _start(self) -> None:
        house = self._house
        freed = house.ledger.unclaim_all()
        house.ledger.reschedule_published(house.policy.retention)
        log.info(
            "daemon_started", instance=house.ledger.instance, directory=house.tree.root, freed_claims=freed
        )
        self._condition.watch()
        self._metrics_server.start()
        house.janitor.start(then=house.runners[State.PENDING].start)
        house.rescan.on_full_scan(self._after_full_scan)
        for pause in house.pauses.values():
            pause.on_change(lambda: self._signals.put(LOOK_AROUND))
        self._watchman.start()
        house.settler.start()
        house.runners[State.VERIFIED].start()
        if house.invalidator is not None:
            house.invalidator.start()
        if house.catalog_minder is not None:
            house.catalog_minder.start()
        house.rescan.start()
        self._notifier.status("First scan of the directory")

    def _after_full_scan(self, report: ScanReport) -> None:
        """Runs in the scan's thread. Releases begin only when what an earlier life left aside is repaired.

        Later scans repair what other daemons left aside that never came back.
        """
        house = self._house
        house.asides.repair(report.asides)
        if not self._first_scan_succeeded:
            house.runners[State.PUBLISHED].start()
            house.disk_pressure.start()
            self._first_scan_succeeded = True
            self._signals.put(LOOK_AROUND)
        if house.catalog_minder is not None:
            house.catalog_minder.sweep.sweep()
        if house.policy.prune_after is not None:
            prune_directories(house.tree, house.policy.prune_after, ignores=self._ignores)

    def _ignores(self, path: str) -> bool:
        return self._template.ignores(path) is not None

    def _probe_after_root_returned(self) -> None:
        for pause in self._house.pauses.values():
            pause.probe_soon(ROOT_UNAVAILABLE)
        for state in self._house.runners:
            self._house.services.wake(state)

    def _mind(self) -> None:
        """Wait for signals, and in between tell everybody how it goes."""
        interval = min(HEARTBEAT_SECONDS, self._notifier.watchdog_interval or HEARTBEAT_SECONDS)
        while True:
            self._tell()
            number = self._next_signal(self._clock() + interval)
            if number == SIGHUP:
                self._reload()
            elif number:
                log.info("stop_requested", signal=number)
                return

    def _next_signal(self, deadline: float) -> int:
        """The next signal, or LOOK_AROUND at the deadline."""
        try:
            return self._signals.get(timeout=max(0.0, deadline - self._clock()))
        except queue.Empty:
            return LOOK_AROUND

    def _tell(self) -> None:
        """Readiness, status and watchdog for systemd; a heartbeat for the ledger."""
        status = self._condition.words(is_ready=self._is_ready)
        if not self._is_ready and self._first_scan_succeeded:
            self._is_ready = True
            log.info("daemon_ready")
            self._notifier.ready(status)
        else:
            self._notifier.status(status)
        stalls = self._house.liveness.stalled()
        if stalls and stalls != self._condition.stalls:
            log.error("daemon_stalled", stalls=stalls)
        self._condition.stalls = stalls
        if not stalls:
            self._notifier.watchdog()
        self._heartbeat("running" if self._is_ready else "starting")

    def _heartbeat(self, phase: str) -> None:
        try:
            self._house.ledger.heartbeat(self._condition.report(phase))
        except DatabaseError as exc:
            log.debug("heartbeat_unrecorded", reason=str(exc))

    def _reload(self) -> None:
        self._notifier.reloading()
        try:
            fresh = self._reload_settings()
        except SettingsError as exc:
            log.error("reload_refused", problems=exc.problems)
        else:
            self._follow(fresh)
        self._house.rescan.request("")
        self._notifier.ready(self._condition.words(is_ready=self._is_ready))

    def _follow(self, fresh: Settings) -> None:
        house = self._house
        changed = {
            field.upper(): field
            for field in Settings.model_fields
            if getattr(fresh, field) != getattr(self._settings, field)
        }
        if later := sorted(name for name, field in changed.items() if field not in RELOADABLE):
            log.warning("restart_needed", settings=later)
        house.policy.follow(fresh)
        house.services.store.set_bandwidth(fresh.bandwidth)
        configure_logging(fresh.log_level, house.settings.log_format)
        try:
            house.ledger.reschedule_published(house.policy.retention)
        except DatabaseError as exc:
            log.warning("retention_not_rescheduled", reason=str(exc))
        house.services.wake(State.PUBLISHED)
        self._settings = fresh
        log.info("settings_reloaded", changed=sorted(changed.keys() - set(later)))

    def _stop(self) -> bool:
        house = self._house
        self._notifier.stopping("Stopping: what is under way goes on at the next start")
        stop_all([self._watchman], STOP_SECONDS)
        workers: list[Worker] = [*house.runners.values(), house.rescan, house.settler]
        workers += [house.janitor, house.disk_pressure]
        workers += [worker for worker in (house.invalidator, house.catalog_minder) if worker is not None]
        in_time = stop_all(workers, STOP_SECONDS)
        self._metrics_server.stop()
        self._heartbeat("stopped")
        log.info("daemon_stopped", in_time=in_time)
        return in_time
