"""How the daemon is: in words for systemd, in numbers for metrics, as a report for the ledger."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from db import JSON, DatabaseError
from watcher.app.wiring import Application
from watcher.detection.observer import TreeObserver
from watcher.errors import Failure
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

RATE_SECONDS = 60.0
"""What rates are averages over."""


SHOWN = 20
"""How many paths of a kind the ledger is told of."""


class DaemonStatus:
    """Asked by the daemon's main thread, and by the thread of a scrape. `clock` gives monotonic seconds.

    `observer_trouble` says in a sentence what keeps events from arriving.
    """

    def __init__(
        self,
        app: Application,
        observer: TreeObserver,
        *,
        observer_trouble: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._observer = observer
        self._observer_trouble = observer_trouble
        self._rates = _Rates(app.metrics, clock)
        self.stalls: list[str] = []

    def watch(self) -> None:
        """Have the metrics ask here at each scrape."""
        app = self._app
        app.metrics.watch(
            counts=self._counts,
            settling=lambda: len(app.settler),
            paused=lambda: {name: breaker.failure is not None for name, breaker in app.breakers.items()},
            catalog=self._catalog_numbers,
            directories=lambda: {
                "watched_directories": self._observer.watched,
                "unwatched_directories": self._observer.unwatched,
                "unreadable_directories": len(app.scanner.unreadable),
            },
        )

    def report(self, phase: str) -> Mapping[str, JSON]:
        """What the ledger keeps of this daemon, for `status` of whoever asks from anywhere."""
        app = self._app
        return {
            "phase": phase,
            "ledger": app.ledger.instance,
            "directory": app.tree.root,
            "paused": self.troubles(),
            "settling": len(app.settler),
            "unreadable": app.scanner.unreadable.first(SHOWN),
            "waiting_for_writers": app.settler.waiting_for_writers()[:SHOWN],
            "busy": {runner.stage.name: runner.busy for runner in app.runners.values()},
            "uploads": [snapshot.as_dict() for snapshot in app.context.transfer_progress.snapshots()],
            "orphans": 0 if app.catalog_thread is None else app.catalog_thread.orphans.kept,
            "disk": app.disk_pressure.report(),
            "stalls": list(self.stalls),
            **self._rates.look(),
        }

    def troubles(self) -> dict[str, str]:
        """What keeps which part of the daemon from working, in sentences."""
        app = self._app
        failures: dict[str, Failure | None] = {}
        failures |= {name: breaker.failure for name, breaker in app.breakers.items()}
        failures |= {"settle": app.settler.failure, "scan": app.scan_scheduler.failure}
        if app.catalog_thread is not None:
            failures["catalog"] = app.catalog_thread.failure
        troubles = {name: failure.sentence for name, failure in failures.items() if failure is not None}
        if trouble := self._observer_trouble():
            troubles["observer"] = trouble
        return troubles

    def words(self, *, is_ready: bool) -> str:
        """One line for systemd's status."""
        app = self._app
        if troubles := self.troubles():
            return "; ".join(f"{name} paused: {sentence}" for name, sentence in troubles.items())
        busy = [f"{runner.busy} in {runner.stage.name}" for runner in app.runners.values() if runner.busy]
        if settling := len(app.settler):
            busy.append(f"{settling} settling")
        if app.disk_pressure.is_high:
            busy.append("disk almost full")
        if not is_ready:
            busy.append("first scan")
        return ", ".join(busy) or "Waiting for videos"

    def _counts(self) -> Mapping[str, int]:
        """Without the database there are no numbers."""
        try:
            return {state.value: number for state, number in self._app.ledger.counts().items()}
        except DatabaseError as exc:
            log.debug("counts_unavailable", reason=str(exc))
            return {}

    def _catalog_numbers(self) -> Mapping[str, int]:
        catalog_thread, ledger = self._app.catalog_thread, self._app.ledger
        if catalog_thread is None:
            return {}
        timeout = timedelta(seconds=self._app.settings.catalog_row_timeout)
        try:
            return {
                "awaiting_row_uploads": ledger.count_awaiting_row(),
                "overdue_row_uploads": ledger.count_awaiting_row(longer_than=timeout),
                "orphan_objects": catalog_thread.orphans.kept,
            }
        except DatabaseError as exc:
            log.debug("counts_unavailable", reason=str(exc))
            return {}


class _Rates:
    """Bytes a second and publications a minute, as averages over the last minute."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._seen: deque[tuple[float, float, float]] = deque()

    def look(self) -> Mapping[str, JSON]:
        now = (self._clock(), self._total("sent_bytes"), self._total("published_uploads"))
        self._seen.append(now)
        while now[0] - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        first = self._seen[0]
        seconds = max(now[0] - first[0], 1.0)
        return {
            "bytes_per_second": round((now[1] - first[1]) / seconds),
            "published_per_minute": round(60 * (now[2] - first[2]) / seconds, 1),
        }

    def _total(self, name: str) -> float:
        return self._metrics.registry.get_sample_value(f"video_uploader_{name}_total") or 0.0
