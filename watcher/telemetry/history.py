"""What was sent and published in each of the last sixty minutes, for a plot."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MINUTES = 60


@dataclass(slots=True)
class Minute:
    """One minute; `began_at` in seconds since the epoch, `sent` in bytes."""

    began_at: int
    sent: float = 0.0
    published: float = 0.0


class History:
    """Keeps `MINUTES` minutes; thread-safe. `clock` returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._totals = (0.0, 0.0)

    def record(self, sent: float, published: float) -> None:
        """Add what the totals have grown by since they were recorded last."""
        with self._lock:
            minute = self._present()
            minute.sent += sent - self._totals[0]
            minute.published += published - self._totals[1]
            self._totals = (sent, published)

    def minutes(self) -> list[Minute]:
        """The last `MINUTES` minutes, the present one last; those before the start are empty."""
        with self._lock:
            last = self._present().began_at
            kept = {minute.began_at: minute for minute in self._minutes}
            begins = range(last - 60 * (MINUTES - 1), last + 60, 60)
            return [kept.get(begin, Minute(begin)) for begin in begins]

    def _present(self) -> Minute:
        begin = int(self._clock()) // 60 * 60
        if not self._minutes or self._minutes[-1].began_at < begin:
            self._minutes.append(Minute(begin))
        return self._minutes[-1]
