"""The checks of this machine: a real directory, a real database, and what can be wrong with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from db import MIGRATIONS, Ledger, migrate
from storage import CheckResult, Outcome
from tests.support.harness import VIDEO_ID, settings_for
from watcher.app.factories import open_ledger_database
from watcher.filesystem import instance_lock
from watcher.operations import directory_checks
from watcher.operations.directory_checks import check_directory, check_disk
from watcher.operations.doctor import check_host
from watcher.settings import CatalogKind, Doubt, Settings

Checked = dict[str, CheckResult]
Unprivileged = Callable[[], AbstractContextManager[None]]


def by_name(results: Iterator[CheckResult]) -> Checked:
    found = list(results)
    assert len({result.name for result in found}) == len(found)
    assert all(result.remedy for result in found if result.outcome is not Outcome.OK)
    return {result.name: result for result in found}


def outcomes(checked: Checked, outcome: Outcome) -> set[str]:
    return {result.name for result in checked.values() if result.outcome is outcome}


@pytest.fixture
def completed(place: str) -> str:
    """A watched directory with one file in a video's directory."""
    directory = os.path.join(place, "completed", VIDEO_ID)
    os.makedirs(directory)
    with open(os.path.join(directory, "a_720p.mp4"), "wb") as file:
        file.write(b"content")
    return os.path.dirname(directory)


@pytest.fixture
def limits(tmp_path: Path) -> Callable[[int], str]:
    """A directory with made-up limits of inotify."""

    def make(watches: int, instances: int = 128) -> str:
        (tmp_path / "max_user_watches").write_text(f"{watches}\n")
        (tmp_path / "max_user_instances").write_text(f"{instances}\n")
        return str(tmp_path)

    return make


def everything_below(directory: str) -> list[str]:
    return sorted(os.path.join(above, name) for above, _, names in os.walk(directory) for name in names)


def test_a_good_directory_passes_every_check_and_is_as_it_was(
    completed: str, limits: Callable[..., str]
) -> None:
    before = everything_below(completed)
    checked = by_name(check_directory(completed, inotify=limits(100)))
    assert tuple(checked) == ("directory", *directory_checks.NAMES)
    assert outcomes(checked, Outcome.FAILED) == set()
    assert {"directory", "leases", "rename and unlink", "inotify"} <= outcomes(checked, Outcome.OK)
    assert everything_below(completed) == before


def test_a_directory_that_is_missing_fails_and_nothing_else_is_tried(place: str) -> None:
    checked = by_name(check_directory(os.path.join(place, "nowhere")))
    assert outcomes(checked, Outcome.FAILED) == {"directory"}
    assert outcomes(checked, Outcome.WARNING) == set(directory_checks.NAMES)
    assert "COMPLETED_DIR" in checked["directory"].remedy


def test_a_directory_that_others_may_not_read_fails(completed: str, unprivileged: Unprivileged) -> None:
    os.chmod(completed, 0o000)
    with unprivileged():
        checked = by_name(check_directory(completed))
    os.chmod(completed, 0o755)
    assert outcomes(checked, Outcome.FAILED) == {"directory"}


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
@pytest.mark.parametrize("inner", [VIDEO_ID, f"{VIDEO_ID}/a_720p.mp4"])
def test_what_cannot_be_read_below_the_directory_is_named(
    completed: str, unprivileged: Unprivileged, inner: str
) -> None:
    os.chmod(os.path.join(completed, inner), 0o000)
    with unprivileged():
        directory = by_name(check_directory(completed))["directory"]
    assert directory.outcome is Outcome.FAILED
    assert inner in directory.detail


def test_the_file_system_is_told_and_one_where_leases_prove_nothing_is_a_warning() -> None:
    checked = by_name(check_directory("/proc/self/task"))
    assert checked["directory"].outcome is Outcome.WARNING
    assert "proc" in checked["directory"].detail
    assert "SETTLE_SECONDS" in checked["directory"].remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_a_directory_that_cannot_be_written_cannot_release(
    completed: str, unprivileged: Unprivileged
) -> None:
    with unprivileged():
        checked = by_name(check_directory(completed))
    assert outcomes(checked, Outcome.FAILED) == {"leases", "rename and unlink"}
    assert "user who writes the files" in checked["rename and unlink"].remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_a_videos_directory_that_cannot_be_written_cannot_release_though_the_one_above_can(
    completed: str, unprivileged: Unprivileged
) -> None:
    os.chmod(completed, 0o777)
    with unprivileged():
        checked = by_name(check_directory(completed))
    assert outcomes(checked, Outcome.FAILED) == {"rename and unlink"}
    assert VIDEO_ID in checked["rename and unlink"].detail


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_a_lease_on_somebody_elses_file_takes_that_user_or_a_capability(
    completed: str, unprivileged: Unprivileged
) -> None:
    os.chmod(completed, 0o777)
    with unprivileged():
        leases = by_name(check_directory(completed))["leases"]
    assert leases.outcome is Outcome.WARNING
    assert "CAP_LEASE" in leases.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_the_sticky_bit_keeps_others_from_releasing(completed: str, unprivileged: Unprivileged) -> None:
    os.chmod(os.path.join(completed, VIDEO_ID), stat.S_ISVTX | 0o777)
    os.chmod(completed, 0o777)
    with unprivileged():
        checked = by_name(check_directory(completed))
    assert outcomes(checked, Outcome.FAILED) == {"rename and unlink"}
    assert "sticky" in checked["rename and unlink"].detail


