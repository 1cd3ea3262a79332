"""The daemon: starts every part in order, publishes the status, handles signals, and stops within seconds."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from signal import SIGHUP

import structlog

from db import JSON, DatabaseError, State
from watcher.app.factories import make_access_key, make_path_template
from watcher.app.memory import give_back
from watcher.app.sole_instance import SoleInstance
from watcher.app.status_report import DaemonStatus
from watcher.app.wiring import Application
from watcher.detection import Callbacks, ScanReport, TreeObserver
from watcher.detection.observer_supervisor import ObserverSupervisor
from watcher.errors import Code
from watcher.filesystem.pruning import prune_directories
from watcher.settings import Settings, SettingsError
from watcher.stages.object_origin import warn_of_unknown_objects
from watcher.supervision.background_thread import Worker, stop_all
from watcher.supervision.sd_notify import SystemdNotifier
from watcher.telemetry import configure_logging

log = structlog.get_logger()

HEARTBEAT_SECONDS = 5.0
"""Between two reports of the daemon's status to the ledger and to systemd."""
IDLE_HEARTBEAT_SECONDS = 10.0
"""Between two reports to a ledger in a SQLite file while they say the same and nothing else is written to it;
each waits for the disk four times."""

STOP_SECONDS = 4.0
"""How long the observer may take to stop, and after it all other threads together."""

WAKE = 0
"""In the queue of signals: not a signal, but a change of the status that is to be published at once."""

RELOADABLE = frozenset(
    {
        "release_after_seconds",
        "disk_pressure_percent",
        "keep_local",
        "rescan_seconds",
        "prune_directories_after_days",
        "log_level",
        "max_bandwidth",
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    }
)
"""The settings that SIGHUP changes; the others need a restart."""


