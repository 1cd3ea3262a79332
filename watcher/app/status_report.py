"""The daemon's status: a line for systemd, gauges for metrics, and a report for the ledger."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import structlog

from db import JSON, OUTCOME_PERIODS, DatabaseError, LedgerReader, State, format_time
from watcher.app.wiring import Application
from watcher.catalog.missing_files import Missing
from watcher.detection import TreeObserver
from watcher.errors import Failure
from watcher.stages.notifications import OUTCOMES
from watcher.telemetry import Metrics
from watcher.telemetry.formatting import BY_HAND, describe_pause
from watcher.telemetry.history import History
from watcher.telemetry.metrics import LedgerGauges, total

log = structlog.get_logger()

Number = TypeVar("Number", int, float)

RATE_SECONDS = 60.0
"""The period that rates are averages over."""

MAX_PATHS = 20
"""How many paths of a kind a report has at most."""


class DaemonStatus:
    """Used by the daemon's main thread, and by the thread of a scrape. `clock` gives monotonic seconds.

    `observer_failure` says in a sentence what keeps events from arriving; it is empty if nothing does.
    """

    def __init__(
        self,
        app: Application,
        observer: TreeObserver,
        *,
        observer_failure: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._observer = observer
        self._observer_failure = observer_failure
        self._rates = _Rates(app.context.metrics, clock)
        self.stalls: list[str] = []
        self.phase = "starting"
        self.history = History()

    def register_gauges(self) -> None:
        """Have the metrics read their gauges here at each scrape."""
        app = self._app
        gauges = LedgerGauges(
            counts=lambda: self._of_ledger(lambda ledger: _named(ledger.counts())),
            settling=lambda: len(app.settler),
            to_hash_again=lambda: app.settler.to_read,
            sizes=lambda: self._of_ledger(lambda ledger: _named(ledger.sizes())),
            oldest=lambda: self._of_ledger(_ages),
            success=lambda: self._of_ledger(_success_rates),
            notifications=self._waiting_notifications,
            paused=self._paused,
            operator_pause=self._operator_pause_seconds,
            ignored=lambda: app.scanner.ignored_by,
            catalog=self._catalog_numbers,
            directories=lambda: {
                "watched_directories": self._observer.watched,
                "unwatched_directories": self._observer.unwatched,
                "unreadable_directories": len(app.scanner.unreadable),
            },
            set_aside=lambda: {kind.items: kind.count for kind in app.supervisor.set_aside()},
            line=lambda: app.context.store.bytes_per_second,
        )
        app.context.metrics.registry.register(gauges)

    def report(self, phase: str) -> Mapping[str, JSON]:
        """What the ledger keeps for `status`, which may run on any machine."""
        app = self._app
        self.phase = phase
        self.history.record(*self._rates.totals())
        return {
            "phase": phase,
            "ledger": app.ledger.instance,
            "directory": app.tree.root,
            "database": app.context.database.server,
            "paused": self.failures(),
            "s3": self._s3(),
            "settling": len(app.settler),
            "quarantined": app.quarantine_repair.left,
            "to_hash_again": app.settler.to_read,
            "unreadable": app.scanner.unreadable.first(MAX_PATHS),
            "waiting_for_writers": app.settler.waiting_for_writers()[:MAX_PATHS],
            "busy": {runner.stage.name: runner.busy for runner in app.runners.values()},
            "uploads": [snapshot.as_dict() for snapshot in app.context.transfer_progress.snapshots()],
            "orphans": 0 if app.orphans is None else app.orphans.kept,
            "orphans_doubted": None if app.orphans is None else app.orphans.doubt,
            "ignored": dict(app.scanner.ignored_by),
            "ready_files_ignored": self.ready_files_ignored(),
            "ready_files_missing": self.ready_files_missing(),
            "slow_line": app.context.store.slow_line,
            "max_bandwidth": None if app.bandwidth.rate is None else round(app.bandwidth.rate),
            "disk": app.disk_pressure.report(),
            "stalls": list(self.stalls),
            "internal_errors": [
                {"thread": one.thread, "error": one.error, "at": format_time(one.at), "count": one.count}
                for one in app.supervisor.internal_errors()
            ],
            "set_aside": [
                {"items": kind.items, "count": kind.count, "error": kind.error}
                for kind in app.supervisor.set_aside()
            ],
            "notifications": self.notifications(),
            **self._rates.current(),
        }

    def notifications(self) -> Mapping[str, JSON]:
        """What waits for each receiver and since when, what became of attempts, and why the last one failed.

        The attempts are those of this process. Empty where no receiver is configured.
        """
        app = self._app
        found: dict[str, JSON] = {}
        if app.notifier is not None:
            notifier, reasons = app.notifier, app.notifier.troubles()
            waiting = self._waiting_notifications()
            oldest = self._of_ledger(lambda _: notifier.oldest_seconds()) if any(waiting.values()) else {}
            for channel, number in waiting.items():
                found[channel] = {
                    "waiting": number,
                    "oldest_seconds": round(oldest[channel], 1) if channel in oldest else None,
                    "failure": reasons.get(channel),
                    **{outcome: self._attempts(channel, outcome) for outcome in OUTCOMES},
                }
        if app.heartbeat is not None:
            found["heartbeat"] = {"waiting": 0, "failure": app.heartbeat.trouble.reason or None}
        return found

    def _attempts(self, channel: str, outcome: str) -> int:
        return int(total(self._app.context.metrics.notifications, channel=channel, outcome=outcome))

    def _waiting_notifications(self) -> Mapping[str, int]:
        notifier = self._app.notifier
        return {} if notifier is None else self._of_ledger(lambda _: notifier.waiting())

    def failures(self) -> dict[str, str]:
        """Why parts of the daemon do not work at present, as sentences by the name of the part."""
        app = self._app
        failures: dict[str, Failure | None] = {}
        failures |= {name: breaker.failure for name, breaker in app.breakers.items()}
        failures |= {"settle": app.settler.failure, "scan": app.scan_scheduler.failure}
        if app.catalog_thread is not None:
            failures["catalog"] = app.catalog_thread.failure
        if app.orphans is not None:
            failures["orphans"] = app.orphans.failure
        sentences = {name: failure.sentence for name, failure in failures.items() if failure is not None}
        if pause := app.context.orders.pause:
            sentences[BY_HAND] = describe_pause(pause)
        if sentence := self._observer_failure():
            sentences["observer"] = sentence
        return sentences

    def _s3(self) -> Mapping[str, JSON]:
        health = self._app.store_health
        since, failure = health.since, health.failure
        return {
            "answers": failure is None,
            "since": None if since is None else format_time(since),
            "reason": None if failure is None else failure.sentence,
        }

    def ready_files_ignored(self) -> Mapping[str, JSON]:
        """How many files of ready catalog rows are ignored, and the first with the reasons."""
        paths = {} if self._app.ignored_files is None else self._app.ignored_files.paths
        return {"count": len(paths), "first": dict(sorted(paths.items())[:MAX_PATHS])}

    def ready_files_missing(self) -> Mapping[str, JSON]:
        """How many ready catalog rows have no file and no object, and the first paths with the rows."""
        found = self._missing_files
        return {"count": found.count, "first": dict(found.first)}

    @property
    def _missing_files(self) -> Missing:
        orphans = self._app.orphans
        return Missing() if orphans is None or orphans.missing_files is None else orphans.missing_files.found

    def summary(self, *, is_ready: bool) -> str:
        """One line for systemd's status."""
        app = self._app
        if failures := self.failures():
            alike: dict[str, list[str]] = {}
            for name, sentence in failures.items():
                alike.setdefault(sentence, []).append(name)
            return "; ".join(f"{', '.join(names)} paused: {sentence}" for sentence, names in alike.items())
        busy = [f"{runner.busy} in {runner.stage.name}" for runner in app.runners.values() if runner.busy]
        if settling := len(app.settler):
            busy.append(f"{settling} settling")
        busy += [f"{kind.count} {kind.items} set aside" for kind in app.supervisor.set_aside()]
        if app.disk_pressure.is_high:
            busy.append("disk almost full")
        if not is_ready:
            busy.append("first scan")
        return ", ".join(busy) or "Waiting for videos"

    def _paused(self) -> Mapping[str, bool]:
        """Whether each part of the daemon is paused, those included that are not."""
        parts = [*self._app.breakers, BY_HAND, "settle", "scan", "observer"]
        parts += ["catalog"] * (self._app.catalog_thread is not None)
        parts += ["orphans"] * (self._app.orphans is not None)
        failures = self.failures()
        return {name: name in failures for name in parts}

    def _operator_pause_seconds(self) -> float:
        pause = self._app.context.orders.pause
        return 0.0 if pause is None else max(1.0, time.time() - pause.at.timestamp())

    def _of_ledger(self, read: Callable[[LedgerReader], Mapping[str, Number]]) -> Mapping[str, Number]:
        """What the ledger says; empty if the database does not answer."""
        try:
            return read(self._app.ledger)
        except DatabaseError as exc:
            log.debug("counts_unavailable", reason=str(exc))
            return {}

    def _catalog_numbers(self) -> Mapping[str, int]:
        app, ledger = self._app, self._app.ledger
        if app.orphans is None:
            return {}
        timeout = timedelta(seconds=self._app.settings.catalog_row_timeout)
        try:
            return {
                "awaiting_row_uploads": ledger.count_awaiting_row(),
                "overdue_row_uploads": ledger.count_awaiting_row(longer_than=timeout),
                "orphan_objects": app.orphans.kept,
                "orphans_doubted": int(app.orphans.doubt is not None),
                "ignored_ready_files": len(app.ignored_files.paths) if app.ignored_files else 0,
                "missing_ready_files": self._missing_files.count,
            }
        except DatabaseError as exc:
            log.debug("counts_unavailable", reason=str(exc))
            return {}


