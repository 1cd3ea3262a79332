"""The disk under the real daemon fills up, becomes read-only, is unmounted: nothing fails, all goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from db import State
from tests.daemon import DaemonProcess, running_daemon
from tests.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.faults.mounts import Mount, bind, run, small_disk, unmount
from tests.integration.conftest import MakeSettings
from tests.integration.test_daemon import command, keys, rows
from tests.s3_server import S3Server
from tests.workshop import VIDEO_ID, settings_for
from watcher.settings import Settings

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
OTHER = f"{VIDEO_ID}/other_720p.mp4"

WITHOUT_PRIVILEGES = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"),
    *("--inh-caps", "-dac_override,-dac_read_search,-fowner"),
)
"""Root that may not pass over permissions: what is not its own and open to it, it can not read."""


@pytest.fixture
def disk(place: str) -> Iterator[Mount]:
    """A small disk that the watched directory and the ledger are on."""
    with small_disk(os.path.join(place, "disk")) as mounted:
        yield mounted


def on(disk: Mount, proxy: FaultProxy, **changes: Any) -> Settings:
    return settings_for(disk.path, proxy.url, **changes)


def put(settings: Settings, path: str, content: bytes, name: str | None = None) -> str:
    target = os.path.join(settings.completed_dir, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(name or target, "wb") as file:
        file.write(content)
    return target


def states(settings: Settings) -> dict[str, State]:
    return {row.path: row.state for row in rows(settings)}


@contextmanager
def going_well(settings: Settings, **options: Any) -> Iterator[DaemonProcess]:
    """A daemon that must end as asked, with nothing unforeseen in its log and nothing failed or gone."""
    with running_daemon(settings, **options) as daemon:
        daemon.patience_seconds = 45
        daemon.expect("daemon_ready")
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    said = {line["event"] for line in daemon.events}
    assert said.isdisjoint({"internal_error", "(not JSON)", "upload_gone", "daemon_stalled"})


def test_a_full_disk_under_ledger_and_videos_only_delays(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """A file is finished while not a byte can be written, not even that it is there."""
    settings = on(disk, proxy)
    with going_well(settings) as daemon:
        waiting = os.path.join(settings.completed_dir, ".waiting")
        target = put(settings, PATH, video, waiting)
        disk.fill()
        os.rename(waiting, target)
        told = daemon.expect("settling_paused", code="database")
        assert "Free some space" in told["reason"]
        assert rows(settings) == []
        disk.empty()
        daemon.expect("settling_resumed")
        daemon.expect("upload_released", path=PATH)
    assert states(settings) == {PATH: State.RELEASED}
    assert keys(server) == {f"videos/{PATH}"}


@pytest.mark.parametrize("action", ["PutObject", "HeadObject"])
def test_a_disk_that_fills_up_in_the_middle_of_an_upload_only_delays(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes, action: str
) -> None:
    """What S3 has confirmed cannot be written down until there is room, and is not sent a second time.

    Not even that it failed can be written down: the claim runs out, and whoever takes the row looks first.
    """
    settings = on(disk, proxy, CLAIM_SECONDS=5)
    filled: list[str] = []

    def fill(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == action and len(filled) < 1 and proxy.actions.count("PutObject"):
            filled.append(request.action)
            disk.fill()
        return answer

    proxy.fault = fill
    with going_well(settings) as daemon:
        put(settings, PATH, video)
        daemon.expect("stage_paused", stage="upload", code="database")
        assert states(settings) == {PATH: State.PENDING}
        disk.empty()
        daemon.expect("upload_released", path=PATH)
    assert filled == [action]
    assert proxy.actions.count("PutObject") == 1
    assert states(settings) == {PATH: State.RELEASED}


def test_a_daemon_that_finds_no_room_at_its_start_says_so_and_fails_nothing(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """It ends with a sentence; systemd starts it again, and the first time that there is room it stays."""
    settings = on(disk, proxy)
    with going_well(settings):
        pass
    put(settings, PATH, video)
    disk.fill()
    refused = command(settings, "run")
    assert refused.returncode == 1
    assert "room on it" in refused.stderr
    assert "Traceback" not in refused.stderr
    disk.empty()
    with going_well(settings) as daemon:
        daemon.expect("upload_released", path=PATH)


def test_the_oldest_published_copies_make_room_on_a_disk_that_is_nearly_full(
    disk: Mount, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    settings = on(disk, proxy, RELEASE_AFTER_SECONDS=86400, DISK_PRESSURE_PERCENT=50)
    large = video + b"\0\x0f\0\0free" + b"\0" * (0xF0000 - 8)
    with going_well(settings) as daemon:
        put(settings, PATH, large)
        daemon.expect("upload_published", path=PATH)
        put(settings, OTHER, large)
        daemon.expect("upload_published", path=OTHER)
        put(settings, f"{VIDEO_ID}/log.txt", b"\0" * 0x40000)
        daemon.expect("disk_pressure")
        daemon.expect("upload_released", path=PATH)
        daemon.expect("disk_pressure_over")
        assert states(settings) == {PATH: State.RELEASED, OTHER: State.PUBLISHED}
        report = command(settings, "status", "--json").stdout
        assert '"used_percent"' in report
    assert os.path.exists(os.path.join(settings.completed_dir, OTHER))


def test_a_file_system_that_became_read_only_pauses_the_release_and_nothing_else(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    with small_disk(os.path.join(place, "completed")) as disk:
        settings = settings_for(place, proxy.url, RESCAN_SECONDS=1)
        put(settings, PATH, video)
        disk.remount("ro")
        with going_well(settings) as daemon:
            daemon.expect("upload_published", path=PATH)
            told = daemon.expect("stage_paused", stage="release", code="local-system")
            assert "mount that file system for writing" in told["reason"]
            assert "Read-only" in command(settings, "explain", PATH).stdout
            disk.remount("rw")
            daemon.expect("stage_resumed", stage="release")
            daemon.expect("upload_released", path=PATH)
        assert os.listdir(os.path.join(settings.completed_dir, VIDEO_ID)) == []


def test_a_directory_that_is_unmounted_and_mounted_again_loses_nothing(
    place: str, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """One file is pending, one published: neither is gone, nor released, nor taken for missing."""
    shown = os.path.join(place, "disk")
    os.mkdir(shown)
    settings = settings_for(place, proxy.url, RESCAN_SECONDS=1, RELEASE_AFTER_SECONDS=86400)
    bind(shown, settings.completed_dir)
    is_mounted = True
    try:
        with going_well(settings) as daemon:
            put(settings, OTHER, video)
            daemon.expect("upload_published", path=OTHER)
            proxy.fault = lambda request, forward: (
                s3_error(503, "SlowDown") if request.action == "PutObject" else forward()
            )
            put(settings, PATH, video)
            daemon.expect("attempt_failed", path=PATH)
            unmount(settings.completed_dir)
            is_mounted = False
            daemon.expect("scan_failed", code="root-unavailable")
            proxy.fault = no_fault
            daemon.expect("stage_paused", stage="upload", code="root-unavailable")
            assert states(settings) == {PATH: State.PENDING, OTHER: State.PUBLISHED}
            bind(shown, settings.completed_dir)
            is_mounted = True
            daemon.expect("scan_recovered")
            daemon.expect("upload_published", path=PATH)
        assert states(settings) == {PATH: State.PUBLISHED, OTHER: State.PUBLISHED}
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", settings.completed_dir], check=False, timeout=20)


def closed_file(settings: Settings) -> Callable[[], None]:
    path = os.path.join(settings.completed_dir, PATH)
    os.chmod(path, 0)
    return lambda: os.chmod(path, 0o644)


def foreign_file(settings: Settings) -> Callable[[], None]:
    path = os.path.join(settings.completed_dir, PATH)
    os.chmod(path, 0o600)
    os.chown(path, 65534, 65534)
    return lambda: os.chown(path, 0, 0)


@pytest.mark.parametrize("close", [closed_file, foreign_file])
def test_a_file_that_may_not_be_read_is_told_with_its_mend_and_picked_up_when_mended(
    settings: MakeSettings, server: S3Server, video: bytes, close: Callable[[Settings], Callable[[], None]]
) -> None:
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=1)
    put(chosen, PATH, video)
    mend = close(chosen)
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("upload_failed", path=PATH, code="unreadable")
        assert "Let the service run as the user who writes the files" in told["reason"]
        for words in (("explain", PATH), ("status",)):
            assert "Let the service run as" in command(chosen, *words).stdout
        mend()
        daemon.expect("upload_released", path=PATH)
    assert states(chosen) == {PATH: State.RELEASED}


def test_a_directory_that_may_not_be_read_is_told_with_its_mend_and_picked_up_when_mended(
    settings: MakeSettings, server: S3Server, video: bytes
) -> None:
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=1)
    directory = os.path.dirname(put(chosen, PATH, video))
    os.chmod(directory, 0)
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("directory_unreadable", path=VIDEO_ID)
        assert "Let the service run as the user who writes the files" in told["reason"]
        daemon.expect("scan_completed", unreadable_directories=1)
        os.chmod(directory, 0o755)
        daemon.expect("upload_released", path=PATH)
    assert states(chosen) == {PATH: State.RELEASED}


def test_a_directory_whose_owner_changed_keeps_its_files_until_that_is_mended(
    settings: MakeSettings, server: S3Server, video: bytes
) -> None:
    """What can be read is uploaded; that the copy cannot be given up is told, and tried again."""
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=1)
    directory = os.path.dirname(put(chosen, PATH, video))
    os.chown(directory, 65534, 65534)
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("attempt_failed", path=PATH, code="not-removable")
        assert "run the service as the user who writes the files" in told["reason"]
        assert "Permission denied" in command(chosen, "explain", PATH).stdout
        os.chown(directory, 0, 0)
        daemon.expect("upload_released", path=PATH)
    assert os.listdir(directory) == []


def require_setpriv() -> None:
    """Skip where this process has no privileges to give up, or cannot give other files away."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files that this user may not read and mend them again")
    run(*WITHOUT_PRIVILEGES, "true")
