"""A hundred thousand directories, and files that arrive as fast as they can be written: none is missed.

Figures that depend on how busy the machine is are held as processor time, and printed besides as they were.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest
from pydantic import SecretStr

from db import Ledger, open_database
from tests.faults.outcomes import Outcome
from tests.faults.plugin import ReportOutcome
from tests.large.sink import Sink, running_sink
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.harness import settings_for
from tests.support.ports import free_address
from watcher.settings.model import CatalogKind, Settings

DIRECTORIES = 100_000
OVERFLOW = 20_000
"""Files, each with two events: more than fit into the kernel's queue (16,384)."""
FILES = int(os.environ.get("FLOOD_FILES", "20000"))
FILES_DIRECTORIES = 200
NEVER = 86400
OVERFLOWED = "event queue overflowed in 100,000 directories"
FLOODED = "files as fast as they can be written"
CONTENT = b"not much of a video"
MIB = 1024 * 1024

MOST_START_SECONDS = 10.0
MOST_MEMORY = 250 * MIB
MOST_IDLE_SHARE = 0.01
MOST_SEEN_SECONDS = 2.0
IDLE_SECONDS = 10.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as running:
        yield running


@pytest.fixture
def chosen(place: str, sink: Sink) -> Settings:
    return settings_for(
        place,
        sink.url,
        RESCAN_SECONDS=NEVER,
        KEEP_LOCAL=True,
        AWS_S3_ACL="none",
        METRICS_ADDRESS=free_address(),
    )


@pytest.fixture
def in_memory() -> Iterator[str]:
    """A directory on a file system without a disk."""
    with TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield directory


def video(number: int) -> str:
    """The directory of one of many videos."""
    return str(uuid.UUID(int=(1 << 100) + number))


def write(settings: Settings, path: str, content: bytes = CONTENT) -> None:
    with open(os.path.join(settings.completed_dir, path), "wb") as file:
        file.write(content)


def recorded(settings: Settings) -> list[str]:
    """The paths in the ledger."""
    database = open_database(settings.ledger_url, read_only=True)
    try:
        return [row.path for row in Ledger(database, settings.instance).iter_uploads()]
    finally:
        database.close()


def verdict(settings: Settings, sink: Sink, fault: str, *, injected: int, seconds: float) -> Outcome:
    """What became of every video on the disk: all are in the ledger, and an object has what its file has."""
    videos = {
        os.path.relpath(os.path.join(parent, name), settings.completed_dir)
        for parent, _, names in os.walk(settings.completed_dir)
        for name in names
        if name.endswith(".avi")
    }
    good = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    wrong = [key for key, piece in sink.objects.items() if good not in piece.etag]
    strange = sink.objects.keys() - {f"videos/{path}" for path in videos}
    outcome = Outcome(
        fault,
        injected,
        len(videos),
        len(videos - set(recorded(settings))),
        len(wrong) + len(strange),
        sink.overwritten,
        seconds,
    )
    assert outcome.is_good, outcome
    return outcome


