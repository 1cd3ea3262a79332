"""Waiting after failures: longer each time, spread, and never longer than the cap."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.supervision.backoff import Backoff


@given(st.integers(min_value=0, max_value=10**9))
def test_no_wait_is_negative_or_longer_than_the_longest_however_many_failures(attempts: int) -> None:
    backoff = Backoff(base=1, factor=2, cap=300)
    assert timedelta(0) <= backoff.delay(attempts) <= backoff.longest == timedelta(seconds=300)


def test_the_longest_possible_wait_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base=2, factor=2, cap=20, uniform=lambda _, high: high)
    assert [backoff.delay(attempts).total_seconds() for attempts in range(6)] == [2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize("attempts", [0, 3, 100])
def test_jitter_is_full_from_nothing_to_the_ceiling(attempts: int) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    backoff = Backoff(base=1, factor=2, cap=60, uniform=uniform)
    assert backoff.delay(attempts) == timedelta(0)
    assert asked == [(0, backoff.ceiling(attempts))]
