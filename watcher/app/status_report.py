"""How the daemon is: in words for systemd, in numbers for metrics, as a report for the ledger."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from db import JSON, DatabaseError
from watcher.app.wiring import House
from watcher.detection.observer import TreeObserver
from watcher.errors import Problem
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

RATE_SECONDS = 60.0
"""What rates are averages over."""


SHOWN = 20
"""How many paths of a kind the ledger is told of."""


class Condition:
    """Asked by the daemon's main thread, and by the thread of a scrape. `clock` gives monotonic seconds.

    `observer_trouble` says in a sentence what keeps events from arriving.
    """

    def __init__(
        self,
        house: House,
        observer: TreeObserver,
        *,
        observer_trouble: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house = house
        self._observer = observer
        self._observer_trouble = observer_trouble
        self._rates = _Rates(house.metrics, clock)
        self.stalls: list[str] = []

    def watch(self) -> None:
        """Have the metrics ask here at each scrape."""
        house = self._house
        house.metrics.watch(
            counts=self._counts,
            settling=lambda: len(house.settler),
            paused=lambda: {name: pause.problem is not None for name, pause in house.pauses.items()},
            catalog=self._catalog_numbers,
            directories=lambda: {
                "watched_directories": self._observer.watched,
                "unwatched_directories": self._observer.unwatched,
                "unreadable_directories": len(house.scanner.unreadable),
            },
        )

    def report(self, phase: str) -> Mapping[str, JSON]:
        """What the ledger keeps of this daemon, for `status` of whoever asks from anywhere."""
        house = self._house
        return {
            "phase": phase,
            "ledger": house.ledger.instance,
            "directory": house.tree.root,
            "paused": self.troubles(),
            "settling": len(house.settler),
            "unreadable": house.scanner.unreadable.first(SHOWN),
            "waiting_for_writers": house.settler.waiting_for_writers()[:SHOWN],
            "busy": {runner.stage.name: runner.busy for runner in house.runners.values()},
            "uploads": [line.as_dict() for line in house.services.board.lines()],
            "orphans": 0 if house.catalog_minder is None else house.catalog_minder.orphans.kept,
            "disk": house.disk_pressure.report(),
            "stalls": list(self.stalls),
            **self._rates.look(),
        }

    def troubles(self) -> dict[str, str]:
        """What keeps which part of the daemon from working, in sentences."""
        house = self._house
        problems: dict[str, Problem | None] = {name: pause.problem for name, pause in house.pauses.items()}
        problems |= {"settle": house.settler.problem, "scan": house.rescan.problem}
        if house.catalog_minder is not None:
            problems["catalog"] = house.catalog_minder.problem
        troubles = {name: problem.sentence for name, problem in problems.items() if problem is not None}
        if trouble := self._observer_trouble():
            troubles["observer"] = trouble
        return troubles

    def words(self, *, is_ready: bool) -> str:
        """One line for systemd's status."""
        house = self._house
        if troubles := self.troubles():
            return "; ".join(f"{name} paused: {sentence}" for name, sentence in troubles.items())
        busy = [f"{runner.busy} in {runner.stage.name}" for runner in house.runners.values() if runner.busy]
        if settling := len(house.settler):
            busy.append(f"{settling} settling")
        if house.disk_pressure.is_high:
            busy.append("disk almost full")
        if not is_ready:
            busy.append("first scan")
        return ", ".join(busy) or "Waiting for videos"

    def _counts(self) -> Mapping[str, int]:
        """Without the database there are no numbers."""
        try:
            return {state.value: number for state, number in self._house.ledger.counts().items()}
        except DatabaseError as exc:
            log.debug("counts_unavailable", reason=str(exc))
            return {}

    def _catalog_numbers(self) -> Mapping[str, int]:
        minder, ledger = self._house.catalog_minder, self._house.ledger
        if minder is None:
            return {}
        timeout = timedelta(seconds=self._house.settings.catalog_row_timeout)
        try:
            return {
                "awaiting_row_uploads": ledger.count_awaiting_row(),
                "overdue_row_uploads": ledger.count_awaiting_row(longer_than=timeout),
                "orphan_objects": minder.orphans.kept,
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
