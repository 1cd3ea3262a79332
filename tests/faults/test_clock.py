"""The wall clock jumps during uploads, as when an administrator sets it: no upload waits for it.

The daemon is the real one, its clock libfaketime's. The ledger is SQLite's, whose time is the daemon's own.
"""

from __future__ import annotations

import glob
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from db import State
from tests.faults.catalogue import CLOCKS, SKEWED
from tests.faults.files_at_stake import FilesAtStake
from tests.support.daemon_process import DaemonProcess, rows, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import VIDEO_ID, settings_for
from watcher.settings.model import Settings

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
"""Where Debian's package `faketime` and others put it; the one for programs with several threads."""

RETENTION_SECONDS = 3
RECOVERY_SECONDS = 15.0
MOST_SKEW = timedelta(minutes=15)
DAY = timedelta(days=1)
MOST_CLAIMS = 60
"""How often three files may be claimed, all stages together; a busy loop claims far more often."""

KEPT, FAILING, LATE = (f"{VIDEO_ID}/{name}_720p.mp4" for name in ("kept", "failing", "late"))


@dataclass(frozen=True)
class Clock:
    """The wall clock of a process that is started with `environment`: real time and an offset to it."""

    environment: dict[str, str]
    file: str

    def set(self, offset: timedelta) -> None:
        """Set the offset to the real time."""
        with open(f"{self.file}.new", "w") as file:
            file.write(f"{round(offset.total_seconds()):+d}")
        os.rename(f"{self.file}.new", self.file)


@pytest.fixture
def clock(place: str) -> Clock:
    """A clock that is right at first."""
    libraries = sorted(path for pattern in LIBRARIES for path in glob.glob(pattern))
    if not libraries:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    file = os.path.join(place, "clock")
    environment = {
        "LD_PRELOAD": libraries[0],
        "FAKETIME_TIMESTAMP_FILE": file,
        "FAKETIME_NO_CACHE": "1",
        # Setting the clock moves neither monotonic clocks nor the times of files.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    clock = Clock(environment, file)
    clock.set(timedelta(0))
    return clock


@pytest.fixture
def chosen(place: str, proxy: FaultProxy) -> Settings:
    return settings_for(place, proxy.url, RELEASE_AFTER_SECONDS=RETENTION_SECONDS)


@contextmanager
def daemon_with(clock: Clock, settings: Settings) -> Iterator[DaemonProcess]:
    """A daemon with this clock, which must stop with status 0."""
    with running_daemon(settings, environment=clock.environment) as daemon:
        daemon.patience_seconds = RECOVERY_SECONDS
        daemon.expect("daemon_ready")
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def since_1970() -> timedelta:
    """How far back a clock goes that has lost its battery."""
    return timedelta(seconds=time.time()) - DAY


def refuse_skewed(request: Request, forward: Forward) -> Answer:
    """Reject requests signed at another time than the server's, as S3 does and moto does not."""
    signed = next(value for name, value in request.headers.items() if name.lower() == "x-amz-date")
    signed_at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(signed_at - datetime.now(UTC)) <= MOST_SKEW:
        return forward()
    # No answer to a HEAD has a body, so no answer to it says why.
    return Answer(403) if request.method == "HEAD" else s3_error(403, "RequestTimeTooSkewed")


@pytest.mark.parametrize(
    "jump",
    [
        pytest.param(jump, marks=pytest.mark.fault(fault))
        for jump, fault in zip((DAY, -DAY, None), CLOCKS, strict=True)
    ],
)
def test_whatever_waits_when_the_clock_jumps_goes_on_within_seconds(
    clock: Clock,
    chosen: Settings,
    proxy: FaultProxy,
    files_at_stake: FilesAtStake,
    video: bytes,
    jump: timedelta | None,
) -> None:
    """One waits for its backoff, one for the end of its retention, and one comes when it has jumped."""

    def fail(request: Request, forward: Forward) -> Answer:
        is_refused = request.action == "PutObject" and "failing" in request.path
        return s3_error(503, "SlowDown") if is_refused else forward()

    proxy.fault = fail
    with daemon_with(clock, chosen) as daemon:
        files_at_stake.put(chosen, FAILING, video + b"\0\0\0\x09free1")
        daemon.expect("attempt_failed", path=FAILING, count=2)
        files_at_stake.put(chosen, KEPT, video + b"\0\0\0\x09free2")
        daemon.expect("upload_published", path=KEPT)
        clock.set(-since_1970() if jump is None else jump)
        files_at_stake.inject()
        proxy.fault = lambda _request, forward: forward()
        files_at_stake.put(chosen, LATE, video + b"\0\0\0\x09free3")
        files_at_stake.others_waited(daemon, LATE)
        for path in (KEPT, FAILING, LATE):
            daemon.expect("upload_released", path=path)
        files_at_stake.recovered()
    assert sum(row.claim for row in rows(chosen)) < MOST_CLAIMS
    files_at_stake.judge(chosen)


@pytest.mark.fault(SKEWED)
def test_signatures_of_a_wrong_clock_pause_the_uploads_until_it_is_right_again(
    clock: Clock, chosen: Settings, proxy: FaultProxy, files_at_stake: FilesAtStake, video: bytes
) -> None:
    proxy.fault = refuse_skewed
    with daemon_with(clock, chosen) as daemon:
        files_at_stake.put(chosen, KEPT, video + b"\0\0\0\x09free1")
        daemon.expect("upload_published", path=KEPT)
        clock.set(-DAY)
        files_at_stake.put(chosen, LATE, video + b"\0\0\0\x09free2")
        paused = daemon.expect("stage_paused", stage="upload")
        assert "clock" in paused["reason"]
        files_at_stake.inject()
        assert [row.state for row in rows(chosen) if row.path == LATE] == [State.PENDING]
        clock.set(timedelta(0))
        files_at_stake.over()
        for path in (KEPT, LATE):
            daemon.expect("upload_released", path=path)
        daemon.expect("stage_resumed", stage="upload")
        files_at_stake.recovered()
    files_at_stake.judge(chosen)
