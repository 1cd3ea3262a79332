"""The settings that a reload changes while the daemon runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from watcher.settings.model import Settings

log = structlog.get_logger()


def local_time() -> datetime:
    """The time of day in the time zone of this machine (``TZ``, or /etc/localtime: tzset(3))."""
    time.tzset()  # the machine may have been given another time zone
    return datetime.now(UTC).astimezone()


@dataclass(slots=True)
class Policy:
    """Retention, scan interval and disk limit; shared by all threads and updated in place on SIGHUP."""

    retention: timedelta
    keep_local: bool
    rescan_seconds: float
    prune_after: timedelta | None = None
    disk_percent: float = 100

    @classmethod
    def from_settings(cls, settings: Settings) -> Policy:
        """Return the policy of the settings."""
        policy = cls(timedelta(), keep_local=False, rescan_seconds=0)
        policy.update(settings)
        return policy

    def update(self, settings: Settings) -> None:
        """Take over the values of the settings."""
        days = settings.prune_directories_after_days
        self.retention = timedelta(seconds=settings.release_after_seconds)
        self.keep_local = settings.keep_local
        self.rescan_seconds = settings.rescan_seconds
        self.disk_percent = settings.disk_pressure_percent
        self.prune_after = None if days is None else timedelta(days=days)


class BandwidthLimit:
    """Has `set_rate` called with the bytes per second that MAX_BANDWIDTH allows now; None is no limit.

    `apply` is to be called every few seconds: it reads the clock anew, so that nothing depends on how long
    the time until the next entry was thought to be. `now` gives the local time.
    """

    def __init__(
        self,
        settings: Settings,
        set_rate: Callable[[float | None], object],
        *,
        now: Callable[[], datetime] = local_time,
    ) -> None:
        self._settings = settings
        self._set_rate = set_rate
        self._now = now
        self.rate = settings.bandwidth_at(self._now())
        set_rate(self.rate)

    def update(self, settings: Settings) -> None:
        """Take over MAX_BANDWIDTH of the settings."""
        self._settings = settings
        self.apply()

    def apply(self) -> None:
        """Change the rate if the time of another entry has come."""
        rate = self._settings.bandwidth_at(self._now())
        if rate != self.rate:
            self.rate = rate
            self._set_rate(rate)
            log.info("bandwidth_changed", bytes_per_second=rate, timetable=self._settings.max_bandwidth)
