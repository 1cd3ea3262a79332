"""How long `drain` waits, with a clock that only the waiting moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from db import Left, Pause
from watcher.operations.draining import PATIENCE_SECONDS, View, wait_until_drained

PAUSE = Pause("the line is needed", datetime(2026, 1, 1, tzinfo=UTC))


def view(pending: int = 1, *, has_daemon: bool = True, pause: Pause | None = None) -> View:
    """A look that finds so many pending uploads."""
    return View(Left(pending, 0, 0, 0, 0), has_daemon, pause)


def drained(at: Callable[[float], View], timeout: float | None = None) -> tuple[View, float]:
    """Wait while `at` tells what is found at a time; returns the last view and how long that took."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    last = wait_until_drained(lambda: at(now), timeout=timeout, wait=wait, clock=lambda: now)
    return last, now


def test_it_waits_for_as_long_as_a_daemon_works() -> None:
    last, seconds = drained(lambda now: view(0 if now >= 10_000 else 1))
    assert (last.left.moving, seconds) == (0, 10_000)


def test_a_daemon_that_is_restarted_has_time_to_come_back() -> None:
    def restarted_twice(now: float) -> View:
        return view(0 if now >= 100 else 1, has_daemon=not (10 < now < 35 or 40 < now < 65))

    assert drained(restarted_twice)[1] == 100


def test_without_any_daemon_it_ends_after_a_while_and_says_why() -> None:
    last, seconds = drained(lambda now: view(has_daemon=now < 5))
    assert (last.reason, seconds) == ("no daemon runs that could upload them.", 4 + PATIENCE_SECONDS)


def test_a_pause_ends_the_wait_at_once() -> None:
    last, seconds = drained(lambda now: view(pause=PAUSE if now >= 3 else None))
    assert (seconds, "the line is needed" in last.reason) == (3, True)


@pytest.mark.parametrize("found", [view(pause=PAUSE), view(has_daemon=False), view()])
def test_with_a_timeout_what_is_in_the_way_may_pass(found: View) -> None:
    assert drained(lambda now: view(0) if now >= 50 else found, timeout=60)[1] == 50
    last, seconds = drained(lambda _: found, timeout=60.5)
    assert (last, seconds) == (found, 60.5)


def test_nothing_left_is_no_wait_whoever_runs() -> None:
    looks: Iterator[View] = iter([view(0, has_daemon=False, pause=PAUSE)])
    assert drained(lambda _: next(looks))[1] == 0


def test_what_is_only_to_be_published_is_waited_for_during_a_pause() -> None:
    last, seconds = drained(lambda now: View(Left(0, 1 if now < 9 else 0, 0, 0, 0), True, PAUSE))
    assert (last.left.moving, seconds) == (0, 9)
