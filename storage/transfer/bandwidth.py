"""A limit on the bytes per second of all uploads together: a token bucket that may go into debt."""

import threading
import time
from collections.abc import Callable

CREDIT_SECONDS = 0.1
"""The most that an idle bucket saves up, as seconds of its rate."""


class Bandwidth:
    """Bytes that may be sent, growing with time. Safe for threads; `clock` gives monotonic seconds.

    A request takes all of its bytes as soon as there is no debt, and leaves a debt that the next one waits
    for. Requests of any size therefore keep to the rate, also those larger than a second's worth.
    """

    def __init__(
        self, bytes_per_second: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = bytes_per_second
        self._balance = 0.0
        self._refilled_at = clock()

    @property
    def rate(self) -> float | None:
        """Bytes per second, or None for no limit."""
        return self._rate

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Change the limit from now on, for the present debt too. None removes the limit."""
        with self._lock:
            self._refill()
            self._rate = bytes_per_second
            if bytes_per_second is None:
                self._balance = 0.0

    def take(self, length: int) -> float:
        """Take `length` bytes and return 0; or take none and return the seconds until a retry can succeed."""
        with self._lock:
            if self._rate is None:
                return 0.0
            self._refill()
            if self._balance < 0:
                return -self._balance / self._rate
            self._balance -= length
            return 0.0

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            earned = self._balance + (now - self._refilled_at) * self._rate
            self._balance = min(earned, CREDIT_SECONDS * self._rate)
        self._refilled_at = now
