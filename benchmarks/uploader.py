"""This project's daemon, and its command `run --once`, as processes that are measured."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks import process, toolbox
from benchmarks.files import FileSet
from benchmarks.process import CommandFailedError, Cost
from benchmarks.sink_server import Sink
from db import sqlite_url

BUCKET: Final = "benchmark"
ACCESS_KEY_ID: Final = "AKIAIOSFODNN7EXAMPLE"
SECRET_ACCESS_KEY: Final = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
"""The example of AWS's documentation; the sink checks no signatures."""
PATIENCE_SECONDS: Final = 900.0
PUBLISHED: Final = b'"upload_published"'
RELEASED: Final = b'"upload_released"'


def client_environment(directory: str) -> dict[str, str]:
    """The environment of every client: nothing of this machine's but where programs are."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": directory,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass(frozen=True)
class Uploader:
    """The uploader in a directory, in which `completed` is watched."""

    directory: str
    endpoint: str
    certificate: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment beyond the usual one."""

    @property
    def completed(self) -> str:
        """The watched directory."""
        return os.path.join(self.directory, "completed")

    @property
    def ledger_path(self) -> str:
        """The SQLite ledger, if `settings` name no other."""
        return os.path.join(self.directory, "state", "ledger.sqlite3")

    def environment(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            **client_environment(self.directory),
            **({"AWS_CA_BUNDLE": self.certificate} if self.certificate else {}),
            "PYTHONPATH": toolbox.ROOT,
            "COMPLETED_DIR": self.completed,
            "STATE_DIRECTORY": os.path.join(self.directory, "state"),
            "DATABASE_URL": sqlite_url(self.ledger_path),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_S3_BUCKET": BUCKET,
            "INSTANCE_ID": "main",
            "METRICS_ADDRESS": "",
            "DISK_PRESSURE_PERCENT": "100",
            "LOG_FORMAT": "json",
            **self.settings,
        }

    def run_once(self) -> Cost:
        """Run `run --once` to its end. Raises `CommandFailedError`."""
        return process.measured(
            self.command("run", "--once"),
            self.environment(),
            log=os.path.join(self.directory, "once.log"),
            cwd=self.directory,
        )

    def time_command(self, *arguments: str, lines: int | None = None) -> tuple[float, float]:
        """Seconds until a command has ended or, if `lines` is given, has printed so many; and those of CPU.

        Raises `CommandFailedError`.
        """
        before = process.children_cpu_seconds()
        started = time.perf_counter()
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running:
            assert running.stdout is not None
            if lines is not None and all(running.stdout.readline() for _ in range(lines)):
                taken = time.perf_counter() - started
                running.kill()
                running.wait()
                return taken, process.children_cpu_seconds() - before
            _, errors = running.communicate()
            taken = time.perf_counter() - started
        if running.returncode not in {0, 1} or b"Traceback" in errors:
            raise CommandFailedError(f"{' '.join(arguments)}: {errors.decode('utf-8', 'replace')[-2000:]}")
        return taken, process.children_cpu_seconds() - before

    def command(self, *arguments: str) -> list[str]:
        """A command line."""
        return [sys.executable, "-m", "watcher", *arguments]

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """The daemon, ready, while the block lasts."""
        os.makedirs(self.completed, exist_ok=True)
        with subprocess.Popen(
            self.command("run"),
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as running:
            daemon = Daemon(running)
            try:
                daemon.wait_for(b'"daemon_ready"', 1)
                yield daemon
                daemon.stop()
            finally:
                if running.poll() is None:
                    running.kill()


class Daemon:
    """A running daemon, whose log is read as it comes."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self.pid = running.pid
        self._running = running
        self._rest = b""
        self._counts: dict[bytes, int] = {}
        self.tail = b""
        """The end of its log."""

    def wait_for(self, event: bytes, count: int, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until an event was logged so often since the start. Raises `CommandFailedError`."""
        deadline = time.monotonic() + seconds
        while self._counts.get(event, 0) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                have = self._counts.get(event, 0)
                tail = self.tail.decode("utf-8", "replace")
                raise CommandFailedError(f"{have} of {count} {event.decode()} in {seconds:.0f} s: {tail}")

    def read_log(self, seconds: float) -> None:
        """Read the log for so many seconds. Raises `CommandFailedError` if the daemon ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self._read(left) and self._running.poll() is not None:
                raise CommandFailedError(f"the daemon ended: {self.tail.decode('utf-8', 'replace')}")

    def stop(self) -> None:
        """Stop it regularly. Raises `CommandFailedError` if it does not."""
        self._running.send_signal(signal.SIGTERM)
        while self._read(30):
            continue
        if self._running.wait(30):
            raise CommandFailedError(f"the daemon exited with {self._running.returncode}")

    def _read(self, seconds: float) -> bool:
        log = self._running.stderr
        assert log is not None
        if not select.select([log], [], [], seconds)[0]:
            return False
        block = os.read(log.fileno(), 1 << 20)
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            for event in (PUBLISHED, RELEASED, b'"daemon_ready"'):
                if event in line:
                    self._counts[event] = self._counts.get(event, 0) + 1
        self.tail = (self.tail + block)[-8192:]
        return bool(block)


def upload_arriving(
    uploader: Uploader, files: FileSet, *, until: bytes = PUBLISHED, keeps: bool = True
) -> Cost:
    """Rename files into the directory of an idle daemon; the cost until all are published or released.

    The memory is the daemon's peak since its start. With `keeps` the files are renamed back afterwards.
    """
    with uploader.daemon() as daemon:
        daemon.read_log(0.5)
        cpu = process.cpu_seconds(daemon.pid)
        started = time.perf_counter()
        files.move_into(uploader.completed)
        daemon.wait_for(until, files.count)
        cost = Cost(
            time.perf_counter() - started,
            process.cpu_seconds(daemon.pid) - cpu,
            process.peak_rss(process.tree(daemon.pid)),
        )
    if keeps:
        files.move_back(uploader.completed)
    return cost


def upload_present(uploader: Uploader, files: FileSet) -> Cost:
    """The cost of `run --once` for files that are there, its start included."""
    os.makedirs(uploader.completed, exist_ok=True)
    files.move_into(uploader.completed)
    try:
        return uploader.run_once()
    finally:
        files.move_back(uploader.completed)


def require_received(sink: Sink, files: FileSet) -> None:
    """Raise CommandFailedError unless a sink holds an object for each file and has received every byte.

    A client that skips what it takes for present would seem fast.
    """
    stats = sink.stats()
    if stats["objects"] != files.count or stats["bytes"] < files.bytes:
        raise CommandFailedError(
            f"the sink has {stats['objects']} objects and received {stats['bytes']} bytes, not"
            f" {files.count} and {files.bytes}"
        )


def uploader_for(sink: Sink, directory: str, **settings: str) -> Uploader:
    """An uploader with a fresh ledger in a new directory, for a sink, which is emptied.

    An object that a run before has left would be adopted instead of sent.
    """
    sink.reset()
    os.makedirs(directory)
    return Uploader(directory, sink.url, sink.certificate, settings)
