"""How fast all uploads together may be: a token bucket that may go into debt for one request at a time."""

import threading
import time
from collections.abc import Callable

CREDIT_SECONDS = 0.1
"""How much of the rate may be saved up while nothing is sent, and so be sent at once afterwards."""


class Bandwidth:
    """Bytes that may be sent, growing with time. Safe for threads; `clock` gives monotonic seconds.

    Whoever sends takes what it needs as soon as nothing is owed, and leaves a debt that the next one waits
    for. Requests of any size therefore keep to the rate, also ones larger than a second's worth.
    """

    def __init__(
        self, bytes_per_second: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = bytes_per_second
        self._balance = 0.0
        self._seen_at = clock()

    @property
    def rate(self) -> float | None:
        """Bytes per second, or None for no limit."""
        return self._rate

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Change the limit from now on; what is owed is paid at the new rate. None takes the limit away."""
        with self._lock:
            self._earn()
            self._rate = bytes_per_second
            if bytes_per_second is None:
                self._balance = 0.0

    def take(self, length: int) -> float:
        """Take `length` bytes and return 0; or take none and return the seconds until it is worth asking."""
        with self._lock:
            if self._rate is None:
                return 0.0
            self._earn()
            if self._balance < 0:
                return -self._balance / self._rate
            self._balance -= length
            return 0.0

    def _earn(self) -> None:
        now = self._clock()
        if self._rate is not None:
            earned = self._balance + (now - self._seen_at) * self._rate
            self._balance = min(earned, CREDIT_SECONDS * self._rate)
        self._seen_at = now
