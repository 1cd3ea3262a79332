"""The token bucket of the bandwidth limit."""

import pytest

from storage.transfer.bandwidth import Bandwidth


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sent_in(bandwidth: Bandwidth, clock: Clock, seconds: float, length: int) -> int:
    """How much is sent in so many seconds by one who always sends as soon as he may."""
    end, sent = clock.now + seconds, 0
    while True:
        wait = bandwidth.take(length)
        if wait == 0:
            sent += length
        elif clock.now + wait > end:
            clock.now = end
            return sent
        else:
            clock.now += max(wait, 1e-6)


@pytest.mark.parametrize("length", [1_000, 64_000, 300_000])
def test_over_ten_seconds_the_rate_is_kept_within_five_percent(clock: Clock, length: int) -> None:
    bandwidth = Bandwidth(10_000_000, clock=clock)
    assert sent_in(bandwidth, clock, 10, length) == pytest.approx(100_000_000, rel=0.05)


def test_one_request_larger_than_a_second_worth_is_paid_for_afterwards(clock: Clock) -> None:
    bandwidth = Bandwidth(1_000, clock=clock)
    assert bandwidth.take(5_000) == 0
    assert bandwidth.take(1) == 5
    clock.now += 4
    assert bandwidth.take(1) == 1
    clock.now += 1
    assert bandwidth.take(1) == 0


def test_an_hour_of_silence_saves_up_next_to_nothing(clock: Clock) -> None:
    bandwidth = Bandwidth(1_000, clock=clock)
    clock.now += 3600
    assert sent_in(bandwidth, clock, 10, 100) == pytest.approx(10_000, rel=0.05)


def test_without_a_limit_nothing_waits(clock: Clock) -> None:
    bandwidth = Bandwidth(None, clock=clock)
    assert bandwidth.take(10**12) == 0
    assert bandwidth.take(10**12) == 0


def test_the_limit_changes_while_it_is_in_force(clock: Clock) -> None:
    bandwidth = Bandwidth(1_000, clock=clock)
    bandwidth.take(4_000)
    clock.now += 2
    bandwidth.set_rate(500)
    assert bandwidth.take(1) == 4
    bandwidth.set_rate(None)
    assert bandwidth.take(10**9) == 0
    bandwidth.set_rate(1_000)
    assert bandwidth.take(1_000) == 0
    assert bandwidth.take(1) == 1
