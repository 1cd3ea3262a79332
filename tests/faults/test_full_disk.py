"""The disk under the real daemon fills up: no upload fails, and all resume when there is room."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.faults.going_well import going_well, states
from tests.faults.mounts import Mount, small_disk
from tests.support.bucket_contents import keys
from tests.support.daemon_process import command, rows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import VIDEO_ID, ledger_file, settings_for
from tests.support.s3_server import S3Server
from watcher.settings.model import Settings

pytestmark = pytest.mark.timeout(240)

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
OTHER = f"{VIDEO_ID}/other_720p.mp4"


@pytest.fixture
def disk(place: str) -> Iterator[Mount]:
    """A small disk that the watched directory and the ledger are on."""
    with small_disk(os.path.join(place, "disk")) as mounted:
        yield mounted


def on(disk: Mount, proxy: FaultProxy, **changes: Any) -> Settings:
    return settings_for(disk.path, proxy.url, **changes)


def empty_log(settings: Settings) -> None:
    """Empty the log of the ledger's SQLite, which can be written over on a full disk as well."""
    with closing(sqlite3.connect(ledger_file(settings))) as connection:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


@pytest.mark.fault("disk full under the ledger and the videos")
def test_a_full_disk_under_ledger_and_videos_only_delays(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """A file is finished while not even its row can be written."""
    settings = on(disk, proxy)
    with going_well(settings) as daemon:
        target = os.path.join(settings.completed_dir, PATH)
        waiting = files_at_stake.put(settings, f"{PATH}.part", video, at_stake=PATH)
        disk.fill()
        os.rename(waiting, target)
        files_at_stake.inject()
        told = daemon.expect("settling_paused", code="database")
        assert "Free some space" in told["reason"]
        assert rows(settings) == []
        disk.empty()
        files_at_stake.over()
        daemon.expect("settling_resumed")
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    assert states(settings) == {PATH: State.RELEASED}
    assert keys(server) == {f"videos/{PATH}"}
    files_at_stake.judge(settings)


@pytest.mark.fault("disk full in the middle of an upload")
@pytest.mark.parametrize("action", ["PutObject", "HeadObject"])
def test_a_disk_that_fills_up_in_the_middle_of_an_upload_only_delays(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes, action: str, files_at_stake: FilesAtStake
) -> None:
    """A confirmed upload is recorded once there is room, and is not sent a second time.

    Not even the failure can be recorded: the claim expires, and the next holder looks at the object first.
    """
    settings = on(disk, proxy, CLAIM_SECONDS=5)
    filled: list[str] = []

    def fill(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == action and len(filled) < 1 and proxy.actions.count("PutObject"):
            filled.append(request.action)
            empty_log(settings)
            disk.fill()
            files_at_stake.inject()
        return answer

    proxy.fault = fill
    with going_well(settings) as daemon:
        files_at_stake.put(settings, PATH, video)
        daemon.expect("stage_paused", stage="upload", code="database")
        assert states(settings) == {PATH: State.PENDING}
        disk.empty()
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    assert filled == [action]
    assert proxy.actions.count("PutObject") == 1
    assert states(settings) == {PATH: State.RELEASED}
    files_at_stake.judge(settings)


@pytest.mark.fault("disk full when the daemon starts")
def test_a_daemon_that_finds_no_room_at_its_start_says_so_and_fails_nothing(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """It waits with a sentence, and starts when there is room."""
    settings = on(disk, proxy)
    with going_well(settings):
        pass
    files_at_stake.put(settings, PATH, video)
    disk.fill()
    files_at_stake.inject()
    with going_well(settings, first="start_waiting") as daemon:
        assert "free space" in daemon.expect("start_waiting")["reason"]
        disk.empty()
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(settings)


@pytest.mark.fault("disk nearly full of published copies")
def test_the_oldest_published_copies_make_room_on_a_disk_that_is_nearly_full(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    settings = on(disk, proxy, RELEASE_AFTER_SECONDS=86400, DISK_PRESSURE_PERCENT=50)
    large = video + b"\0\x0f\0\0free" + b"\0" * (0xF0000 - 8)
    with going_well(settings) as daemon:
        files_at_stake.put(settings, PATH, large)
        daemon.expect("upload_published", path=PATH)
        files_at_stake.put(settings, OTHER, large)
        daemon.expect("upload_published", path=OTHER)
        files_at_stake.put(settings, f"{VIDEO_ID}/log.txt", b"\0" * 0x40000)
        files_at_stake.inject()
        daemon.expect("disk_pressure")
        daemon.expect("upload_released", path=PATH)
        daemon.expect("disk_pressure_over")
        files_at_stake.recovered()
        assert states(settings) == {PATH: State.RELEASED, OTHER: State.PUBLISHED}
        report = command(settings, "status", "--json").stdout
        assert '"used_percent"' in report
    assert os.path.exists(os.path.join(settings.completed_dir, OTHER))
    files_at_stake.judge(settings)
