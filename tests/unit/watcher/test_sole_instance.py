"""A daemon refuses to start beside another one of its INSTANCE_ID, and notices one that appears."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from db import Database, Ledger, Steering
from db.fields import Dialect, parse_time
from tests.support.database_fixtures import (  # noqa: F401  # fixtures
    address,
    clock,
    database,
    postgres_address,
    sqlite_address,
)
from tests.support.databases import Clock, DatabaseAddress
from watcher.app.sole_instance import BEATS_SECONDS, Host, SoleInstance
from watcher.filesystem.instance_lock import InstanceRunningError
from watcher.supervision.liveness import FRESH
from watcher.telemetry import Metrics

# The fixtures are named as parameters below.
# ruff: noqa: F811

HERE = Host("machine", "boot", "here")
RUNNING = {"phase": "running"}


@dataclass
class Instances:
    """Daemons of one name on hosts that a test chooses."""

    database: Database
    clock: Clock
    metrics: Metrics = field(default_factory=Metrics)

    def make(self, host: Host = HERE) -> SoleInstance:
        ledger = Ledger(self.database, "main", clock=self.clock)
        return SoleInstance(ledger, self.metrics, host, clock=self.seconds)

    def seconds(self) -> float:
        return self.clock.now.timestamp()

    def conflict_metric(self) -> float | None:
        return self.metrics.registry.get_sample_value("video_uploader_instance_conflict")


@pytest.fixture
def instances(database: Database, clock: Clock) -> Instances:
    return Instances(database, clock)


def no_wait(_seconds: float) -> bool:
    pytest.fail("it must not wait")


def waiting(
    clock: Clock, then: Callable[[], None] = lambda: None
) -> tuple[Callable[[float], bool], list[float]]:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.advance(seconds=seconds)
        then()
        return False

    return wait, waits


def test_a_daemon_that_is_alive_on_another_machine_keeps_this_one_from_starting(
    instances: Instances, clock: Clock
) -> None:
    elsewhere = instances.make(Host("other", "its boot", "elsewhere"))
    elsewhere.heartbeat(RUNNING)
    clock.advance(seconds=FRESH.total_seconds())
    with pytest.raises(InstanceRunningError) as refused:
        instances.make().require(no_wait)
    for text in ("INSTANCE_ID main", f"process {os.getpid()} on host elsewhere", "30 s ago"):
        assert text in str(refused.value)
    clock.advance(seconds=1)
    instances.make().require(no_wait)


@pytest.mark.parametrize("phase", ["stopped", None])
def test_a_daemon_that_has_stopped_keeps_none_from_starting(instances: Instances, phase: str | None) -> None:
    instances.make(Host("other", "its boot", "elsewhere")).heartbeat({"phase": phase})
    instances.make().require(no_wait)


def test_a_daemon_starts_at_once_after_an_earlier_one_of_this_machine_was_killed(
    instances: Instances, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is free again, or it is this one's, as in a container, or its parent has not noticed."""
    instances.make().heartbeat(RUNNING)
    instances.make().require(no_wait)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        monkeypatch.setattr(os, "getpid", lambda: ended.pid)
        instances.make().heartbeat(RUNNING)
        monkeypatch.undo()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        instances.make().require(no_wait)
        ended.wait(timeout=30)
        instances.make().require(no_wait)


@pytest.mark.parametrize("change", [{"boot": "an earlier boot"}, {"boot": "that of a copy"}])
def test_a_fresh_heartbeat_of_another_boot_is_watched_and_only_one_that_goes_on_refuses(
    instances: Instances, clock: Clock, change: dict[str, str]
) -> None:
    other = instances.make(replace(HERE, **change))
    other.heartbeat(RUNNING)
    wait, waits = waiting(clock)
    instances.make().require(wait)
    assert waits == [1.0] * BEATS_SECONDS
    other.heartbeat(RUNNING)
    wait, waits = waiting(clock, lambda: other.heartbeat(RUNNING))
    with pytest.raises(InstanceRunningError, match="INSTANCE_ID"):
        instances.make().require(wait)
    assert waits == [1.0]
    other.heartbeat(RUNNING)
    instances.make().require(lambda _: True)