def _success_rates(ledger: LedgerReader) -> Mapping[str, float]:
    """The success rate of each period in which anything was decided. Raises `db.DatabaseError`."""
    rates = {name: ledger.outcomes(period).success_rate for name, period in OUTCOME_PERIODS.items()}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _named(by_state: Mapping[State, int]) -> Mapping[str, int]:
    return {state.value: number for state, number in by_state.items()}


def _ages(ledger: LedgerReader) -> Mapping[str, float]:
    now, since = ledger.now(), ledger.waiting_since()
    return {
        state.value: max(0.0, (now - since[state]).total_seconds()) if state in since else 0.0
        for state in (State.PENDING, State.VERIFIED, State.PUBLISHED)
    }


class _Rates:
    """Bytes per second and publications per minute, as averages over the last minute."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._samples: deque[tuple[float, float, float]] = deque()

    def current(self) -> Mapping[str, JSON]:
        now = (self._clock(), *self.totals())
        self._samples.append(now)
        while now[0] - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        first = self._samples[0]
        seconds = max(now[0] - first[0], 1.0)
        return {
            "bytes_per_second": round((now[1] - first[1]) / seconds),
            "published_per_minute": round(60 * (now[2] - first[2]) / seconds, 1),
        }

    def totals(self) -> tuple[float, float]:
        """The bytes sent and the publications since the start."""
        return total(self._metrics.bytes_sent), total(self._metrics.published)
