"""The verdict on files at stake finds every loss, wrong object and double upload."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.files_at_stake import FilesAtStake
from tests.faults.outcomes import Outcome
from tests.support.harness import BUCKET, VIDEO_ID, Harness, open_harness, settings_for
from tests.support.s3_server import S3Server

PATH = f"{VIDEO_ID}/clip_720p.mp4"
KEY = f"videos/{PATH}"


@pytest.fixture
def harness(place: str, server: S3Server) -> Iterator[Harness]:
    with open_harness(settings_for(place, server.url), server) as harness:
        yield harness


@pytest.fixture
def reported() -> list[Outcome]:
    return []


@pytest.fixture
def files_at_stake(server: S3Server, reported: list[Outcome]) -> FilesAtStake:
    return FilesAtStake("a fault", server, reported.append, waited=0.5)


def finished(harness: Harness, files_at_stake: FilesAtStake, content: bytes) -> None:
    """A file at stake that the daemon has seen to its end, a fault on the way."""
    files_at_stake.put(harness.app.settings, PATH, content)
    files_at_stake.inject()
    harness.settle(PATH)
    harness.finish(PATH)


def verdict(harness: Harness, files_at_stake: FilesAtStake) -> tuple[int, int, int]:
    """What the verdict counts as lost, wrong and uploaded twice; it must not be content."""
    with pytest.raises(AssertionError):
        files_at_stake.judge(harness.app.settings)
    assert files_at_stake.outcome is not None
    return files_at_stake.outcome.lost, files_at_stake.outcome.wrong, files_at_stake.outcome.doubled


def test_how_long_others_wait_has_to_be_measured_where_they_can_go_on(
    harness: Harness, files_at_stake: FilesAtStake, video: bytes
) -> None:
    files_at_stake.waited = None
    finished(harness, files_at_stake, video)
    with pytest.raises(AssertionError, match="measure how long"):
        files_at_stake.judge(harness.app.settings)
    files_at_stake.waited = 1000.0
    with pytest.raises(AssertionError, match=r"others waited for 1000\.0 s"):
        files_at_stake.judge(harness.app.settings)


def test_a_file_that_went_its_way_is_no_harm(
    harness: Harness, files_at_stake: FilesAtStake, reported: list[Outcome], video: bytes
) -> None:
    finished(harness, files_at_stake, video)
    files_at_stake.recovered()
    files_at_stake.judge(harness.app.settings)
    (outcome,) = reported
    assert (outcome.fault, outcome.injected, outcome.at_stake) == ("a fault", 1, 1)
    assert 0 < outcome.seconds < 30


def test_a_file_that_still_waits_on_the_disk_is_not_lost(
    harness: Harness, files_at_stake: FilesAtStake, video: bytes
) -> None:
    target = files_at_stake.put(harness.app.settings, PATH, video)
    os.rename(target, f"{target}.aside")
    files_at_stake.inject()
    files_at_stake.judge(harness.app.settings)


def test_content_that_is_nowhere_is_lost(
    harness: Harness, files_at_stake: FilesAtStake, video: bytes
) -> None:
    os.remove(files_at_stake.put(harness.app.settings, PATH, video))
    files_at_stake.inject()
    assert verdict(harness, files_at_stake) == (1, 0, 0)


def test_an_object_deleted_after_the_release_is_lost_and_the_ledger_wrong(
    harness: Harness, files_at_stake: FilesAtStake, server: S3Server, video: bytes
) -> None:
    finished(harness, files_at_stake, video)
    server.client().delete_object(Bucket=BUCKET, Key=KEY)
    assert verdict(harness, files_at_stake) == (1, 1, 0)


@pytest.mark.parametrize(("key", "lost"), [(KEY, 1), ("videos/other.mp4", 0)])
def test_an_object_that_nobody_finished_is_wrong_also_when_it_was_replaced(
    harness: Harness, files_at_stake: FilesAtStake, server: S3Server, video: bytes, key: str, lost: int
) -> None:
    """Over a released file it is the loss of it, too."""
    finished(harness, files_at_stake, video)
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"half a file")
    assert verdict(harness, files_at_stake) == (lost, 1, 0)
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=video)
    assert verdict(harness, files_at_stake) == (0, 1, 1)


def test_the_same_content_sent_again_is_counted_and_new_content_is_not(
    harness: Harness, files_at_stake: FilesAtStake, server: S3Server, video: bytes
) -> None:
    finished(harness, files_at_stake, video)
    finished(harness, files_at_stake, video + b"\0\0\0\x10free" + bytes(8))
    files_at_stake.judge(harness.app.settings)
    client = server.client()
    content = client.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=KEY, Body=content)
    assert verdict(harness, files_at_stake) == (0, 0, 1)


def test_a_fault_that_never_came_proves_nothing(
    harness: Harness, files_at_stake: FilesAtStake, video: bytes
) -> None:
    files_at_stake.put(harness.app.settings, PATH, video)
    assert verdict(harness, files_at_stake) == (0, 0, 0)