def test_a_process_of_this_boot_that_lives_is_watched(
    instances: Instances, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have another state directory, and with it another lock; or the number was given again."""
    monkeypatch.setattr(os, "getpid", os.getppid)
    other = instances.make()
    other.heartbeat(RUNNING)
    monkeypatch.undo()
    wait, _ = waiting(clock, lambda: other.heartbeat(RUNNING))
    with pytest.raises(InstanceRunningError):
        instances.make().require(wait)


def test_one_that_appears_later_is_told_by_both_until_it_has_ended(
    instances: Instances, clock: Clock
) -> None:
    """Two that start at the same moment do not see each other before."""
    one, two = instances.make(), instances.make(Host("other", "its boot", "elsewhere"))
    with capture_logs() as logged:
        for _ in range(3):
            one.heartbeat(RUNNING)
            two.heartbeat(RUNNING)
            clock.advance(seconds=5)
        one.heartbeat(RUNNING)
    assert "on host elsewhere" in (one.conflict or "")
    assert "on host here" in (two.conflict or "")
    assert [(line["event"], line["log_level"]) for line in logged] == [("instance_conflict", "error")] * 2
    assert instances.conflict_metric() == 1
    clock.advance(seconds=5)
    one.heartbeat(RUNNING)
    report = one.ledger.instance_report()
    assert report is not None
    assert report.report["conflict"] == one.conflict
    clock.advance(seconds=FRESH.total_seconds() + 1)
    one.heartbeat(RUNNING)
    assert (one.conflict, instances.conflict_metric()) == (None, 0)


@pytest.mark.parametrize("change", ["none", "older", "other", "new", "no record", "damaged record"])
def test_a_ledger_that_lacks_the_last_heartbeat_of_this_machine_is_told_once(
    instances: Instances, address: DatabaseAddress, clock: Clock, tmp_path: Path, change: str
) -> None:
    record = tmp_path / "heartbeat"
    before = instances.make()
    before.heartbeat(RUNNING)
    older = clock.now
    before.record = str(record)
    clock.advance(hours=1)
    before.heartbeat(RUNNING)
    heartbeats: Any = instances.database.tables.instances
    with instances.database.operation("restore an older ledger"):
        match change:
            case "older":
                heartbeats.update(heartbeat_at=older).execute()
            case "other":
                heartbeats.update(instance="other").execute()
            case "new":
                heartbeats.delete().execute()
            case "no record":
                record.unlink()
                heartbeats.delete().execute()
            case "damaged record":
                record.write_text("2024-", encoding="ascii")
                heartbeats.delete().execute()
    with closing(address.open()) as database:
        ledger = Ledger(database, "main", clock=clock)
        after = SoleInstance(ledger, instances.metrics, HERE, record=str(record))
        for is_told in (change in {"older", "other", "new"}, False):
            with capture_logs() as logged:
                after.warn_of_older_ledger()
            assert [line["event"] for line in logged] == ["ledger_older"] * is_told
            after.heartbeat(RUNNING)


def test_a_ledger_is_known_to_be_unchanged_since_the_last_heartbeat_on_sqlite(
    instances: Instances, database: Database
) -> None:
    one = instances.make()
    with database.session():
        assert not one.is_ledger_unchanged
        for _ in range(2):
            one.heartbeat(RUNNING)
            one.ledger.counts()
            assert one.is_ledger_unchanged == (database.dialect is Dialect.SQLITE)


def test_a_commit_of_any_process_changes_the_ledger(
    instances: Instances, address: DatabaseAddress, clock: Clock
) -> None:
    """A copy from before lacks it, and has to differ in its heartbeat."""
    one = instances.make()
    with closing(address.open()) as elsewhere, instances.database.session():
        for database in (instances.database, elsewhere):
            one.heartbeat(RUNNING)
            clock.advance(seconds=5)
            Steering(Ledger(database, "main", clock=clock)).pause("a commit")
            assert not one.is_ledger_unchanged
        one.heartbeat(RUNNING)
        instances.make(Host("other", "its boot", "elsewhere")).heartbeat(RUNNING)
        assert not one.is_ledger_unchanged


def test_a_ledger_may_have_changed_without_a_connection_that_is_kept(instances: Instances) -> None:
    one = instances.make()
    one.heartbeat(RUNNING)
    assert not one.is_ledger_unchanged


def test_the_time_of_the_last_heartbeat_is_kept_in_one_file(
    instances: Instances, clock: Clock, tmp_path: Path
) -> None:
    """A new one for each would have the disk free the old one."""
    record = tmp_path / "heartbeat"
    one = instances.make()
    one.record = str(record)
    found = set()
    for _ in range(3):
        clock.advance(seconds=5)
        one.heartbeat(RUNNING)
        assert parse_time(record.read_text(encoding="ascii").strip()) == one.ledger.heartbeat_at
        found.add(record.stat().st_ino)
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()].count("heartbeat.new") == 0


def test_this_host_is_the_same_in_every_process_of_a_boot() -> None:
    script = "from watcher.app.sole_instance import Host; print(Host.present())"
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == str(Host.present())
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert Host.present().boot == file.read().strip()
