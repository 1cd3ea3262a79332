"""What `status` says of a daemon's last report about itself."""

from datetime import UTC, datetime

import pytest

from db import JSON, InstanceReport
from watcher.cli.show import report_lines


def report(**said: JSON) -> InstanceReport:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    return InstanceReport(instance="test", pid=1, started_at=now, heartbeat_at=now, report=said)


def test_a_disk_that_is_too_full_is_told() -> None:
    (line,) = report_lines(report(disk={"used_percent": 93.1, "limit_percent": 90, "is_high": True}))
    assert "93.1 % full" in line
    assert "DISK_PRESSURE_PERCENT is 90" in line


@pytest.mark.parametrize("said", [{}, {"disk": {"used_percent": 3, "limit_percent": 90, "is_high": False}}])
def test_a_disk_with_room_is_not(said: dict[str, JSON]) -> None:
    assert report_lines(report(**said)) == []
