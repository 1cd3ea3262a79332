"""The part of the settings that a reload changes while the daemon runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from watcher.settings.model import Settings


@dataclass(slots=True)
class Policy:
    """The settings that a reload changes while the daemon runs."""

    retention: timedelta
    keep_local: bool
    rescan_seconds: float
    prune_after: timedelta | None = None
    disk_percent: float = 100

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy that the settings ask for."""
        policy = cls(timedelta(), keep_local=False, rescan_seconds=0)
        policy.follow(settings)
        return policy

    def follow(self, settings: Settings) -> None:
        """Take over what the settings ask for now."""
        days = settings.prune_directories_after_days
        self.retention = timedelta(seconds=settings.release_after_seconds)
        self.keep_local = settings.keep_local
        self.rescan_seconds = settings.rescan_seconds
        self.disk_percent = settings.disk_pressure_percent
        self.prune_after = None if days is None else timedelta(days=days)