class Daemon:
    """Runs an application until a signal or a thread that keeps failing stops it.

    `signals` receives the numbers of signals: SIGHUP reloads the settings, any other signal stops the daemon.
    `record_settings` is called with those in effect, at the start and after each reload. `status` says how it
    is doing.
    """

    def __init__(
        self,
        app: Application,
        *,
        sole_instance: SoleInstance,
        notifier: SystemdNotifier,
        signals: queue.SimpleQueue[int],
        reload_settings: Callable[[], Settings],
        record_settings: Callable[[Settings], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._settings = app.settings
        self._sole_instance = sole_instance
        self._notifier = notifier
        self._signals = signals
        self._reload_settings = reload_settings
        self._record_settings = record_settings
        self._clock = clock
        self._template = make_path_template(app.settings)
        callbacks = Callbacks(
            notice_file=app.settler.check,
            notice_directory=app.scan_scheduler.request,
            lost_events=app.scan_scheduler.request_after_lost_events,
            ignores=self._ignores,
        )
        observer = TreeObserver(app.tree.root, callbacks)
        app.scanner.watch_with(observer)
        self._observer_supervisor = ObserverSupervisor(
            app.tree,
            observer,
            request_full_scan=lambda: app.scan_scheduler.request(""),
            root_returned=self._probe_after_root_returned,
            supervisor=app.supervisor,
            metrics=app.context.metrics,
        )
        self.status = DaemonStatus(
            app, observer, observer_failure=lambda: self._observer_supervisor.failure_reason
        )
        self._reported: Mapping[str, JSON] | None = None
        """What the last heartbeat in the ledger reported, at `_reported_at`."""
        self._reported_at = 0.0
        self._first_scan_succeeded = False
        self._is_ready = False

    def prepare(self) -> None:
        """Begin in the ledger, before `run`. Raises `db.DatabaseError`; can be repeated."""
        app = self._app
        freed = app.ledger.release_all_claims()
        app.ledger.reschedule_published(app.policy.retention)
        app.context.orders.look()
        app.forget_undeliverable()
        self._record_settings(self._settings)
        log.info("daemon_started", instance=app.ledger.instance, directory=app.tree.root, freed_claims=freed)

    def run(self) -> bool:
        """Run until a stop, after `prepare`. Returns whether every thread ended in time.

        `Supervisor.reason_to_stop` says afterwards whether a thread that kept failing was the reason.
        """
        self._start()
        try:
            self._main_loop()
        finally:
            ended = self._stop()
        return ended

    def _start(self) -> None:
        app = self._app
        if app.catalog_thread is not None:
            # Before anything is published. A catalog that cannot be read is reported by its thread.
            with suppress(DatabaseError):
                app.catalog_thread.republisher.warn_of_unrecorded()
        app.supervisor.on_reason_to_stop(lambda: self._signals.put(WAKE))
        self.status.register_gauges()
        app.store_health.start()
        app.abandoned_multiparts.start(then=self._start_uploads)
        app.scan_scheduler.on_full_scan(self._after_full_scan)
        for breaker in app.breakers.values():
            breaker.on_change(lambda: self._signals.put(WAKE))
        self._observer_supervisor.start()
        if app.notifier is not None:
            app.notifier.start()
        if app.heartbeat is not None:
            app.heartbeat.start()
        app.settler.start()
        app.runners[State.VERIFIED].start()
        if app.context.invalidator is not None:
            app.context.invalidator.start()
        if app.catalog_thread is not None:
            app.catalog_thread.start()
        if app.orphans is not None:
            app.orphans.start()
        app.scan_scheduler.start()
        self._notifier.status("First scan of the directory")

    def _start_uploads(self) -> None:
        """Runs in the thread of abandoned multiparts, which may wait for S3."""
        app = self._app
        if app.catalog_thread is None:
            prefix = app.settings.aws_s3_videos_prefix
            warn_of_unknown_objects(app.context.store, app.ledger, prefix and f"{prefix}/")
        app.runners[State.PENDING].start()

    def _after_full_scan(self, report: ScanReport) -> None:
        """Runs in the scan's thread. Releases begin after the repair of what an earlier process quarantined.

        Later scans repair what daemons that ended for good have quarantined.
        """
        app = self._app
        app.quarantine_repair.run(report.quarantined, app.scan_scheduler.reading)
        if not self._first_scan_succeeded:
            app.runners[State.PUBLISHED].start()
            app.disk_pressure.start()
            self._first_scan_succeeded = True
            self._signals.put(WAKE)
        if app.catalog_thread is not None:
            app.catalog_thread.republisher.check_all()
        if app.ignored_files is not None:
            app.ignored_files.check(report.ignored_paths)
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
        """Handle signals, and publish the status in between, until it is time to stop."""
        interval = min(HEARTBEAT_SECONDS, self._notifier.watchdog_interval or HEARTBEAT_SECONDS)
        while True:
            self._app.bandwidth.apply()
            self._publish_status()
            number = self._next_signal(self._clock() + interval)
            if reason := self._app.supervisor.reason_to_stop:
                log.error("daemon_failed", reason=reason)
                return
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
        """Send readiness, status and watchdog to systemd, a heartbeat to the ledger, and tell of pauses."""
        app = self._app
        status = self.status.summary(is_ready=self._is_ready)
        if self._sole_instance.conflict is not None:
            status = f"{self._sole_instance.conflict} {status}"
        if not self._is_ready and self._first_scan_succeeded:
            self._is_ready = True
            give_back()
            log.info("daemon_ready")
            self._notifier.ready(status)
        elif self._is_ready or self.status.stalls:
            self._notifier.status(status)
        else:
            self._notifier.starting(status)
        stalls = self._app.supervisor.liveness.stalled()
        if stalls and stalls != self.status.stalls:
            log.error("daemon_stalled", stalls=stalls)
        self.status.stalls = stalls
        if not stalls:
            self._notifier.watchdog()
        failures = self.status.failures()
        if app.notifier is not None:
            app.notifier.report_failures(failures)
        if app.heartbeat is not None:
            is_well = not (failures or stalls or app.store_health.failure) and self._is_ready
            app.heartbeat.report(is_well=is_well)
        self._heartbeat("running" if self._is_ready else "starting")

    def _heartbeat(self, phase: str) -> None:
        try:
            self._app.context.orders.look()
            report, now = self.status.report(phase), self._clock()
            # The file system is used by others, too.
            reported = {name: value for name, value in report.items() if name != "disk"}
            is_recent = now - self._reported_at < IDLE_HEARTBEAT_SECONDS
            if is_recent and reported == self._reported and self._sole_instance.is_ledger_unchanged:
                return
            self._sole_instance.heartbeat(report)
            self._reported, self._reported_at = reported, now
        except DatabaseError as exc:
            log.debug("heartbeat_unrecorded", reason=str(exc))
            for runner in self._app.runners.values():
                if runner.breaker.failure is None:
                    runner.wake()  # An idle stage learns, and says, that the database cannot be used.

    def _reload(self) -> None:
        self._notifier.reloading()
        try:
            fresh = self._reload_settings()
        except SettingsError as exc:
            log.error("reload_refused", problems=exc.problems)
        else:
            self._apply_settings(fresh)
        self._app.scan_scheduler.request("")
        self._notifier.ready(self.status.summary(is_ready=self._is_ready))

    def _apply_settings(self, fresh: Settings) -> None:
        app = self._app
        changed = {
            field.upper(): field
            for field in Settings.model_fields
            if getattr(fresh, field) != getattr(self._settings, field)
        }
        if later := sorted(name for name, field in changed.items() if field not in RELOADABLE):
            log.warning("restart_needed", settings=later, hint="They count once the daemon is restarted.")
        app.policy.update(fresh)
        app.bandwidth.update(fresh)
        app.context.store.use_credentials(make_access_key(fresh))
        app.store_health.look_soon()
        if app.context.invalidator is not None:
            app.context.invalidator.use_credentials(make_access_key(fresh))
        configure_logging(fresh.log_level, app.settings.log_format)
        try:
            app.ledger.reschedule_published(app.policy.retention)
        except DatabaseError as exc:
            log.warning("retention_not_rescheduled", reason=str(exc))
        app.context.signals.wake_stage(State.PUBLISHED)
        self._settings = fresh
        in_effect = {field: getattr(fresh, field) for field in RELOADABLE}
        self._record_settings(app.settings.model_copy(update=in_effect))
        log.info("settings_reloaded", changed=sorted(changed.keys() - set(later)))

    def _stop(self) -> bool:
        app = self._app
        self._notifier.stopping("Stopping: unfinished uploads continue at the next start")
        in_time = stop_all([self._observer_supervisor], STOP_SECONDS)
        workers: list[Worker] = [*app.runners.values(), app.scan_scheduler, app.settler]
        workers += [app.abandoned_multiparts, app.store_health, app.disk_pressure]
        optional = (app.context.invalidator, app.catalog_thread, app.orphans, app.notifier, app.heartbeat)
        workers += [worker for worker in optional if worker is not None]
        in_time &= stop_all(workers, STOP_SECONDS)
        self._heartbeat("stopped")
        log.info("daemon_stopped", in_time=in_time)
        return in_time
