"""Runs of several clients one after the other in turn, and what their figures say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated figures, and the smallest and the largest."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 1) -> str:
        """The median and, of several figures, their range."""
        if self.count == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def spread(figures: Sequence[float]) -> Spread:
    """The spread of at least one figure."""
    return Spread(statistics.median(figures), min(figures), max(figures), len(figures))


def interleaved(clients: Mapping[str, Callable[[], Figure]], repeats: int) -> dict[str, list[Figure]]:
    """Run every client `repeats` times, in rounds; each round begins with another client."""
    names = list(clients)
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(clients[name]())
    return figures


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Our figure of each round divided by that of the same round: what slows both down falls out."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def percentile(figures: Sequence[float], share: float) -> float:
    """The figure that a share of all does not exceed (nearest rank)."""
    return sorted(figures)[max(math.ceil(len(figures) * share) - 1, 0)]


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The b of the least-squares fit y = a·x^b; None of fewer than two positive points."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    return statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope
