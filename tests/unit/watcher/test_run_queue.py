"""Threads with brief steps run one after the other, and no thread can keep the others waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from watcher.supervision.run_queue import RunQueue

SECONDS = 20.0
"""How long anything is waited for that happens at once unless something is broken."""
NEVER = 3600.0


def started(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread runs for too long."""
    monkeypatch.setattr("watcher.supervision.run_queue.RUN_SECONDS", NEVER)


@pytest.mark.usefixtures("patient")
def test_one_thread_runs_at_a_time() -> None:
    queue = RunQueue()
    running: list[int] = []
    most: list[int] = []

    def run() -> None:
        for _ in range(200):
            with queue.running():
                running.append(1)
                most.append(len(running))
                running.pop()

    threads = [started(run) for _ in range(4)]
    for thread in threads:
        thread.join(SECONDS)
    assert len(most) == 800
    assert max(most) == 1


@pytest.mark.usefixtures("patient")
def test_another_thread_runs_while_one_waits_and_not_before() -> None:
    queue = RunQueue()
    ran = threading.Event()

    def run() -> None:
        with queue.running():
            ran.set()

    with queue.running():
        thread = started(run)
        assert not ran.is_set()
        with queue.waiting():
            # What waits within a wait waits for no place.
            with queue.waiting():
                pass
            assert ran.wait(SECONDS)
        thread.join(SECONDS)


@pytest.mark.usefixtures("patient")
def test_a_step_and_a_wait_that_fail_leave_the_queue_in_order() -> None:
    queue = RunQueue()
    with suppress(ZeroDivisionError), queue.running(), queue.waiting():
        raise ZeroDivisionError
    ran = threading.Event()

    def run() -> None:
        with queue.running():
            ran.set()

    started(run).join(SECONDS)
    assert ran.is_set()


def test_a_thread_that_has_run_for_too_long_is_not_waited_for_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("watcher.supervision.run_queue.RUN_SECONDS", 0.001)
    queue = RunQueue(clock=lambda: now[0])
    passed = [threading.Event(), threading.Event()]

    def run(event: threading.Event) -> None:
        with queue.running():
            event.set()

    with queue.running():
        threads = [started(lambda: run(passed[0]))]
        assert not passed[0].wait(0.05)
        now[0] = 1.0
        assert passed[0].wait(SECONDS)
        threads.append(started(lambda: run(passed[1])))
        assert passed[1].wait(SECONDS)
    for thread in threads:
        thread.join(SECONDS)
    with queue.running():
        pass


def test_a_thread_outside_of_the_queue_waits_for_none_of_it() -> None:
    queue = RunQueue()
    with queue.waiting(), queue.running():
        pass


@pytest.mark.usefixtures("patient")
def test_the_queue_tells_whether_a_thread_waits_for_its_turn() -> None:
    queue = RunQueue()
    ran = threading.Event()

    def run() -> None:
        with queue.running():
            ran.set()

    seen = []
    with queue.running():
        seen.append(queue.is_contended)
        thread = started(run)
        deadline = time.monotonic() + SECONDS
        while not queue.is_contended:
            assert time.monotonic() < deadline
        with queue.waiting():
            assert ran.wait(SECONDS)
    thread.join(SECONDS)
    assert [*seen, queue.is_contended] == [False, False]
