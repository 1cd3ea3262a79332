"""Progress of running uploads: bytes, rate and time left."""

from __future__ import annotations

import pytest

from db import Upload
from tests.support.uploads import make_upload
from watcher.telemetry.transfer_progress import TransferProgress


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def transfer_progress(seconds: Seconds) -> TransferProgress:
    return TransferProgress(clock=seconds)


@pytest.fixture
def upload() -> Upload:
    return make_upload(size=1_000)


def test_rate_and_time_left_follow_from_bytes_and_seconds(
    transfer_progress: TransferProgress, seconds: Seconds, upload: Upload
) -> None:
    transfer_progress.begin(upload, is_resumed=False)
    (snapshot,) = transfer_progress.snapshots()
    assert (snapshot.bytes_sent, snapshot.rate, snapshot.seconds_left) == (0, 0.0, None)
    seconds.now = 10.0
    transfer_progress.update(upload, 200)
    (snapshot,) = transfer_progress.snapshots()
    assert (snapshot.bytes_sent, snapshot.rate, snapshot.seconds_left) == (200, 20.0, 40.0)
    assert snapshot.as_dict()["bytes_per_second"] == 20


def test_parts_that_were_kept_count_as_sent_and_not_for_the_rate(
    transfer_progress: TransferProgress, seconds: Seconds, upload: Upload
) -> None:
    transfer_progress.begin(upload, is_resumed=True)
    transfer_progress.update(upload, 600)
    seconds.now = 10.0
    transfer_progress.update(upload, 800)
    (snapshot,) = transfer_progress.snapshots()
    assert (snapshot.bytes_sent, snapshot.rate, snapshot.seconds_left) == (800, 20.0, 10.0)


def test_an_upload_never_goes_back_and_never_past_its_end(
    transfer_progress: TransferProgress, upload: Upload
) -> None:
    """A part that is sent twice does not count twice."""
    transfer_progress.begin(upload, is_resumed=False)
    transfer_progress.update(upload, 500)
    transfer_progress.update(upload, 300)
    assert transfer_progress.snapshots()[0].bytes_sent == 500
    transfer_progress.update(upload, 1_500)
    assert transfer_progress.snapshots()[0].bytes_sent == upload.size == 1_000


def test_an_upload_that_is_over_is_removed(transfer_progress: TransferProgress, upload: Upload) -> None:
    transfer_progress.begin(upload, is_resumed=False)
    transfer_progress.end(upload)
    transfer_progress.update(upload, 500)
    assert transfer_progress.snapshots() == []
