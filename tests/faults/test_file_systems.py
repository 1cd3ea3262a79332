"""The file system under the real daemon is read-only, slow or unmounted: no upload fails, and all resume."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.faults.going_well import going_well, states
from tests.faults.mounts import bind, failing_disk, slow_view, small_disk, unmount
from tests.support.daemon_process import command
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.support.harness import VIDEO_ID, settings_for
from tests.support.s3_server import S3Server
from tests.support.video_files import padded

pytestmark = pytest.mark.timeout(240)

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
OTHER = f"{VIDEO_ID}/other_720p.mp4"
SLOW = 2_000_000
"""Bytes a second."""


@pytest.mark.fault("file system of the videos read-only")
def test_a_file_system_that_became_read_only_pauses_the_release_and_nothing_else(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    with small_disk(os.path.join(place, "completed")) as disk:
        settings = settings_for(place, proxy.url, RESCAN_SECONDS=1)
        files_at_stake.put(settings, PATH, video)
        disk.remount("ro")
        files_at_stake.inject()
        with going_well(settings) as daemon:
            daemon.expect("upload_published", path=PATH)
            told = daemon.expect("stage_paused", stage="release", code="local-system")
            assert "remount that file system read-write" in told["reason"]
            assert "Read-only" in command(settings, "explain", PATH).stdout
            disk.remount("rw")
            files_at_stake.over()
            daemon.expect("stage_resumed", stage="release")
            daemon.expect("upload_released", path=PATH)
            files_at_stake.recovered()
        assert os.listdir(os.path.join(settings.completed_dir, VIDEO_ID)) == []
        files_at_stake.judge(settings)


@pytest.mark.fault("file system of the videos and the ledger read-only")
def test_a_disk_that_fails_under_ledger_and_videos_pauses_everything_until_it_is_mounted_again(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The file system turns read-only when S3 has the file, so that the upload cannot be recorded."""
    with failing_disk(os.path.join(place, "disk")) as disk:
        settings = settings_for(disk.path, proxy.url)

        def fail(request: Request, forward: Forward) -> Answer:
            answer = forward()
            if request.action == "PutObject":
                disk.fail()
                files_at_stake.inject()
            return answer

        proxy.fault = fail
        with going_well(settings) as daemon:
            files_at_stake.put(settings, PATH, video)
            told = daemon.expect("stage_paused", stage="upload", code="database")
            assert "the file system is mounted for writing" in told["reason"]
        proxy.fault = no_fault
        with going_well(settings, first="start_waiting"):
            pass
        disk.repair()
        files_at_stake.over()
        with going_well(settings) as daemon:
            daemon.expect("upload_released", path=PATH)
            files_at_stake.recovered()
        assert proxy.actions.count("PutObject") == 1
        files_at_stake.judge(settings)


@pytest.mark.fault("file system slow: 2 MB/s, by way of FUSE")
def test_a_slow_file_system_only_takes_longer(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """A file that is written slowly is not taken for finished; then it is read as slowly."""
    settings = settings_for(place, proxy.url, SETTLE_SECONDS=1)
    fast = os.path.join(place, "fast")
    os.mkdir(fast)
    content = padded(video, 4_000_000)
    with slow_view(fast, settings.completed_dir, SLOW), going_well(settings) as daemon:
        started = time.monotonic()
        files_at_stake.put(settings, PATH, content)
        files_at_stake.inject()
        assert time.monotonic() - started > len(content) / SLOW / 2
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        assert sum(line["event"] == "file_finished" for line in daemon.events) == 1
        files_at_stake.judge(settings)


@pytest.mark.fault("watched directory unmounted and mounted again")
def test_a_directory_that_is_unmounted_and_mounted_again_loses_nothing(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """One file is pending, one published: neither is gone, nor released, nor taken for missing."""
    shown = os.path.join(place, "disk")
    os.mkdir(shown)
    settings = settings_for(place, proxy.url, RESCAN_SECONDS=1, RELEASE_AFTER_SECONDS=86400)
    bind(shown, settings.completed_dir)
    is_mounted = True
    try:
        with going_well(settings) as daemon:
            files_at_stake.put(settings, OTHER, video)
            daemon.expect("upload_published", path=OTHER)
            proxy.fault = lambda request, forward: (
                s3_error(503, "SlowDown") if request.action == "PutObject" else forward()
            )
            files_at_stake.put(settings, PATH, video)
            daemon.expect("attempt_failed", path=PATH)
            unmount(settings.completed_dir)
            is_mounted = False
            files_at_stake.inject()
            daemon.expect("scan_failed", code="root-unavailable")
            proxy.fault = no_fault
            daemon.expect("stage_paused", stage="upload", code="root-unavailable")
            assert states(settings) == {PATH: State.PENDING, OTHER: State.PUBLISHED}
            bind(shown, settings.completed_dir)
            is_mounted = True
            files_at_stake.over()
            daemon.expect("scan_recovered")
            daemon.expect("upload_published", path=PATH)
            files_at_stake.recovered()
        assert states(settings) == {PATH: State.PUBLISHED, OTHER: State.PUBLISHED}
        files_at_stake.judge(settings)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", settings.completed_dir], check=False, timeout=20)
