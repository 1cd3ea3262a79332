"""On a full disk published copies are released early, oldest first and no more than needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from db import State
from tests.support.fault_proxy import Answer, FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.peer_process import writer
from tests.support.s3_server import S3Server
from watcher.stages.disk_pressure import Fullness

HOUR = 3600
PRESSURE = {"RELEASE_AFTER_SECONDS": HOUR, "DISK_PRESSURE_PERCENT": 50}


def path(number: int) -> str:
    return f"{VIDEO_ID}/video {number}_720p.mp4"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Harness, int], None]:
    """A disk of a given size on which only the files below the watched directory use space."""

    def of_size(harness: Harness, room: int) -> None:
        def measure(_: int) -> SimpleNamespace:
            used = sum(
                os.stat(os.path.join(directory, name)).st_size
                for directory, _, names in os.walk(harness.app.tree.root)
                for name in names
            )
            free = max(0, room - used)
            return SimpleNamespace(f_frsize=1, f_blocks=room, f_bfree=free, f_bavail=free)

        monkeypatch.setattr(os, "fstatvfs", measure)

    return of_size


def publish(harness: Harness, video: bytes, count: int) -> None:
    for number in range(count):
        harness.put(path(number), video)
        harness.step(State.PENDING)
        harness.step(State.VERIFIED)
    assert {harness.row(path(number)).state for number in range(count)} == {State.PUBLISHED}


def left(harness: Harness) -> list[str]:
    directory = harness.absolute(VIDEO_ID)
    return sorted(f"{VIDEO_ID}/{name}" for name in os.listdir(directory))


def relieve(harness: Harness) -> int:
    """Look at the disk, and release what that made due."""
    hastened = harness.app.disk_pressure.check()
    harness.step(State.PUBLISHED)
    return hastened


def test_the_oldest_published_copies_go_until_there_is_room_and_the_others_stay(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 4)
    disk(harness, 5 * len(video))
    assert relieve(harness) == 2
    assert left(harness) == [path(2), path(3)]
    assert [harness.row(path(number)).state for number in range(4)] == [State.RELEASED] * 2 + [
        State.PUBLISHED
    ] * 2
    assert relieve(harness) == 0
    assert left(harness) == [path(2), path(3)]
    events = harness.app.ledger.events(harness.row(path(0)).id)
    assert events[-1].detail == "the local copy was removed early, because the disk is full"
    sample = harness.app.context.metrics.registry.get_sample_value
    assert sample("video_uploader_released_early_bytes_total") == 2 * len(video)


def test_nothing_goes_early_while_there_is_room(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 2)
    disk(harness, 5 * len(video))
    assert relieve(harness) == 0
    assert left(harness) == [path(0), path(1)]


def test_what_is_due_already_counts_and_nothing_more_is_made_due_for_it(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    """Checks are more frequent than releases: they must not add up."""
    harness = make_harness(**PRESSURE)
    publish(harness, video, 4)
    disk(harness, 5 * len(video))
    pressure = harness.app.disk_pressure
    assert [pressure.check() for _ in range(3)] == [2, 0, 0]


def test_neither_the_unpublished_nor_the_unconfirmed_goes_however_full_the_disk(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    harness.put(path(0), video)
    harness.step(State.PENDING)
    harness.put(path(1), video)
    disk(harness, len(video))
    assert relieve(harness) == 0
    assert [harness.row(path(number)).state for number in range(2)] == [State.VERIFIED, State.PENDING]
    assert left(harness) == [path(0), path(1)]


def test_keep_local_wins(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE, KEEP_LOCAL=True)
    publish(harness, video, 2)
    disk(harness, len(video))
    with capture_logs() as logs:
        assert relieve(harness) == 0
    (told,) = [line for line in logs if line["event"] == "disk_pressure"]
    assert "KEEP_LOCAL" in told["hint"]
    assert not harness.app.runners[State.PUBLISHED].stage.is_enabled()
    assert left(harness) == [path(0), path(1)]


def test_a_copy_made_due_stays_if_the_pressure_is_over_when_its_turn_comes(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 1)
    disk(harness, len(video))
    assert harness.app.disk_pressure.check() == 1
    disk(harness, 10 * len(video))
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code, row.attempts) == (State.PUBLISHED, "retention", 0)
    assert left(harness) == [path(0)]
    disk(harness, len(video))
    assert relieve(harness) == 1
    assert left(harness) == []


def test_a_full_disk_is_no_reason_to_trust_an_object(
    make_harness: MakeHarness,
    video: bytes,
    server: S3Server,
    proxy: FaultProxy,
    disk: Callable[[Harness, int], None],
) -> None:
    """All checks before a release are made: a lost object, a refused HEAD or a writer keeps the copy."""
    harness = make_harness(RELEASE_AFTER_SECONDS=HOUR, DISK_PRESSURE_PERCENT=1)
    publish(harness, video, 3)
    disk(harness, 3 * len(video))
    server.client().delete_object(Bucket=BUCKET, Key=harness.row(path(0)).object_key)
    with writer(harness.absolute(path(1)), os.O_WRONLY) as process:
        process.expect("opened")
        proxy.fault = lambda request, forward: (
            Answer(403) if request.action == "HeadObject" and "2_720p" in request.path else forward()
        )
        assert relieve(harness) == 3
    assert [harness.row(path(number)).state for number in range(3)] == [State.PENDING] + [State.PUBLISHED] * 2
    assert left(harness) == [path(0), path(1), path(2)]


def test_a_copy_that_cannot_go_does_not_keep_a_younger_one(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 2)
    disk(harness, 3 * len(video))
    with writer(harness.absolute(path(0)), os.O_WRONLY) as process:
        process.expect("opened")
        assert relieve(harness) == 1
        assert left(harness) == [path(0), path(1)]
        assert relieve(harness) == 1
        assert left(harness) == [path(0)]


def test_pressure_is_told_once_and_its_end_too(
    make_harness: MakeHarness, video: bytes, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 3)
    pressure = harness.app.disk_pressure
    sample = harness.app.context.metrics.registry.get_sample_value
    with capture_logs() as logs:
        disk(harness, 4 * len(video))
        pressure.check()
        pressure.check()
        assert pressure.report() == {"used_percent": 75.0, "limit_percent": 50, "is_high": True}
        assert sample("video_uploader_disk_pressure") == 1
        assert sample("video_uploader_disk_used_ratio") == 0.75
        disk(harness, 10 * len(video))
        pressure.check()
        assert sample("video_uploader_disk_pressure") == 0
    assert [line["event"] for line in logs] == ["disk_pressure", "disk_pressure_over"]


def test_a_directory_that_is_away_says_nothing_of_its_disk(
    make_harness: MakeHarness, video: bytes, place: str, disk: Callable[[Harness, int], None]
) -> None:
    harness = make_harness(**PRESSURE)
    publish(harness, video, 1)
    disk(harness, len(video))
    harness.app.disk_pressure.check()
    assert harness.app.disk_pressure.is_high
    os.rename(harness.app.tree.root, os.path.join(place, "away"))
    assert harness.app.disk_pressure.check() == 0
    assert not harness.app.disk_pressure.is_high_now()
    assert harness.app.disk_pressure.report()["used_percent"] is None


def test_a_file_system_that_does_not_tell_its_size_is_never_too_full() -> None:
    assert Fullness.of(SimpleNamespace(f_frsize=1, f_blocks=0, f_bfree=0, f_bavail=0)) is None  # type: ignore[arg-type]
    full = Fullness.of(SimpleNamespace(f_frsize=2, f_blocks=100, f_bfree=10, f_bavail=5))  # type: ignore[arg-type]
    assert full is not None
    assert (full.used, full.capacity, full.excess(100)) == (180, 190, -10)
