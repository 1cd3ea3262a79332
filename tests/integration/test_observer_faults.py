"""What can become of the watched directory while the daemon runs: it is noticed, said, and mended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.support.daemon_process import DaemonProcess, command, place_file, rows, running_daemon
from tests.support.fault_proxy import FaultProxy, no_fault, s3_error
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.media import Media
from tests.support.ports import free_address
from tests.support.video_files import OTHER_VIDEO, PATH
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

OTHER = f"{OTHER_VIDEO}/another_144p.mp4"
NEVER = 86400
NOTICED_SECONDS = 10
RENAMED = 20
FLOOD = 9000
"""Files, each with two events: more than fit into the kernel's queue (16,384)."""


@pytest.fixture
def chosen(settings: MakeSettings) -> Settings:
    """A daemon whose only scans are those that something asks for."""
    return settings(RESCAN_SECONDS=NEVER, RELEASE_AFTER_SECONDS=3600, METRICS_ADDRESS=free_address())


def scrape(settings: Settings) -> dict[str, float]:
    """The daemon's metrics without labels."""
    with urlopen(f"http://{settings.served_address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if line[0] != "#")
    return {name.removeprefix("video_uploader_"): float(value) for name, value in samples.items()}


def status(daemon: DaemonProcess, settings: Settings) -> str:
    """What `status` says: the daemon reports after every signal, so after two it has done so since now."""
    for count in (1, 2):
        daemon.signal(signal.SIGHUP)
        daemon.expect("settings_reloaded", count=count)
    return command(settings, "status").stdout


def states(settings: Settings) -> dict[str, State]:
    """The state of every path in the ledger."""
    return {row.path: row.state for row in rows(settings)}


@contextmanager
def noticing(settings: Settings, *prefix: str) -> Iterator[DaemonProcess]:
    """A daemon that is at work, and from now on has to say everything that it is expected to in time."""
    with running_daemon(settings, through=prefix) as daemon:
        daemon.expect("daemon_ready")
        daemon.patience_seconds = NOTICED_SECONDS
        yield daemon


def refuse_puts(proxy: FaultProxy) -> None:
    """Let no upload through for the time being."""
    proxy.fault = lambda request, forward: s3_error(503, "SlowDown") if request.method == "PUT" else forward()


class Disk:
    """File systems that are mounted at the watched directory and unmounted again."""

    def __init__(self, at: str, stack: ExitStack) -> None:
        self._at = at
        stack.callback(lambda: subprocess.run(["umount", "-l", at], check=False, capture_output=True))

    def mount(self, *arguments: str) -> None:
        try:
            subprocess.run(["mount", *arguments, self._at], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"nothing can be mounted here: {error}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self._at], check=True, capture_output=True)


@pytest.fixture
def disk(chosen: Settings) -> Iterator[Disk]:
    with ExitStack() as stack:
        yield Disk(chosen.completed_dir, stack)


@pytest.mark.fault("watched directory deleted and made again")
@pytest.mark.parametrize("way", ["deleted", "moved away"])
def test_a_root_that_is_made_again_is_taken_up_as_soon_as_it_is_not_empty(
    chosen: Settings, proxy: FaultProxy, media: Media, way: str, files_at_stake: FilesAtStake
) -> None:
    """Until then what the ledger waits for is not gone."""
    refuse_puts(proxy)
    place_file(chosen, PATH, media.faststart)
    with noticing(chosen) as daemon:
        daemon.expect("file_finished", path=PATH)
        if way == "deleted":
            shutil.rmtree(chosen.completed_dir)
        else:
            os.rename(chosen.completed_dir, f"{chosen.completed_dir}.moved")
        files_at_stake.inject()
        daemon.expect("observer_unavailable")
        assert scrape(chosen)["root_available"] == 0
        os.mkdir(chosen.completed_dir)
        daemon.signal(signal.SIGHUP)
        daemon.expect("scan_failed", code="root-unavailable")
        assert states(chosen) == {PATH: State.PENDING}
        proxy.fault = no_fault
        files_at_stake.copy(chosen, OTHER, media.faststart)
        files_at_stake.over()
        daemon.expect("observer_restarted")
        daemon.expect("upload_published", path=OTHER)
        files_at_stake.recovered()
        assert scrape(chosen)["root_available"] == 1
        assert scrape(chosen)["observer_restarts_total"] >= 1
        daemon.expect("upload_gone", path=PATH)
    files_at_stake.judge(chosen)


@pytest.mark.fault("watched directory unmounted and mounted again")
def test_what_lies_beneath_an_unmounted_root_is_not_believed_and_the_root_is_when_it_returns(
    chosen: Settings, proxy: FaultProxy, media: Media, place: str, disk: Disk, files_at_stake: FilesAtStake
) -> None:
    refuse_puts(proxy)
    os.mkdir(f"{place}/disk")
    place_file(chosen, OTHER, media.faststart)
    disk.mount("--bind", f"{place}/disk")
    files_at_stake.copy(chosen, PATH, media.faststart)
    with noticing(chosen) as daemon:
        daemon.expect("file_finished", path=PATH)
        disk.unmount()
        files_at_stake.inject()
        assert "not mounted" in daemon.expect("observer_unavailable")["reason"]
        daemon.signal(signal.SIGHUP)
        daemon.expect("scan_failed", code="root-unavailable")
        proxy.fault = no_fault
        daemon.expect("stage_paused", stage="upload", code="root-unavailable")
        assert states(chosen) == {PATH: State.PENDING}
        disk.mount("--bind", f"{place}/disk")
        files_at_stake.over()
        daemon.expect("observer_restarted")
        daemon.expect("upload_published", path=PATH)
        files_at_stake.recovered()
        assert states(chosen) == {PATH: State.PUBLISHED}
    files_at_stake.judge(chosen)


@pytest.mark.fault("another file system mounted in its place")
def test_another_file_system_at_the_same_place_is_taken_up(
    chosen: Settings, media: Media, disk: Disk, files_at_stake: FilesAtStake
) -> None:
    disk.mount("-t", "tmpfs", "none")
    files_at_stake.copy(chosen, PATH, media.faststart)
    with noticing(chosen) as daemon:
        daemon.expect("upload_published", path=PATH)
        disk.unmount()
        files_at_stake.inject()
        daemon.expect("observer_unavailable")
        disk.mount("-t", "tmpfs", "none")
        files_at_stake.copy(chosen, OTHER, media.faststart)
        files_at_stake.over()
        daemon.expect("upload_published", path=OTHER)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


def test_a_root_that_is_away_is_said_in_the_status(chosen: Settings, media: Media) -> None:
    place_file(chosen, PATH, media.faststart)
    with noticing(chosen) as daemon:
        os.rename(chosen.completed_dir, f"{chosen.completed_dir}.moved")
        daemon.expect("observer_unavailable")
        assert "observer paused: The directory cannot be watched" in status(daemon, chosen)


@pytest.mark.fault("directory that may not be read")
def test_a_directory_that_may_not_be_read_is_told_and_looked_into_when_it_may(
    chosen: Settings, media: Media, files_at_stake: FilesAtStake
) -> None:
    prefix = able_to("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    directory = os.path.join(chosen.completed_dir, VIDEO_ID)
    with noticing(chosen, *prefix) as daemon:
        os.mkdir(directory, mode=0)
        files_at_stake.inject()
        daemon.expect("directory_unreadable", path=VIDEO_ID)
        assert scrape(chosen)["unreadable_directories"] == 1
        files_at_stake.copy(chosen, OTHER, media.faststart)
        files_at_stake.others_waited(daemon, OTHER)
        files_at_stake.copy(chosen, PATH, media.faststart)
        os.chmod(directory, 0o755)
        files_at_stake.over()
        daemon.expect("directory_readable", path=VIDEO_ID)
        daemon.expect("upload_published", path=PATH)
        files_at_stake.recovered()
        assert scrape(chosen)["unreadable_directories"] == 0
        os.chmod(directory, 0)
        daemon.expect("directory_unreadable", path=VIDEO_ID, count=2)
        assert f"{VIDEO_ID} cannot be read" in status(daemon, chosen)
    os.chmod(directory, 0o755)
    files_at_stake.judge(chosen)


def able_to(*prefix: str) -> Sequence[str]:
    """A command that starts another one, if this machine lets it."""
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{prefix[0]} does not work here: {error}")
    return prefix


def set_watch_limit(limit: int) -> Sequence[str]:
    """A command line that sets the limit of its own user namespace."""
    return ("sh", "-c", f'echo {limit} > /proc/sys/user/max_inotify_watches && exec "$@"', "sh")


@pytest.mark.fault("inotify watches exhausted")
def test_watches_that_run_out_are_said_and_scans_find_what_they_would_have_told(
    settings: MakeSettings, media: Media, files_at_stake: FilesAtStake
) -> None:
    """The kernel's real limit, in a user namespace of the daemon's own."""
    prefix = able_to("unshare", "--user", "--map-root-user", *set_watch_limit(5))
    chosen = settings(RESCAN_SECONDS=2, RELEASE_AFTER_SECONDS=3600, METRICS_ADDRESS=free_address())
    videos = [f"{VIDEO_ID[:-2]}{number:02}" for number in range(10)]
    for video in videos:
        os.mkdir(os.path.join(chosen.completed_dir, video))
    with running_daemon(chosen, through=prefix) as daemon:
        assert "max_user_watches" in daemon.expect("watches_exhausted")["hint"]
        daemon.expect("daemon_ready")
        sampled = scrape(chosen)
        assert (sampled["watched_directories"], sampled["unwatched_directories"]) == (5, 6)
        files_at_stake.inject(int(sampled["unwatched_directories"]))
        for video in videos:
            files_at_stake.copy(chosen, f"{video}/a_144p.mp4", media.faststart)
        files_at_stake.over()
        daemon.expect("upload_published", count=10)
        files_at_stake.recovered()
        assert 1 <= scrape(chosen)["found_by_scan_files_total"] <= 10
        assert "observer paused: 6 directories are not watched" in status(daemon, chosen)
        assert [line["event"] for line in daemon.events].count("watches_exhausted") == 1
    files_at_stake.judge(chosen)


@pytest.mark.fault("inotify watches exhausted")
def test_watches_that_are_allowed_later_are_used_without_a_restart(
    chosen: Settings, media: Media, files_at_stake: FilesAtStake
) -> None:
    prefix = able_to("unshare", "--user", "--map-root-user", *set_watch_limit(1))
    os.mkdir(os.path.join(chosen.completed_dir, VIDEO_ID))
    with running_daemon(chosen, through=prefix) as daemon:
        daemon.expect("watches_exhausted")
        daemon.expect("daemon_ready")
        files_at_stake.inject()
        subprocess.run(
            ["nsenter", "--user", f"--target={daemon.process.pid}", *set_watch_limit(100), "true"], check=True
        )
        assert daemon.expect("watches_complete")["watched"] == 2
        files_at_stake.copy(chosen, PATH, media.faststart)
        daemon.expect("upload_published", path=PATH)
        files_at_stake.recovered()
        assert scrape(chosen)["found_by_scan_files_total"] == 0
    files_at_stake.judge(chosen)


@pytest.mark.fault("event queue overflowed")
def test_what_was_lost_when_the_kernels_queue_overflowed_is_found_and_counted(
    chosen: Settings, media: Media, files_at_stake: FilesAtStake
) -> None:
    with noticing(chosen) as daemon:
        daemon.signal(signal.SIGSTOP)
        for number in range(FLOOD):
            with open(os.path.join(chosen.completed_dir, f"{number}.txt"), "wb"):
                pass
        for path in (PATH, OTHER):
            files_at_stake.copy(chosen, path, media.faststart)
        files_at_stake.inject()
        daemon.signal(signal.SIGCONT)
        daemon.expect("events_lost")
        for path in (PATH, OTHER):
            daemon.expect("upload_published", path=path)
        files_at_stake.recovered()
        sampled = scrape(chosen)
        assert sampled["event_queue_overflows_total"] == 1
        assert sampled["found_by_scan_files_total"] == 2
        later = f"{VIDEO_ID}/later_144p.mp4"
        files_at_stake.copy(chosen, later, media.faststart)
        daemon.expect("upload_published", path=later)
        assert scrape(chosen)["found_by_scan_files_total"] == 2
    files_at_stake.judge(chosen)


@pytest.mark.fault("directory renamed while it is scanned")
def test_a_directory_that_is_renamed_is_scanned_under_its_new_name(
    chosen: Settings, media: Media, files_at_stake: FilesAtStake
) -> None:
    """To and fro, while scans run; the last thing that happens is that it has its right name."""
    wrong, right = (os.path.join(chosen.completed_dir, name) for name in ("wrong", VIDEO_ID))
    a, b = (f"{VIDEO_ID}/{name}_144p.mp4" for name in "ab")
    os.mkdir(wrong)
    shutil.copy(media.faststart, os.path.join(wrong, "a_144p.mp4"))
    with open(media.faststart, "rb") as file:
        files_at_stake.add(a, file.read())
    with noticing(chosen) as daemon:
        for _ in range(RENAMED):
            daemon.signal(signal.SIGHUP)
            os.rename(wrong, right)
            daemon.signal(signal.SIGHUP)
            os.rename(right, wrong)
            files_at_stake.inject(2)
        os.rename(wrong, right)
        files_at_stake.over()
        daemon.expect("upload_published", path=a)
        files_at_stake.recovered()
        files_at_stake.copy(chosen, b, media.faststart)
        files_at_stake.others_waited(daemon, b)
    files_at_stake.judge(chosen)
