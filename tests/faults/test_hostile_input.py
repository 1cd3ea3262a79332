"""A directory full of what an attacker could leave in it: only the good files beside it are published."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import pytest

from tests.faults.files_at_stake import FilesAtStake
from tests.support.cli_process import Command
from tests.support.daemon_process import DaemonProcess, environment_of, running_daemon
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings
from tests.support.hostile_files import HOSTILE_VIDEO, KINDS, LINKED_VIDEO, Ground
from tests.support.media import Media
from tests.support.s3_server import S3Server
from watcher.settings.model import Settings

GOOD = f"{VIDEO_ID}/good_720p.mp4"
LATER = f"{VIDEO_ID}/later_720p.mp4"
MEMORY_LIMIT_KIB = 300 * 1024
FLOOD = 100_000


@pytest.fixture
def ground(place: str, media: Media) -> Ground:
    """The watched directory with nothing hostile in it yet, and a secret video beside it."""
    ground = Ground(os.path.join(place, "completed"), os.path.join(place, "outside"))
    os.makedirs(os.path.join(ground.completed, HOSTILE_VIDEO))
    os.mkdir(ground.outside)
    shutil.copy(media.plain, ground.secret)
    shutil.copy(media.plain, ground.hard_linked)
    return ground


def leave_all(ground: Ground) -> None:
    """Leave one of every kind."""
    for leave in KINDS.values():
        leave(ground)


def objects(server: S3Server) -> set[str]:
    listed: Any = server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {entry["Key"] for entry in listed}


def peak_memory_kib(daemon: DaemonProcess) -> int:
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii", errors="replace") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1])


def ensure_printable(text: str) -> None:
    """No character in it can make a terminal do anything but show it."""
    assert [line for line in text.split("\n") if not line.isprintable()] == []


def command_for(settings: Settings, place: str) -> Command:
    """The command on the daemon's own directory and ledger."""
    return Command(place, "", settings=environment_of(settings))


@pytest.mark.fault("hostile names and contents")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_there_before", [True, False], ids=["found by a scan", "told of by events"])
def test_of_a_directory_full_of_hostile_things_only_the_good_files_are_published(
    settings: MakeSettings,
    server: S3Server,
    ground: Ground,
    media: Media,
    place: str,
    files_at_stake: FilesAtStake,
    is_there_before: bool,
) -> None:
    """A scan passes over what is no regular file; an event names it, and it is looked at."""
    chosen = settings(RESCAN_SECONDS=1, LOG_LEVEL="DEBUG")
    files_at_stake.inject(len(KINDS))
    if is_there_before:
        leave_all(ground)
        files_at_stake.copy(chosen, GOOD, media.faststart)
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        if not is_there_before:
            leave_all(ground)
            files_at_stake.copy(chosen, GOOD, media.faststart)
        daemon.expect("upload_released", path=GOOD)
        daemon.expect("file_refused", path=f"{HOSTILE_VIDEO}/hard_720p.mp4")
        files_at_stake.copy(chosen, LATER, media.faststart)
        files_at_stake.others_waited(daemon, LATER)
        daemon.expect("upload_released", path=LATER)
        files_at_stake.recovered()
        scans = sum(line["event"] == "scan_completed" for line in daemon.events)
        daemon.expect("scan_completed", count=scans + 2)
        assert objects(server) == {f"videos/{GOOD}", f"videos/{LATER}"}
        assert daemon.process.poll() is None
        assert peak_memory_kib(daemon) < MEMORY_LIMIT_KIB
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert [line for line in daemon.events if line["event"] in {"internal_error", "scan_failed"}] == []
    assert [line for line in daemon.events if line["event"] == "(not JSON)"] == []
    ensure_printable(daemon.raw.decode())
    ensure_words_are_printable(command_for(chosen, place), ground)
    assert objects(server) == {f"videos/{GOOD}", f"videos/{LATER}"}
    with open(ground.secret, "rb") as secret, open(media.plain, "rb") as original:
        assert secret.read() == original.read()
    files_at_stake.judge(chosen)


def ensure_words_are_printable(command: Command, ground: Ground) -> None:
    """What every command says of the hostile directory can be shown on a terminal."""
    subjects = [HOSTILE_VIDEO, LINKED_VIDEO, *sorted(os.listdir(ground.at("")))]
    paths = [
        subject if subject in {HOSTILE_VIDEO, LINKED_VIDEO} else ground.at(subject) for subject in subjects
    ]
    calls = [("status",), ("list",), ("list", "--json"), ("status", "--json")]
    calls += [("explain", path) for path in paths]
    for call in calls:
        ran = command.here(*call)
        assert ran.code in {0, 1}, call
        ensure_printable(ran.out + ran.err)
    for log_format in ("json", "console"):
        for arguments in (("run", "--once", "--dry-run"), ("run", "--once")):
            ran = command(*arguments, LOG_FORMAT=log_format, LOG_LEVEL="DEBUG")
            assert ran.code in {0, 1}
            ensure_printable(ran.out + ran.err)


@pytest.mark.fault("100,000 files in one directory")
@pytest.mark.timeout(300)
def test_among_a_hundred_thousand_files_the_good_ones_are_found_with_little_memory(
    settings: MakeSettings, server: S3Server, ground: Ground, media: Media, files_at_stake: FilesAtStake
) -> None:
    """Most of them are no videos, some links, some empty; one good file is there before, one comes later."""
    chosen = settings()
    for number in range(FLOOD):
        match number % 100:
            case 0:
                os.symlink(ground.secret, ground.at(f"{number}_720p.mp4"))
            case 1:
                os.close(os.open(ground.at(f"{number}_720p.mp4"), os.O_CREAT | os.O_WRONLY))
            case 2:
                os.close(os.open(ground.at(f".video-uploader-{number}.aside"), os.O_CREAT | os.O_WRONLY))
            case _:
                os.close(os.open(ground.at(f"{number}.log"), os.O_CREAT | os.O_WRONLY))
    files_at_stake.copy(chosen, GOOD, media.faststart)
    files_at_stake.inject(FLOOD)
    with running_daemon(chosen) as daemon:
        daemon.patience_seconds = 120.0
        daemon.expect("upload_released", path=GOOD)
        files_at_stake.copy(chosen, LATER, media.faststart)
        files_at_stake.others_waited(daemon, LATER)
        daemon.expect("upload_released", path=LATER)
        files_at_stake.recovered()
        daemon.expect("daemon_ready")
        assert peak_memory_kib(daemon) < MEMORY_LIMIT_KIB
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert objects(server) == {f"videos/{GOOD}", f"videos/{LATER}"}
    files_at_stake.judge(chosen)
