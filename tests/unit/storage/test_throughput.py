"""The measured rate of a line: what counts, and how soon it is known."""

from storage.transfer.throughput import Throughput


def test_nothing_is_known_before_the_line_was_the_bottleneck_for_some_seconds() -> None:
    line = Throughput()
    rates = []
    for _ in range(4):
        line.add(1, 64_000, is_backlogged=True)
        rates.append(line.rate)
    assert rates == [None, None, None, 64_000]


def test_what_the_sender_or_a_stall_limits_says_nothing_of_the_line() -> None:
    line = Throughput()
    for _ in range(10):
        line.add(1, 1_000, is_backlogged=False)
        line.add(1, 0, is_backlogged=True)
    assert line.rate is None
    line.add(4, 4_000_000, is_backlogged=True)
    for _ in range(10):
        line.add(1, 1_000, is_backlogged=False)
        line.add(1, 0, is_backlogged=True)
    assert line.rate == 1_000_000


def test_a_sender_that_is_faster_than_the_line_was_shows_that_the_line_became_faster() -> None:
    line = Throughput()
    line.add(5, 5 * 64_000, is_backlogged=True)
    line.add(1, 1_000_000, is_backlogged=False)
    assert line.rate is not None
    assert line.rate > 150_000


def test_the_rate_is_that_of_the_last_seconds() -> None:
    line = Throughput()
    for _ in range(100):
        line.add(1, 1_000_000, is_backlogged=True)
    for _ in range(5):
        line.add(1, 64_000, is_backlogged=True)
    assert line.rate == 64_000
