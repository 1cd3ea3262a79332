"""`status --all`: what is told of every daemon that uses a database, and of those that share a directory."""

from __future__ import annotations

import pytest

from db import Database, Ledger
from tests.support.database_fixtures import (  # noqa: F401  # fixtures
    address,
    clock,
    database,
    postgres_address,
    sqlite_address,
)
from tests.support.databases import Clock, enqueue
from watcher.cli import instances

# The fixtures are named as parameters below.
# ruff: noqa: F811

COUNTS = ["pending", "verified", "published", "released", "rejected", "failed", "gone", "superseded"]


def say(ledger: Ledger, phase: str = "running", **report: object) -> None:
    """What a daemon says of itself."""
    values = {"phase": phase, "ledger": ledger.instance, "directory": "/srv", "bytes_per_second": 2048}
    ledger.heartbeat({**values, "published_per_minute": 1.5, "paused": {}, **report})  # type: ignore[dict-item]


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    """Four daemons: two share a directory, one has stopped, one fell silent."""
    shared = [Ledger(database, "shared:/srv", worker=name, clock=clock) for name in ("a", "b")]
    stopped, silent = (Ledger(database, name, clock=clock) for name in ("c", "d"))
    say(stopped, "stopped")
    say(silent)
    clock.advance(minutes=2)
    for one in shared:
        say(one, paused={"upload": "No credentials."} if one.worker == "b" else {})
    clock.advance(seconds=29)
    enqueue(shared[0])
    enqueue(stopped)
    enqueue(Ledger(database, "by hand", clock=clock))
    return shared[0]


def test_every_daemon_is_running_stopped_or_silent_by_the_databases_clock(ledger: Ledger) -> None:
    told = instances.summary(ledger)["instances"]
    assert isinstance(told, list)
    assert [(one["instance"], one["condition"], one["heartbeat_seconds_ago"]) for one in told] == [
        ("a", "running", 29),
        ("b", "running", 29),
        ("c", "stopped", 149),
        ("d", "silent", 149),
    ]
    assert [one["bytes_per_second"] for one in told] == [2048, 2048, 0, 0]
    assert [one["directory"] for one in told] == ["/srv"] * 4


def test_what_is_counted_together_is_told_to_be(ledger: Ledger) -> None:
    """Whoever adds the counts up goes by the ledgers, each of which is there once."""
    told = instances.summary(ledger)
    assert isinstance(told["instances"], list)
    assert isinstance(told["ledgers"], list)
    assert [one["shares_ledger_with"] for one in told["instances"]] == [["b"], ["a"], [], []]
    assert [one["counts"]["pending"] for one in told["instances"]] == [1, 1, 1, 0]
    assert [(one["ledger"], one["instances"], one["counts"]["pending"]) for one in told["ledgers"]] == [
        ("by hand", [], 1),
        ("c", ["c"], 1),
        ("d", ["d"], 0),
        ("shared:/srv", ["a", "b"], 1),
    ]
    assert list(told["ledgers"][0]["counts"]) == COUNTS


def test_the_words_say_the_same(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    instances.print_all(ledger)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "a running 29 s ago 2.0 KiB/s 1.5 a minute /srv" in lines
    assert "d silent 2 min 29 s ago - - /srv" in lines
    assert "b: upload paused: No credentials." in lines
    assert "a + b 1 0 0 0 0 0 0 0" in lines
    assert lines[-1].startswith("Daemons joined by '+'")
