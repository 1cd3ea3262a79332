"""What `top` shows, as text of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from io import StringIO

import pytest
from rich.console import Console

from db import JSON, Database, Ledger, State
from tests.support.database_fixtures import (  # noqa: F401  # fixtures
    address,
    clock,
    database,
    postgres_address,
    sqlite_address,
)
from tests.support.databases import Clock, advance_to, claim, enqueue
from tests.support.harness import settings_for
from watcher.cli.top import WIDTH, screen

# The fixtures are named as parameters below.
# ruff: noqa: F811

REPORT: Mapping[str, JSON] = {
    "phase": "running",
    "bytes_per_second": 3_000_000,
    "published_per_minute": 2.5,
    "paused": {"release": "the file system is read-only. " * 5},
    "uploads": [
        {
            "path": "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11/a very long name of a film that goes on_1080p.mp4",
            "size": 50 * 2**30,
            "bytes_sent": 25 * 2**30,
            "bytes_per_second": 3_000_000,
            "seconds_left": 8_900,
        }
    ],
}


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, "main", clock=clock)


def shown(ledger: Ledger, place: str) -> list[str]:
    console = Console(file=StringIO(), width=WIDTH, height=40)
    with console.capture() as captured:
        console.print(screen(settings_for(place, "http://127.0.0.1:1"), ledger))
    return captured.get().splitlines()


def test_what_moves_waits_and_failed_is_on_one_screen_of_80_columns(
    ledger: Ledger, clock: Clock, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.cli.top.daemon_is_running", lambda _: True)
    ledger.heartbeat(REPORT)
    advance_to(ledger, enqueue(ledger, "v/a_720p.mp4"), State.PUBLISHED)
    enqueue(ledger, "v/b\x1b[2J_720p.mp4")
    (upload,) = claim(ledger)
    clock.advance(minutes=3)
    ledger.postpone(upload, delay=timedelta(0), error="S3 said no. " * 20, error_code="AccessDenied")
    lines = shown(ledger, place)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert "the daemon is running" in lines[0]
    assert "2.9 MiB/s sent, 2.5 published a minute" in text
    assert "release paused: the file system is read-only." in text
    assert "on_1080p.mp4" in text
    assert "50.0 GiB" in text
    assert [line.split()[:2] for line in lines if line.startswith(("pending", "published"))] == [
        ["pending", "1"],
        ["published", "1"],
    ]
    assert "3 min" in next(line for line in lines if line.startswith("pending"))
    assert "S3 said no." in text
    assert "\x1b" not in text


def test_a_daemon_that_does_not_run_moves_nothing(ledger: Ledger, place: str) -> None:
    ledger.heartbeat(REPORT)
    text = "\n".join(shown(ledger, place))
    assert "the daemon is not running" in text
    assert "Nothing is being sent." in text
    assert "paused" not in text
