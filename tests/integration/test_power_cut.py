"""What a power cut leaves of a file never replaces its good object, and is never published as good.

These are the promises where no catalog has a say; with the compressor's, a verified object is only replaced
for a newer row (`test_catalog_gate`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.support.bucket_contents import open_multiparts
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import FIVE_PARTS, content, interrupted, published
from tests.support.video_files import FREE_BOX, padded
from watcher.errors import Code

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/my_video_720p.mp4"

Damage = Callable[[bytes], bytes]


def zeros(video: bytes) -> bytes:
    """The size is on the disk, the data is not."""
    return b"\0" * len(video)


def short(video: bytes) -> bytes:
    """Only the first half is on the disk."""
    return video[: len(video) // 2]


def zeros_behind_the_index(video: bytes) -> bytes:
    """With `moov` before the data, the container's boxes are intact."""
    return video[:-1000] + b"\0" * 1000


def leave(harness: Harness, damaged: bytes, *, seconds_back: int = 0) -> None:
    """Leave damaged content as a power cut does: the same inode and ctime, the same or an earlier time."""
    path = harness.absolute(PATH)
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(damaged)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - seconds_back * 10**9))
    # No power cut changes the ctime, and no process can set it: so the recorded one is made the present one.
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction("set a ctime"):
        uploads.update(ctime_ns=os.stat(path).st_ctime_ns).where(uploads.path == PATH).execute()
    assert os.stat(path).st_ino == before.st_ino


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    opened: Harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    return opened


@pytest.mark.fault("zeros, or a half, after a power cut")
@pytest.mark.parametrize(
    ("damage", "seconds_back", "code"),
    [
        (zeros, 1, Code.INCOMPLETE),
        (short, 0, Code.INCOMPLETE),
        (zeros_behind_the_index, 1, Code.ROLLED_BACK),
        (lambda video: video + FREE_BOX, 1, Code.ROLLED_BACK),
        (lambda video: video + FREE_BOX, 0, Code.ROLLED_BACK),
    ],
    ids=["zeros", "short", "zeros behind the index", "an older state of the file", "another size"],
)
def test_a_damaged_copy_of_a_published_file_is_rejected_and_its_object_stays(
    harness: Harness, video: bytes, files_at_stake: FilesAtStake, damage: Damage, seconds_back: int, code: str
) -> None:
    published(harness, video)
    files_at_stake.add(PATH, video)
    good = harness.row(PATH)
    leave(harness, damage(video), seconds_back=seconds_back)
    files_at_stake.inject()
    row = harness.settle(PATH)
    assert row is not None
    assert (row.state, row.error_code) == (State.REJECTED, code)
    harness.finish(PATH)
    assert harness.object(good) == video
    assert content(harness) == damage(video)
    assert harness.catalog_urls() == [f"/{BUCKET}/{good.object_key}"]
    files_at_stake.judge(harness.app.settings)


def test_without_any_catalog_it_is_the_same(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness(CATALOG="none", RELEASE_AFTER_SECONDS=3600)
    published(harness, video)
    good = harness.row(PATH)
    leave(harness, zeros_behind_the_index(video), seconds_back=1)
    harness.settle(PATH)
    assert harness.finish(PATH).error_code == Code.ROLLED_BACK
    assert harness.object(good) == video


def test_it_stays_rejected_when_its_identity_changes_once_more(harness: Harness, video: bytes) -> None:
    published(harness, video)
    good = harness.row(PATH)
    leave(harness, zeros_behind_the_index(video), seconds_back=1)
    harness.settle(PATH)
    leave(harness, zeros_behind_the_index(video), seconds_back=1)
    row = harness.settle(PATH)
    assert row is not None
    assert (row.state, row.error_code) == (State.REJECTED, Code.ROLLED_BACK)
    assert harness.object(good) == video


def test_a_retry_uploads_the_damaged_content(harness: Harness, video: bytes) -> None:
    published(harness, video)
    leave(harness, zeros_behind_the_index(video), seconds_back=1)
    row = harness.settle(PATH)
    assert row is not None
    harness.app.ledger.reopen(row.id, reason="retried by hand")
    assert harness.object(harness.finish(PATH)) == zeros_behind_the_index(video)


def test_the_good_content_restored_in_its_place_is_recognised(harness: Harness, video: bytes) -> None:
    published(harness, video)
    leave(harness, zeros_behind_the_index(video), seconds_back=1)
    harness.settle(PATH)
    leave(harness, video, seconds_back=1)
    harness.settle(PATH)
    harness.finish(PATH)
    assert harness.row(PATH).state is State.PUBLISHED
    assert "adopted" in harness.events(PATH)


def test_content_that_was_written_since_replaces_the_object(harness: Harness, video: bytes) -> None:
    published(harness, video)
    harness.write(PATH, video + FREE_BOX)
    harness.settle(PATH)
    assert harness.object(harness.finish(PATH)) == video + FREE_BOX


def test_another_file_put_in_its_place_replaces_the_object_however_old_it_is(
    harness: Harness, video: bytes
) -> None:
    """`mv` and `cp -p` keep the time; their content is intended."""
    published(harness, video)
    harness.write(f"{PATH}.part", video + FREE_BOX)
    os.utime(harness.absolute(f"{PATH}.part"), ns=(1, 1))
    os.replace(harness.absolute(f"{PATH}.part"), harness.absolute(PATH))
    harness.settle(PATH)
    assert harness.object(harness.finish(PATH)) == video + FREE_BOX


def test_damage_that_no_identity_shows_goes_with_the_copy_and_the_good_object_stays(
    make_harness: MakeHarness, video: bytes
) -> None:
    """Size, time and inode are the same: the copy is released after the object was confirmed."""
    harness = make_harness()
    published(harness, video)
    leave(harness, zeros(video))
    harness.settle(PATH)
    assert harness.finish(PATH).state is State.RELEASED
    assert harness.object(harness.row(PATH)) == video


def test_a_damaged_copy_is_not_sent_for_an_object_that_was_lost(
    harness: Harness, video: bytes, server: S3Server
) -> None:
    """A file is hashed again before it is sent: other content under the same identity is damage."""
    harness.app.policy.retention *= 0
    published(harness, video)
    leave(harness, zeros(video))
    server.client().delete_object(Bucket=BUCKET, Key=harness.row(PATH).object_key)
    harness.app.ledger.reschedule_published(harness.app.policy.retention)
    assert harness.step(State.PUBLISHED)[0].state is State.PENDING
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, Code.LOCAL_DAMAGED)
    assert harness.object(row) is None
    assert content(harness) == zeros(video)
    harness.app.ledger.reopen(row.id, reason="retried by hand")
    assert harness.step(State.PENDING)[0].state is State.VERIFIED


def test_the_parts_of_a_file_that_was_damaged_in_the_middle_of_its_upload_are_given_up(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, server: S3Server
) -> None:
    row = interrupted(make_harness(), proxy, video)
    leave(next_life := make_harness(), zeros(padded(video, FIVE_PARTS)))
    next_life.app.ledger.release_all_claims()
    (failed,) = next_life.step(State.PENDING)
    assert (failed.id, failed.state, failed.error_code) == (row.id, State.FAILED, Code.LOCAL_DAMAGED)
    assert open_multiparts(server) == []
    assert next_life.object(failed) is None
