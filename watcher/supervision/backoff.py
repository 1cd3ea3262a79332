"""The delay after a failure: exponential with full jitter, capped.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog; full jitter spreads many clients best.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of ``base * factor**attempts`` seconds at most, never more than ``cap``."""

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, attempts: int) -> timedelta:
        """The delay after the given number of earlier failures, with jitter."""
        return timedelta(seconds=self.uniform(0, self.ceiling(attempts)))

    def ceiling(self, attempts: int) -> float:
        """The longest that `delay` can be, in seconds."""
        # The exponent is limited first, because floats overflow at 2**1024.
        return min(self.cap, self.base * self.factor ** min(attempts, 64))

    @property
    def longest(self) -> timedelta:
        """The cap as a `timedelta`."""
        return timedelta(seconds=self.cap)
