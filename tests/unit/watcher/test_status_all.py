"""`status --all`: every daemon that uses a database, and those that share a directory."""

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
from watcher.cli.status import print_all
from watcher.operations.daemons import summarize_all

# The fixtures are named as parameters below.
# ruff: noqa: F811

COUNTS = ["pending", "verified", "published", "released", "rejected", "failed", "gone", "superseded"]


def report(ledger: Ledger, phase: str = "running", **changes: object) -> None:
    """Write a report as a daemon does."""
    values = {"phase": phase, "ledger": ledger.instance, "directory": "/srv", "bytes_per_second": 2048}
    ledger.heartbeat({**values, "published_per_minute": 1.5, "paused": {}, **changes})  # type: ignore[dict-item]


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    """Four daemons: two share a directory, one has stopped, one fell silent."""
    shared = [Ledger(database, "shared:/srv", worker=name, clock=clock) for name in ("a", "b")]
    stopped, silent = (Ledger(database, name, clock=clock) for name in ("c", "d"))
    report(stopped, "stopped")
    report(silent)
    clock.advance(minutes=2)
    for one in shared:
        report(one, paused={"upload": "No credentials."} if one.worker == "b" else {})
    clock.advance(seconds=29)
    enqueue(shared[0])
    enqueue(stopped)
    enqueue(Ledger(database, "by hand", clock=clock))
    return shared[0]


def test_every_daemon_is_running_stopped_or_silent_by_the_databases_clock(ledger: Ledger) -> None:
    summary = summarize_all(ledger)["instances"]
    assert isinstance(summary, list)
    assert [(one["instance"], one["condition"], one["heartbeat_seconds_ago"]) for one in summary] == [
        ("a", "running", 29),
        ("b", "running", 29),
        ("c", "stopped", 149),
        ("d", "silent", 149),
    ]
    assert [one["bytes_per_second"] for one in summary] == [2048, 2048, 0, 0]
    assert [one["directory"] for one in summary] == ["/srv"] * 4


def test_what_is_counted_together_is_shown_to_be(ledger: Ledger) -> None:
    """Each ledger is listed once, so that its counts can be added up."""
    summary = summarize_all(ledger)
    assert isinstance(summary["instances"], list)
    assert isinstance(summary["ledgers"], list)
    assert [one["shares_ledger_with"] for one in summary["instances"]] == [["b"], ["a"], [], []]
    assert [one["counts"]["pending"] for one in summary["instances"]] == [1, 1, 1, 0]
    assert [(one["ledger"], one["instances"], one["counts"]["pending"]) for one in summary["ledgers"]] == [
        ("by hand", [], 1),
        ("c", ["c"], 1),
        ("d", ["d"], 0),
        ("shared:/srv", ["a", "b"], 1),
    ]
    assert list(summary["ledgers"][0]["counts"]) == COUNTS


def test_the_tables_show_the_same(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    print_all(ledger)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "a running 29 s ago 2.0 KiB/s 1.5 a minute /srv" in lines
    assert "d silent 2 min 29 s ago - - /srv" in lines
    assert "b: upload paused: No credentials." in lines
    assert "a + b 1 0 0 0 0 0 0 0" in lines
    assert lines[-1].startswith("Daemons joined by '+'")
