"""What the daemon costs while it has little to do: latency of one file, idling, start."""

from __future__ import annotations

import os
import time
from contextlib import closing

from benchmarks import process, rivals, toolbox
from benchmarks.files import FileSet, make_files, path_of, video_id, write_video
from benchmarks.pairs import percentile, spread
from benchmarks.results import Result, Table
from benchmarks.scale import KIB, MIB, Bench
from benchmarks.sink_server import Sink, running_sink
from benchmarks.uploader import PUBLISHED, Uploader, uploader_for
from db import open_database, sqlite_url
from tests.support.bulk_ledger import fill_ledger

REPEATED_STARTS = 3
FIRST_NEW = 10**8
"""The number of the first file that is none of the ledger's."""
PER_VIDEO = 5
"""The uploads of each video in the ledgers that `fill_ledger` makes."""


def latency(bench: Bench) -> Result:
    """1 MiB into an idle daemon: from the last close of the file to its publication."""
    result = Result()
    table = Table(
        "1 MiB into an idle daemon, from the last close",
        ("client", "files", "p50 ms", "p99 ms", "largest ms"),
    )
    result.tables.append(table)
    with running_sink() as sink:
        ours = _daemon_latencies(bench, sink)
        clients = {"daemon, until it is published": ours}
        files = make_files(bench.new("files"), bench.scale.shell_files, MIB)
        try:
            clients["inotifywait and aws-cli in a shell"] = rivals.shell_line_latencies(
                sink, files, bench.made("shell")
            )
        except toolbox.UnavailableError as error:
            table.notes.append(f"The line in a shell was not measured: {error}.")
    for client, seconds in clients.items():
        milliseconds = [taken * 1000 for taken in seconds]
        shown = (percentile(milliseconds, 0.5), percentile(milliseconds, 0.99), max(milliseconds))
        table.rows.append((client, str(len(seconds)), *(f"{number:.1f}" for number in shown)))
    result.figures |= {
        "latency.p50": percentile(ours, 0.5) * 1000,
        "latency.p99": percentile(ours, 0.99) * 1000,
    }
    result.raw |= clients
    return result


def _daemon_latencies(bench: Bench, sink: Sink) -> list[float]:
    uploader = uploader_for(sink, bench.new("daemon"))
    count = bench.scale.latency_files
    files = FileSet(uploader.completed, count, MIB)
    for path in files.paths():
        os.makedirs(os.path.dirname(os.path.join(uploader.completed, path)), exist_ok=True)
    taken = []
    with uploader.daemon() as daemon:
        daemon.read_log(1)
        for number, path in enumerate(files.paths()):
            write_video(os.path.join(uploader.completed, path), MIB, number)
            closed = time.perf_counter()
            daemon.wait_for(PUBLISHED, number + 1, seconds=60)
            taken.append(time.perf_counter() - closed)
            daemon.read_log(0.05)
    return taken


def idle(bench: Bench) -> Result:
    """CPU, wake-ups and memory of a daemon that watches 10,000 directories in which nothing happens."""
    count, seconds = bench.scale.idle_directories, bench.scale.idle_seconds
    with running_sink() as sink:
        uploader = uploader_for(sink, bench.new("daemon"))
        for number in range(count):
            os.makedirs(os.path.join(uploader.completed, video_id(number)))
        with uploader.daemon() as daemon:
            daemon.read_log(bench.scale.idle_settling)
            cpu, woken = process.cpu_seconds(daemon.pid), process.wake_ups(daemon.pid)
            began = time.perf_counter()
            daemon.read_log(seconds)
            passed = time.perf_counter() - began
            percent = (process.cpu_seconds(daemon.pid) - cpu) / passed * 100
            rate = (process.wake_ups(daemon.pid) - woken) / passed
            memory = process.rss(daemon.pid) / MIB
    table = Table(
        f"Idle for {seconds:.0f} s with {count:,} directories", ("CPU %", "wake-ups a second", "memory MiB")
    )
    table.rows.append((f"{percent:.3f}", f"{rate:.1f}", f"{memory:.0f}"))
    return Result([table], {"idle.cpu": percent, "idle.wake_ups": rate, "idle.rss": memory})


def start(bench: Bench) -> Result:
    """From the start of a daemon with 200,000 released rows and their directories to its first new upload."""
    rows = bench.scale.released_rows
    taken = []
    with running_sink() as sink:
        uploader = uploader_for(sink, bench.new("daemon"))
        fill_released(uploader, rows)
        for turn in range(REPEATED_STARTS):
            path = os.path.join(uploader.completed, path_of(FIRST_NEW + 4 * turn))
            os.makedirs(os.path.dirname(path))
            write_video(path, 64 * KIB, turn)
            began = time.perf_counter()
            with uploader.daemon() as daemon:
                daemon.wait_for(PUBLISHED, 1)
                taken.append(time.perf_counter() - began)
    table = Table(
        f"Start with {rows:,} released rows and their {rows // PER_VIDEO:,} directories",
        ("from the start to", "first s", "then s"),
    )
    warm = spread(taken[1:])
    table.rows.append(("the first new file is uploaded and published", f"{taken[0]:.1f}", warm.text(2)))
    return Result([table], {"start.seconds": warm.median}, {"seconds": taken})


def fill_released(uploader: Uploader, rows: int) -> None:
    """Give an uploader a ledger of released uploads and make the directories that their videos had."""
    os.makedirs(os.path.dirname(uploader.ledger_path), exist_ok=True)
    os.makedirs(uploader.completed, exist_ok=True)
    with closing(open_database(sqlite_url(uploader.ledger_path))) as database:
        fill_ledger(database, rows, all_released=True)
        with database.operation("list the videos") as connected:
            videos = connected.execute_sql("SELECT DISTINCT video_id FROM uploads").fetchall()
    for (video,) in videos:
        os.makedirs(os.path.join(uploader.completed, str(video)), exist_ok=True)
