"""How often the catalog is queried: at short intervals while a file is fresh, and at growing ones after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from db import DatabaseError, ErrorKind
from tests.support.harness import Harness
from watcher.catalog.catalog_thread import (
    MAX_INTERVAL_SECONDS,
    MIN_INTERVAL_SECONDS,
    CatalogThread,
)
from watcher.catalog.gate import FRESH, CatalogGate
from watcher.catalog.republisher import Republisher


@dataclass
class Scripted:
    """Stands for gate and republisher: counts calls, and `fail` may raise."""

    now: float = 1000.0
    asked: list[bool] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    checked: list[bool] = field(default_factory=list)
    reverted: int = 0
    fail: Callable[[], None] = lambda: None

    def admit_waiting(self, *, fresh_only: bool = False) -> int:
        self.fail()
        self.asked.append(fresh_only)
        return 0

    def check_recent(self) -> int:
        self.reverted += 1
        return 0

    def check_new(self, *, fresh_only: bool = False) -> int:
        self.checked.append(fresh_only)
        return 0

    def watch(self, video_id: str) -> None:
        self.watched.append(video_id)


@pytest.fixture
def script() -> Scripted:
    return Scripted()


@pytest.fixture
def catalog_thread(harness: Harness, script: Scripted) -> CatalogThread:
    return CatalogThread(
        cast("CatalogGate", script),
        cast("Republisher", script),
        supervisor=harness.app.supervisor,
        clock=lambda: script.now,
    )


def test_everything_is_asked_for_at_the_start_and_every_five_seconds(
    catalog_thread: CatalogThread, script: Scripted
) -> None:
    assert catalog_thread.run_due() == MAX_INTERVAL_SECONDS
    script.now += MAX_INTERVAL_SECONDS / 2
    assert catalog_thread.run_due() == MAX_INTERVAL_SECONDS / 2
    script.now += MAX_INTERVAL_SECONDS / 2
    catalog_thread.run_due()
    assert (script.asked, script.checked, script.reverted) == ([False, False], [False, False], 2)


def test_the_rows_of_a_video_are_checked_as_soon_as_a_file_of_it_is_found(
    catalog_thread: CatalogThread, script: Scripted
) -> None:
    catalog_thread.run_due()
    catalog_thread.check_rows("a video")
    script.now += MIN_INTERVAL_SECONDS
    assert catalog_thread.run_due() == MIN_INTERVAL_SECONDS
    assert (script.watched, script.checked) == (["a video"], [False, True])


def test_a_fresh_file_is_asked_for_every_50_ms_and_less_and_less_often(
    catalog_thread: CatalogThread, script: Scripted
) -> None:
    catalog_thread.run_due()
    catalog_thread.check_gate()
    waits = []
    began = script.now
    while script.now < began + 120:
        waits.append(wait := catalog_thread.run_due())
        script.now += wait
    assert waits[:5] == [MIN_INTERVAL_SECONDS] * 5
    assert max(waits) <= MAX_INTERVAL_SECONDS
    assert waits[-1] > MAX_INTERVAL_SECONDS / 2
    fresh = script.asked.count(True)
    assert 20 < fresh < FRESH.total_seconds() / MIN_INTERVAL_SECONDS
    assert len(script.asked) < 150


def test_a_database_that_does_not_answer_is_queried_again(
    catalog_thread: CatalogThread, script: Scripted
) -> None:
    def away() -> None:
        if len(script.asked) < 1:
            script.asked.append(True)
            raise DatabaseError(ErrorKind.TRANSIENT, "ask", "it is away", "Wait.")
        catalog_thread.request_stop()

    script.fail = away
    catalog_thread.start()
    assert catalog_thread.join(10)
    assert script.asked == [True, False]
    assert catalog_thread.failure is None
