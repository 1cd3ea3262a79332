"""Files over a slow line: they arrive in about the ideal time, and the watchdog never fires.

The ideal is the bits of the files by the rate of the line, without what Ethernet, IP, TCP and HTTP add.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from tests.slow_line.line import MakeLine, SlowLine
from tests.slow_line.watchdog import Watchdog, guarded, watchdog
from tests.support.daemon_process import DaemonProcess, place_file, running_daemon
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.media import Media
from tests.support.s3_server import S3Server
from tests.support.video_files import padded

MOST_OF_IDEAL = 1.25
WATCHDOG_SECONDS = 120.0
"""WatchdogSec= of the unit."""
KBIT = 1_000
MBIT = 1_000_000
MB = 1_000_000

pytestmark = pytest.mark.timeout(3600)


@dataclass
class Sending:
    """A daemon at the near end of a line, the server at its far end, and the watchdog beside the daemon."""

    daemon: DaemonProcess
    server: S3Server
    dog: Watchdog


@contextmanager
def sending(
    line: SlowLine,
    place: str,
    media: Media,
    sizes: list[int],
    *,
    dog_seconds: float,
    through: tuple[str, ...],
) -> Iterator[Sending]:
    """A daemon that has files of these sizes to send."""
    with S3Server(line.address) as server, watchdog(place, dog_seconds) as dog, ExitStack() as stack:
        # All servers of a process have the same buckets.
        stack.callback(server.forget_everything)
        server.create_bucket(BUCKET)
        settings = settings_for(place, server.url, KEEP_LOCAL=True)
        with open(media.faststart, "rb") as file:
            video = file.read()
        source = os.path.join(place, "video.mp4")
        for number, size in enumerate(sizes):
            with open(source, "wb") as file:
                file.write(padded(video, size))
            place_file(settings, f"{VIDEO_ID}/film{number}_720p.mp4", source)
        command = (*line.through, *through)
        with (
            running_daemon(settings, environment=dog.environment, through=command) as daemon,
            guarded(dog, daemon.process.pid),
        ):
            yield Sending(daemon, server, dog)


def send(
    line: SlowLine,
    place: str,
    media: Media,
    sizes: list[int],
    *,
    dog_seconds: float = WATCHDOG_SECONDS,
    through: tuple[str, ...] = (),
) -> None:
    """Have a daemon send files of these sizes, and check how long that took and that each arrived whole."""
    ideal = line.seconds_for(sum(sizes))
    with sending(line, place, media, sizes, dog_seconds=dog_seconds, through=through) as run:
        run.daemon.expect("upload_started")
        started = time.monotonic()
        run.daemon.patience_seconds = 2 * ideal
        try:
            run.daemon.expect("upload_verified", count=len(sizes))
        finally:
            seconds = time.monotonic() - started
            fired = "has fired" if run.dog.has_fired else f"waited {run.dog.longest_silence:.0f} s at most"
            print(f"{seconds:.0f} s, {seconds / ideal:.3f} of the ideal; the watchdog {fired}")
        run.daemon.expect("line_slow")
        stored = run.server.client().list_objects_v2(Bucket=BUCKET)["Contents"]
        assert sorted(found["Size"] for found in stored) == sorted(sizes)
        assert not run.dog.has_fired
        assert seconds <= MOST_OF_IDEAL * ideal


def test_a_body_that_takes_long_keeps_the_watchdog_fed_as_its_bytes_move(
    make_line: MakeLine, place: str, media: Media
) -> None:
    """An upload thread that beats only once a body is accepted has no patience of 20 seconds."""
    impatient = (sys.executable, "-m", "tests.slow_line.impatient", "20")
    send(make_line(512 * KBIT), place, media, [5_500_000, 1 * MB], dog_seconds=20, through=impatient)


def test_a_line_that_becomes_fast_is_used_as_one(make_line: MakeLine, place: str, media: Media) -> None:
    line = make_line(512 * KBIT)
    sizes = [20 * MB, 20 * MB]
    with sending(line, place, media, sizes, dog_seconds=WATCHDOG_SECONDS, through=()) as run:
        run.daemon.expect("line_slow")
        line.set_rate(50 * MBIT)
        run.daemon.patience_seconds = line.seconds_for(sum(sizes)) / 4
        run.daemon.expect("line_recovered")
        run.daemon.expect("upload_verified", count=len(sizes))


@pytest.mark.long
def test_four_files_of_15_mb_arrive_at_512_kbit(make_line: MakeLine, place: str, media: Media) -> None:
    send(make_line(512 * KBIT), place, media, 4 * [15 * MB])


@pytest.mark.long
def test_a_file_of_100_mb_arrives_at_1_mbit(make_line: MakeLine, place: str, media: Media) -> None:
    send(make_line(1 * MBIT), place, media, [100 * MB])
