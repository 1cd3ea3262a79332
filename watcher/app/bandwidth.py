"""The bandwidth that MAX_BANDWIDTH allows, which may depend on the time of day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from watcher.settings import Settings, local_time

log = structlog.get_logger()


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
