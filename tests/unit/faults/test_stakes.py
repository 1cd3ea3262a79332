"""The verdict on what was at stake sees what it is there to see."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.files_at_stake import Stakes
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
def stakes(server: S3Server, reported: list[Outcome]) -> Stakes:
    return Stakes("a fault", server, reported.append)


def finished(harness: Harness, stakes: Stakes, content: bytes) -> None:
    """A file at stake that the daemon has seen to its end, a fault on the way."""
    stakes.put(harness.app.settings, PATH, content)
    stakes.inject()
    harness.settle(PATH)
    harness.finish(PATH)


def verdict(harness: Harness, stakes: Stakes) -> tuple[int, int, int]:
    """What the verdict counts as lost, wrong and uploaded twice; it must not be content."""
    with pytest.raises(AssertionError):
        stakes.judge(harness.app.settings)
    assert stakes.outcome is not None
    return stakes.outcome.lost, stakes.outcome.wrong, stakes.outcome.doubled


def test_a_file_that_went_its_way_is_no_harm(
    harness: Harness, stakes: Stakes, reported: list[Outcome], video: bytes
) -> None:
    finished(harness, stakes, video)
    stakes.recovered()
    stakes.judge(harness.app.settings)
    (outcome,) = reported
    assert (outcome.fault, outcome.injected, outcome.at_stake) == ("a fault", 1, 1)
    assert 0 < outcome.seconds < 30


def test_a_file_that_still_waits_on_the_disk_is_not_lost(
    harness: Harness, stakes: Stakes, video: bytes
) -> None:
    target = stakes.put(harness.app.settings, PATH, video)
    os.rename(target, f"{target}.aside")
    stakes.inject()
    stakes.judge(harness.app.settings)


def test_content_that_is_nowhere_is_lost(harness: Harness, stakes: Stakes, video: bytes) -> None:
    os.remove(stakes.put(harness.app.settings, PATH, video))
    stakes.inject()
    assert verdict(harness, stakes) == (1, 0, 0)


def test_an_object_deleted_after_the_release_is_lost_and_the_ledger_wrong(
    harness: Harness, stakes: Stakes, server: S3Server, video: bytes
) -> None:
    finished(harness, stakes, video)
    server.client().delete_object(Bucket=BUCKET, Key=KEY)
    assert verdict(harness, stakes) == (1, 1, 0)


@pytest.mark.parametrize(("key", "lost"), [(KEY, 1), ("videos/other.mp4", 0)])
def test_an_object_that_nobody_finished_is_wrong_also_when_it_was_replaced(
    harness: Harness, stakes: Stakes, server: S3Server, video: bytes, key: str, lost: int
) -> None:
    """Over a released file it is the loss of it, too."""
    finished(harness, stakes, video)
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"half a file")
    assert verdict(harness, stakes) == (lost, 1, 0)
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=video)
    assert verdict(harness, stakes) == (0, 1, 1)


def test_the_same_content_sent_again_is_counted_and_new_content_is_not(
    harness: Harness, stakes: Stakes, server: S3Server, video: bytes
) -> None:
    finished(harness, stakes, video)
    finished(harness, stakes, video + b"\0\0\0\x10free" + bytes(8))
    stakes.judge(harness.app.settings)
    client = server.client()
    content = client.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=KEY, Body=content)
    assert verdict(harness, stakes) == (0, 0, 1)


def test_a_fault_that_never_came_proves_nothing(harness: Harness, stakes: Stakes, video: bytes) -> None:
    stakes.put(harness.app.settings, PATH, video)
    assert verdict(harness, stakes) == (0, 0, 0)
