"""MAX_BANDWIDTH as a timetable: how it is read, and that the daemon keeps to it."""

import os
import queue
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.harness import MakeHarness
from watcher.app import Daemon, SoleInstance
from watcher.app.bandwidth import BandwidthLimit
from watcher.settings import Settings, SettingsError, load_settings
from watcher.settings.types import bandwidth_timetable
from watcher.supervision.sd_notify import SystemdNotifier

MB = 1_000_000


def with_limit(text: str) -> Settings:
    values: dict[str, Any] = {"COMPLETED_DIR": "/srv", "MAX_BANDWIDTH": text}
    return Settings(**values)


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 29, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "hour", "minute", "rate"),
    [
        ("20MB/s", 3, 0, 20 * MB),
        ("none", 3, 0, None),
        ("07:00 20MB/s 23:00 none", 6, 59, None),
        ("07:00 20MB/s 23:00 none", 7, 0, 20 * MB),
        ("07:00 20MB/s 23:00 none", 22, 59, 20 * MB),
        ("07:00 20MB/s 23:00 none", 23, 0, None),
        ("23:00 none  7:00 20 MB/s", 12, 0, 20 * MB),
        ("12:30 8Mbit/s", 0, 0, MB),
    ],
)
def test_the_rate_is_that_of_the_latest_entry_and_wraps_at_midnight(
    text: str, hour: int, minute: int, rate: float | None
) -> None:
    assert with_limit(text).bandwidth_at(at(hour, minute)) == rate


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24:00 20MB/s", "'24:00' is not a time of day"),
        ("07:60 20MB/s", "'07:60' is not a time of day"),
        ("07:00 20MB/s 23.00 none", "'20MB/s 23.00 none' is not a rate"),
        ("07:00 20XB/s 23:00 none", "'20XB/s' is not a rate"),
        ("07:00 0MB/s", "'0MB/s' is not a rate above zero"),
        ("20MB/s 23:00 none", "'20MB/s' stands before the first time of day"),
        ("07:00 20MB/s 23:00", "no rate follows '23:00'"),
        ("07:00 23:00 none", "no rate follows '07:00'"),
        ("07:00 1MB/s 7:00 none", "'7:00' is there twice"),
        ("fast", "'fast' is not a rate"),
    ],
)
def test_an_error_names_the_word_that_is_wrong(
    text: str, said: str, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPLETED_DIR", "/srv")
    monkeypatch.setenv("MAX_BANDWIDTH", text)
    with pytest.raises(ValueError, match="'"):
        bandwidth_timetable(text)
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert said in wrong.value.problems[0]
    assert "allowed:" in wrong.value.problems[0]


def test_a_clock_that_jumps_is_followed_at_the_next_look() -> None:
    """Nothing is computed ahead: an hour that is skipped, repeated or set back is the hour that counts."""
    now = [at(1, 59)]
    set_to: list[float | None] = []
    limit = BandwidthLimit(with_limit("02:30 1MB/s 03:30 none"), set_to.append, now=lambda: now[0])
    for moment in (at(3, 0), at(3, 30), at(2, 40), at(2, 45), at(2, 0)):
        now[0] = moment
        limit.apply()
    assert set_to == [None, MB, None, MB, None]


def test_the_daemon_changes_the_rate_at_its_time_and_reports_it(make_harness: MakeHarness) -> None:
    """The real main loop, with a clock that the test sets."""
    harness = make_harness(MAX_BANDWIDTH="07:00 20MB/s 23:00 none")
    store, now, changed = harness.app.context.store, [at(6, 59)], threading.Event()

    def set_rate(rate: float | None) -> None:
        store.set_bandwidth(rate)
        if rate is not None:
            changed.set()

    limit = BandwidthLimit(harness.app.settings, set_rate, now=lambda: now[0])
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    daemon = Daemon(
        replace(harness.app, bandwidth=limit),
        sole_instance=SoleInstance(harness.app.ledger, harness.app.context.metrics),
        notifier=SystemdNotifier(None),
        signals=signals,
        reload_settings=lambda: harness.app.settings,
    )
    daemon.prepare()
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        assert not changed.is_set()
        now[0] = at(7)
        signals.put(0)
        assert changed.wait(20)
        assert daemon.status.report("running")["max_bandwidth"] == 20 * MB
    finally:
        signals.put(15)
        thread.join(20)
    assert not thread.is_alive()
