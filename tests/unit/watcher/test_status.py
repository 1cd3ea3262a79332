"""A daemon's last report, as `status` shows it."""

from datetime import UTC, datetime

import pytest

from db import JSON, InstanceReport
from watcher.cli.status import report_lines


def report(**values: JSON) -> InstanceReport:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    return InstanceReport(instance="test", pid=1, started_at=now, heartbeat_at=now, report=values)


def test_the_database_of_the_daemon_is_named() -> None:
    assert report_lines(report(database="db2.example:5432")) == ["the database is db2.example:5432"]


def test_files_that_are_hashed_again_are_counted() -> None:
    lines = report_lines(report(settling=5, to_hash_again=3))
    assert lines[1].startswith("3 of them are known, were touched since")


def test_a_line_that_is_slow_is_shown() -> None:
    (line,) = report_lines(report(slow_line=64_000))
    assert line.startswith("the line to S3 is slow, 64000 bytes per second")
    assert report_lines(report(slow_line=None)) == []


def test_a_disk_that_is_too_full_is_shown() -> None:
    (line,) = report_lines(report(disk={"used_percent": 93.1, "limit_percent": 90, "is_high": True}))
    assert "93.1 % full" in line
    assert "DISK_PRESSURE_PERCENT is 90" in line


@pytest.mark.parametrize("values", [{}, {"disk": {"used_percent": 3, "limit_percent": 90, "is_high": False}}])
def test_a_disk_with_room_is_not(values: dict[str, JSON]) -> None:
    assert report_lines(report(**values)) == []


def test_what_is_set_aside_is_counted_with_the_latest_error() -> None:
    kinds: list[JSON] = [{"items": "files", "count": 3, "error": "OverflowError: too large"}]
    assert report_lines(report(set_aside=kinds)) == [
        "3 files are set aside after errors, and are tried again: OverflowError: too large"
    ]


def test_ignored_files_of_ready_rows_are_listed_with_the_reason() -> None:
    ignored: JSON = {"count": 30, "first": {"v/.a.mp4": "it matches .* of IGNORE_PATTERNS"}}
    assert report_lines(report(ready_files_ignored=ignored)) == [
        "30 files of ready catalog rows are ignored, among them:",
        "  v/.a.mp4: it matches .* of IGNORE_PATTERNS",
    ]
    assert report_lines(report(ready_files_ignored={"count": 0, "first": {}})) == []


def test_ready_rows_without_a_file_are_listed_with_the_row() -> None:
    missing: JSON = {"count": 30, "first": {"v/a.mp4": "catalog row 1 (720p) is ready since yesterday"}}
    assert report_lines(report(ready_files_missing=missing)) == [
        "30 ready catalog rows have no file and no object, among them:",
        "  v/a.mp4: catalog row 1 (720p) is ready since yesterday",
    ]
    assert report_lines(report(ready_files_missing={"count": 0, "first": {}})) == []


def test_what_stays_in_quarantine_and_who_has_the_same_name_is_shown() -> None:
    lines = report_lines(
        report(conflict="Another daemon has it.", quarantined={"v/.x.aside": "It belongs to another ledger."})
    )
    assert lines == [
        "Another daemon has it.",
        "v/.x.aside stays in quarantine: It belongs to another ledger.",
    ]