@pytest.mark.parametrize("refused", ["rename", "link", "unlink"])
def test_each_step_of_a_release_is_really_tried_and_nothing_is_left(
    completed: str, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    before = everything_below(completed)
    real = getattr(os, refused)
    calls = []

    def refuse_once(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        # The first two are those of the lease's trial, which removes what may be there.
        if len(calls) == (3 if refused == "unlink" else 1):
            raise PermissionError(1, "Operation not permitted")
        real(*arguments, **options)

    monkeypatch.setattr(os, refused, refuse_once)
    check = by_name(check_directory(completed))["rename and unlink"]
    monkeypatch.undo()
    assert check.outcome is Outcome.FAILED
    assert "Operation not permitted" in check.detail
    assert everything_below(completed) == before


@pytest.mark.parametrize(
    ("watches", "instances", "outcome"),
    [(1, 128, Outcome.FAILED), (3, 128, Outcome.WARNING), (4, 128, Outcome.OK), (4, 0, Outcome.FAILED)],
)
def test_inotifys_limits_are_held_against_the_number_of_directories(
    completed: str, limits: Callable[..., str], watches: int, instances: int, outcome: Outcome
) -> None:
    inotify = by_name(check_directory(completed, inotify=limits(watches, instances)))["inotify"]
    assert inotify.outcome is outcome


def test_limits_that_cannot_be_read_are_a_warning(completed: str, tmp_path: Path) -> None:
    inotify = by_name(check_directory(completed, inotify=str(tmp_path / "nowhere")))["inotify"]
    assert inotify.outcome is Outcome.WARNING


@pytest.mark.parametrize(
    ("free", "outcome"), [(0, Outcome.FAILED), (1 << 30, Outcome.WARNING), (500 << 30, Outcome.OK)]
)
def test_free_disk_space(place: str, monkeypatch: pytest.MonkeyPatch, free: int, outcome: Outcome) -> None:
    block = 4096
    scarce = os.statvfs_result(
        (block, block, (1 << 40) // block, free // block, free // block, 9, 9, 9, 0, 255)
    )
    monkeypatch.setattr(os, "statvfs", lambda _: scarce)
    assert check_disk("disk space", place).outcome is outcome


@pytest.fixture
def lock(place: str) -> str:
    return os.path.join(place, "instance.lock")


@pytest.fixture
def settings(place: str) -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        return settings_for(place, "http://127.0.0.1:9", **changes)

    return make


def checked_host(settings: Settings, lock: str) -> Checked:
    return by_name(check_host(settings, lock, []))


def test_settings_without_effect_are_a_warning(settings: Callable[..., Settings], lock: str) -> None:
    found = by_name(check_host(settings(POSTGRES_HOST="db.example", DATABASE_SCHEMA="s"), lock, []))[
        "settings"
    ]
    assert found.outcome is Outcome.WARNING
    assert "POSTGRES_HOST: DATABASE_URL is set" in found.detail
    assert "DATABASE_SCHEMA: The database is SQLite" in found.detail
    assert "settings" not in by_name(check_host(settings(), lock, []))


def test_what_is_doubtful_in_the_settings_is_a_warning(settings: Callable[..., Settings], lock: str) -> None:
    doubts = [Doubt("KEEP_LOCALS", "/etc/x.env:3", "There is no such setting.")]
    found = by_name(check_host(settings(), lock, doubts))["settings"]
    assert found.outcome is Outcome.WARNING
    assert "KEEP_LOCALS (/etc/x.env:3): There is no such setting." in found.detail


def test_before_the_first_start_the_database_is_only_missing(
    settings: Callable[..., Settings], lock: str
) -> None:
    made = settings()
    checked = checked_host(made, lock)
    assert outcomes(checked, Outcome.FAILED) == set()
    assert {"database", "schema", "catalog"} <= outcomes(checked, Outcome.WARNING)
    assert not os.path.exists(made.ledger_url.removeprefix("sqlite://"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a directory of another user needs root")
def test_a_database_that_could_not_be_made_fails(
    settings: Callable[..., Settings], lock: str, unprivileged: Unprivileged
) -> None:
    made = settings()
    with unprivileged():
        database = checked_host(made, lock)["database"]
    assert database.outcome is Outcome.FAILED
    assert "STATE_DIRECTORY" in database.remedy


def test_an_up_to_date_database_passes(settings: Callable[..., Settings], lock: str) -> None:
    made = settings()
    with closing(open_ledger_database(made)) as database:
        migrate(database)
    checked = checked_host(made, lock)
    assert {"database", "schema", "catalog", "daemon"} <= outcomes(checked, Outcome.OK)
    assert "disk space of the ledger" in checked
    assert MIGRATIONS[-1] in checked["schema"].detail


def test_changes_that_are_due_are_named(settings: Callable[..., Settings], lock: str) -> None:
    made = settings()
    with closing(open_ledger_database(made)):
        pass
    checked = checked_host(made, lock)
    assert {"schema", "catalog"} <= outcomes(checked, Outcome.WARNING)
    assert "0001_initial" in checked["schema"].detail
    assert checked["database"].outcome is Outcome.OK


def test_a_file_that_is_no_database_fails(settings: Callable[..., Settings], lock: str) -> None:
    made = settings()
    path = made.ledger_url.removeprefix("sqlite://")
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(b"no database at all " * 100)
    assert "database" in outcomes(checked_host(made, lock), Outcome.FAILED)


def test_a_database_that_is_away_fails_without_telling_its_password(
    settings: Callable[..., Settings], lock: str
) -> None:
    checked = checked_host(settings(DATABASE_URL="postgresql://u:s3cr3t@127.0.0.1:1/db", CATALOG="own"), lock)
    assert outcomes(checked, Outcome.FAILED) == {"database"}
    assert {"schema", "catalog", "daemon"} <= set(checked)
    assert not any("s3cr3t" in result.detail + result.remedy for result in checked.values())


@pytest.mark.parametrize(
    ("catalog", "outcome"), [("own", Outcome.FAILED), ("none", Outcome.OK), ("compressor", Outcome.FAILED)]
)
def test_a_catalog_whose_table_is_gone_fails_unless_none_is_kept(
    settings: Callable[..., Settings], lock: str, catalog: str, outcome: Outcome
) -> None:
    # Copied, because the settings of a compressor on SQLite are refused.
    made = settings().model_copy(update={"catalog": CatalogKind(catalog)})
    with closing(open_ledger_database(made)) as database:
        migrate(database)
        with database.operation("drop the table") as connected:
            connected.execute_sql("DROP TABLE video_qualities")
    assert checked_host(made, lock)["catalog"].outcome is outcome


def heartbeat(settings: Settings, *, age: timedelta, phase: str = "running") -> None:
    with closing(open_ledger_database(settings)) as database:
        migrate(database)
        now = datetime.now(UTC)
        Ledger(database, settings.instance, clock=lambda: now - age).heartbeat({"phase": phase})


def test_the_daemon_that_holds_the_lock_is_the_one(settings: Callable[..., Settings], lock: str) -> None:
    made = settings()
    heartbeat(made, age=timedelta())
    with instance_lock.held(lock):
        daemon = checked_host(made, lock)["daemon"]
    assert (daemon.outcome, "is running" in daemon.detail) == (Outcome.OK, True)


def test_a_heartbeat_without_the_lock_is_of_a_second_daemon(
    settings: Callable[..., Settings], lock: str
) -> None:
    made = settings()
    heartbeat(made, age=timedelta(seconds=5))
    daemon = checked_host(made, lock)["daemon"]
    assert daemon.outcome is Outcome.WARNING
    assert "INSTANCE_ID" in daemon.remedy


@pytest.mark.parametrize(
    ("age", "phase"), [(timedelta(minutes=5), "running"), (timedelta(seconds=1), "stopped")]
)
def test_the_last_heartbeat_of_a_daemon_that_ended_is_no_second_one(
    settings: Callable[..., Settings], lock: str, age: timedelta, phase: str
) -> None:
    made = settings()
    heartbeat(made, age=age, phase=phase)
    daemon = checked_host(made, lock)["daemon"]
    assert (daemon.outcome, "No daemon" in daemon.detail) == (Outcome.OK, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a lock of another user needs root")
def test_a_lock_that_cannot_be_asked_fails(
    settings: Callable[..., Settings], lock: str, unprivileged: Unprivileged
) -> None:
    made = settings()
    with instance_lock.held(lock), unprivileged():
        assert checked_host(made, lock)["daemon"].outcome is Outcome.FAILED
