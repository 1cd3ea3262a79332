"""The settings that a reload changes while the daemon runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from watcher.settings.model import Settings


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
