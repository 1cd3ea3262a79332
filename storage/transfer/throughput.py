"""How many bytes per second the line to the server takes, measured over all uploads together."""

from collections import deque

MEASURED_SECONDS = 4.0
"""Nothing is known before the line was the bottleneck for this long."""
WINDOW_SECONDS = 5.0
"""How far back a measurement reaches, in seconds in which the line was the bottleneck."""


class Throughput:
    """A moving average of what the line takes. It belongs to one thread, or to the holder of a lock.

    Only times in which bytes waited for the line tell its rate: otherwise the sender was the bottleneck, and
    the rate at which it sent is a lower bound. Times in which nothing moved at all tell nothing: a connection
    that stalls is no slow line.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._bytes = 0

    @property
    def rate(self) -> float | None:
        """Bytes per second; None while it is unknown."""
        return self._bytes / self._seconds if self._seconds >= MEASURED_SECONDS else None

    def add(self, seconds: float, moved: int, *, is_backlogged: bool) -> None:
        """Take a sample: `moved` bytes in `seconds`, in which bytes waited for the line or did not."""
        if seconds <= 0 or moved <= 0:
            return
        known = self.rate
        if not is_backlogged and (known is None or moved / seconds <= known):
            return
        self._samples.append((seconds, moved))
        self._seconds += seconds
        self._bytes += moved
        while self._seconds - self._samples[0][0] >= WINDOW_SECONDS:
            seconds, moved = self._samples.popleft()
            self._seconds -= seconds
            self._bytes -= moved