def cpu_seconds(daemon: DaemonProcess) -> float:
    """The processor time that the daemon has used, of all its threads; see proc(5)."""
    with open(f"/proc/{daemon.process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_memory(daemon: DaemonProcess) -> int:
    """The most that the daemon has had resident at once, in bytes; see proc(5)."""
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def sample(settings: Settings, name: str) -> float:
    """One metric without labels."""
    with urlopen(f"http://{settings.served_address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"video_uploader_{name} "))


def seconds_until(act: Callable[[], object]) -> float:
    started = time.monotonic()
    act()
    return time.monotonic() - started


def idle_share(daemon: DaemonProcess) -> float:
    """The share of one processor that the daemon uses while nothing happens; this has to take some time."""
    before = cpu_seconds(daemon)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(IDLE_SECONDS)
    return (cpu_seconds(daemon) - before) / IDLE_SECONDS


@pytest.mark.fault(OVERFLOWED)
def test_a_hundred_thousand_directories_are_watched_and_an_overflow_is_repaired(
    chosen: Settings,
    sink: Sink,
    record_property: Callable[[str, object], None],
    report_outcome: ReportOutcome,
) -> None:
    for number in range(DIRECTORIES):
        os.mkdir(os.path.join(chosen.completed_dir, video(number)))
    figures: dict[str, float] = {}
    with running_daemon(chosen) as daemon:
        daemon.patience_seconds = 60
        figures["seconds to start"] = seconds_until(lambda: daemon.expect("daemon_ready"))
        figures["processor seconds to start"] = cpu_seconds(daemon)
        assert sample(chosen, "watched_directories") == DIRECTORIES + 1

        for number in (0, DIRECTORIES // 2, DIRECTORIES - 1):
            path = f"{video(number)}/new_720p.avi"
            write(chosen, path)
            seen = seconds_until(partial(daemon.expect, "file_finished", path=path))
            figures["seconds to see a file"] = max(seen, figures.get("seconds to see a file", 0.0))
        daemon.expect("upload_published", count=3)
        figures["idle share"] = idle_share(daemon)

        daemon.signal(signal.SIGSTOP)
        for number in range(OVERFLOW):
            write(chosen, f"{video(number)}/notes.txt")
        lost = f"{video(DIRECTORIES)}/lost_720p.avi"
        os.mkdir(os.path.join(chosen.completed_dir, video(DIRECTORIES)))
        write(chosen, lost)
        daemon.signal(signal.SIGCONT)
        figures["seconds to repair"] = seconds_until(lambda: daemon.expect("file_finished", path=lost))
        daemon.expect("scan_completed", count=2)
        for number in (0, DIRECTORIES):
            path = f"{video(number)}/later_720p.avi"
            write(chosen, path)
            seen = seconds_until(partial(daemon.expect, "file_finished", path=path))
            figures["seconds to see a file"] = max(seen, figures["seconds to see a file"])
        daemon.expect("upload_published", count=6)
        figures["idle share after the overflow"] = idle_share(daemon)
        assert sample(chosen, "event_queue_overflows_total") == 1
        assert sample(chosen, "found_by_scan_files_total") == 1
        assert sample(chosen, "watched_directories") == DIRECTORIES + 2
        figures["MiB"] = most_memory(daemon) / MIB
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    report_outcome(verdict(chosen, sink, OVERFLOWED, injected=1, seconds=figures["seconds to repair"]))
    for name, figure in figures.items():
        print(f"{name}: {figure:.3f}")
        record_property(name, figure)
    assert figures["processor seconds to start"] < MOST_START_SECONDS
    assert figures["MiB"] * MIB < MOST_MEMORY
    assert figures["idle share"] < MOST_IDLE_SHARE
    assert figures["idle share after the overflow"] < MOST_IDLE_SHARE
    assert figures["seconds to see a file"] < MOST_SEEN_SECONDS


@pytest.mark.fault(FLOODED)
def test_of_twenty_thousand_files_written_at_full_speed_none_is_missed(
    chosen: Settings,
    sink: Sink,
    in_memory: str,
    record_property: Callable[[str, object], None],
    report_outcome: ReportOutcome,
) -> None:
    """While they are being uploaded: all of them to the ledger, and to S3 as many as there is time for.

    The ledger is in memory, because a disk that syncs twenty thousand rows would be what is measured.
    """
    chosen = chosen.model_copy(
        update={
            "database_url": SecretStr(f"sqlite://{in_memory}/ledger.sqlite3"),
            "upload_concurrency": 1,
            "catalog": CatalogKind.NONE,
        }
    )
    paths = [f"{video(number % FILES_DIRECTORIES)}/{number}_720p.avi" for number in range(FILES)]
    written: list[float] = []

    def write_all() -> None:
        for number in range(FILES_DIRECTORIES):
            os.mkdir(os.path.join(chosen.completed_dir, video(number)))
        for path in paths:
            write(chosen, path)
        written.append(time.monotonic() - started)

    with running_daemon(chosen) as daemon:
        daemon.patience_seconds = 400
        daemon.expect("daemon_ready")
        started = time.monotonic()
        writer = threading.Thread(target=write_all)
        writer.start()
        daemon.expect("file_finished", count=FILES)
        seconds = time.monotonic() - started
        writer.join()
        print(
            f"written in {written[0]:.1f} s, in the ledger after {seconds:.1f} s, in S3 {len(sink.objects)},"
            f" found by scans {sample(chosen, 'found_by_scan_files_total'):.0f},"
            f" overflows {sample(chosen, 'event_queue_overflows_total'):.0f}"
        )
        record_property("seconds", seconds)
        daemon.process.kill()
        daemon.process.wait()
    assert sorted(recorded(chosen)) == sorted(paths)
    assert sink.objects
    report_outcome(verdict(chosen, sink, FLOODED, injected=FILES, seconds=seconds - written[0]))
