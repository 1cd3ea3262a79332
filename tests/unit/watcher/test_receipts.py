"""The daemon folds what was released, and forgets it if it is configured to, but not what it needs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from db import Ledger, State, migrate, open_database, sqlite_url
from tests.support.databases import Clock, advance_to, enqueue
from watcher.filesystem.tree import Tree
from watcher.stages.receipts import EXPIRY_SECONDS, FOLDED_AT_ONCE, ReceiptKeeper

KEEP_DAYS = 30


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: object, clock: Clock) -> Iterator[Ledger]:
    with closing(open_database(sqlite_url(f"{tmp_path}/ledger"))) as database, database.session():
        migrate(database)
        yield Ledger(database, "main", clock=clock)


def paths(ledger: Ledger) -> set[str]:
    return {upload.path for upload in ledger.uploads(state=State.RELEASED)}


def keeper(ledger: Ledger, tree: Tree, keep_days: int | None = KEEP_DAYS) -> ReceiptKeeper:
    return ReceiptKeeper(ledger, tree, keep_days=keep_days, clock=lambda: ledger.now().timestamp())


@pytest.fixture
def released(ledger: Ledger) -> None:
    for name in "ab":
        advance_to(ledger, enqueue(ledger, f"v/{name}_720p.mp4"), State.RELEASED)
    enqueue(ledger, "v/c_720p.mp4")


def put(place: str, path: str) -> None:
    os.makedirs(os.path.dirname(f"{place}/{path}"), exist_ok=True)
    with open(f"{place}/{path}", "wb") as file:
        file.write(b"x")


def test_all_that_was_released_is_folded_in_batches(ledger: Ledger, tree: Tree) -> None:
    with ledger.database.transaction():
        for number in range(FOLDED_AT_ONCE + 2):
            advance_to(ledger, enqueue(ledger, f"v/{number}_720p.mp4"), State.RELEASED)
    beats: list[None] = []
    assert not keeper(ledger, tree).run_due(threading.Event(), lambda: beats.append(None))
    assert len(beats) >= 2
    assert len(ledger.receipts.page(None)) == FOLDED_AT_ONCE + 1
    assert ledger.counts()[State.RELEASED] == FOLDED_AT_ONCE + 2


def test_nothing_is_folded_when_the_daemon_stops(ledger: Ledger, tree: Tree, released: None) -> None:
    stopping = threading.Event()
    stopping.set()
    keeper(ledger, tree).run_due(stopping)
    assert ledger.receipts.page(None) == []


def test_a_receipt_expires_unless_its_file_is_there(
    ledger: Ledger, tree: Tree, place: str, clock: Clock, released: None
) -> None:
    put(place, "v/a_720p.mp4")
    keeps = keeper(ledger, tree)
    keeps.run_due(threading.Event())
    clock.advance(days=KEEP_DAYS)
    keeps.run_due(threading.Event())
    assert paths(ledger) == {"v/a_720p.mp4", "v/b_720p.mp4"}
    clock.advance(days=1)
    keeps.run_due(threading.Event())
    assert paths(ledger) == {"v/a_720p.mp4"}
    os.remove(f"{place}/v/a_720p.mp4")
    put(place, "another.txt")
    clock.advance(seconds=EXPIRY_SECONDS)
    keeps.run_due(threading.Event())
    assert paths(ledger) == set()


def test_no_receipt_expires_while_the_directory_may_not_be_mounted(
    ledger: Ledger, tree: Tree, clock: Clock, released: None
) -> None:
    clock.advance(days=KEEP_DAYS + 1)
    keeper(ledger, tree).run_due(threading.Event())
    assert paths(ledger) == {"v/a_720p.mp4", "v/b_720p.mp4"}


def test_no_receipt_expires_by_default(
    ledger: Ledger, tree: Tree, place: str, clock: Clock, released: None
) -> None:
    put(place, "another.txt")
    clock.advance(days=36500)
    keeper(ledger, tree, None).run_due(threading.Event())
    assert paths(ledger) == {"v/a_720p.mp4", "v/b_720p.mp4"}
