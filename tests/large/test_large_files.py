"""A file of 5 GiB through the real daemon: little memory, little sent twice, and a bandwidth that is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from db import Ledger, State, Upload, open_database
from storage.proof_by_reading import CONTENT as PROBE
from tests.large.sink import Sink, running_sink
from tests.large.sparse_video import make_sparse_video
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.harness import VIDEO_ID, settings_for
from tests.support.media import Media
from tests.support.s3_server import forget_aws
from watcher.settings.model import Settings

GIB = 1024**3
MIB = 1024**2
SIZE = 5 * GIB
MOST_MEMORY = 200 * MIB
KILLED_AT = 0.60
MOST_SENT_LATER = 0.45
PATH = f"{VIDEO_ID}/large_original.mp4"
PATIENCE_SECONDS = 300.0
SETTLING_SECONDS = 3.0
MEASURED_SECONDS = 10.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _no_aws_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A server that only counts and takes checksums."""
    with running_sink() as running:
        yield running


@pytest.fixture
def settings(place: str, sink: Sink, media: Media) -> Settings:  # the fixtures
    """Settings of a daemon whose directory holds the large file; it keeps its local copy."""
    chosen = settings_for(place, sink.url, KEEP_LOCAL=True)
    path = os.path.join(chosen.completed_dir, PATH)
    os.makedirs(os.path.dirname(path))
    with open(media.faststart, "rb") as file:
        make_sparse_video(path, file.read(), SIZE)
    return chosen


def peak_memory(daemon: DaemonProcess) -> int:
    """The most that the process has had resident at once, in bytes; see proc(5)."""
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def row(settings: Settings) -> Upload:
    """The ledger's word on the file, read from outside."""
    database = open_database(settings.ledger_url, read_only=True)
    try:
        (found,) = Ledger(database, settings.instance).uploads()
    finally:
        database.close()
    return found


def publish(daemon: DaemonProcess) -> dict[str, Any]:
    """Wait until the file is published."""
    daemon.patience_seconds = PATIENCE_SECONDS
    return daemon.expect("upload_published", path=PATH)


def ensure_confirmed(settings: Settings, sink: Sink) -> None:
    """The object is there, whole, and proven to be."""
    ended = row(settings)
    stored = sink.objects[ended.object_key]
    assert ended.state is State.PUBLISHED
    assert ended.confirmed_by == "checksum"
    assert (stored.size, stored.etag) == (SIZE, ended.etag)
    assert not sink.uploads


def test_memory_does_not_grow_with_the_file(
    settings: Settings, sink: Sink, record_property: Callable[[str, object], None]
) -> None:
    with running_daemon(settings) as daemon:
        publish(daemon)
        peak = peak_memory(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    print(f"peak resident memory {peak / MIB:.0f} MiB, {sink.bytes_received / SIZE:.2%} of the file sent")
    record_property("peak_rss_mib", peak // MIB)
    assert peak < MOST_MEMORY
    # A small upload of two parts finds out whether the server compares checksums.
    assert sink.bytes_received == SIZE + 2 * len(PROBE)
    ensure_confirmed(settings, sink)


def test_after_a_kill_only_the_rest_is_sent(
    settings: Settings, sink: Sink, record_property: Callable[[str, object], None]
) -> None:
    peaks: list[int] = []
    # Blocks arrive in several threads of the server; one of them kills.
    first = threading.Lock()
    with running_daemon(settings) as daemon:

        def kill(received: int) -> None:
            if received >= KILLED_AT * SIZE and first.acquire(blocking=False):
                peaks.append(peak_memory(daemon))
                daemon.process.kill()

        sink.on_bytes = kill
        assert daemon.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    received = sink.bytes_received
    assert row(settings).state is State.PENDING

    with running_daemon(settings) as daemon:
        publish(daemon)
        peaks.append(peak_memory(daemon))
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    sent_later = (sink.bytes_received - received) / SIZE
    print(f"killed at {received / SIZE:.2%}, then {sent_later:.2%} of the file sent, peaks {peaks}")
    record_property("sent_later", sent_later)
    assert sent_later <= MOST_SENT_LATER
    assert sent_later >= 1 - received / SIZE
    assert max(peaks) < MOST_MEMORY
    ensure_confirmed(settings, sink)


def test_the_bandwidth_is_kept_within_five_percent_and_changes_by_a_signal(
    settings: Settings,
    sink: Sink,
    place: str,  # the fixture
) -> None:
    """Counted at the server over ten seconds each, after the first ones in which connections are opened."""
    arrivals: list[tuple[float, int]] = []
    sink.on_bytes = lambda received: arrivals.append((time.monotonic(), received))
    env_file = os.path.join(place, ".env")
    write_text(env_file, "MAX_BANDWIDTH=20MB/s\n")
    with running_daemon(settings) as daemon:
        daemon.patience_seconds = PATIENCE_SECONDS
        daemon.expect("upload_started", path=PATH)
        assert rate_over(MEASURED_SECONDS, arrivals) == pytest.approx(20e6, rel=0.05)
        write_text(env_file, "MAX_BANDWIDTH=320Mbit/s\n")
        daemon.signal(signal.SIGHUP)
        assert daemon.expect("settings_reloaded")["changed"] == ["MAX_BANDWIDTH"]
        assert rate_over(MEASURED_SECONDS, arrivals) == pytest.approx(40e6, rel=0.05)


def rate_over(seconds: float, arrivals: list[tuple[float, int]]) -> float:
    """Bytes a second that arrive in the time to come, once it has settled."""
    passing = threading.Event()
    passing.wait(SETTLING_SECONDS)
    began_at, before = arrivals[-1]
    passing.wait(seconds)
    ended_at, after = arrivals[-1]
    rate = (after - before) / (ended_at - began_at)
    print(f"{rate / 1e6:.2f} MB/s over {ended_at - began_at:.1f} s")
    return rate


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
