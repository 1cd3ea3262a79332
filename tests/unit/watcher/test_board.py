"""What is known of the uploads under way: bytes, rate and time left."""

from __future__ import annotations

import pytest

from db import Upload
from tests.unit.db.places import enqueue
from tests.workshop import Workshop
from watcher.telemetry.transfer_progress import Board


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
def board(seconds: Seconds) -> Board:
    return Board(clock=seconds)


@pytest.fixture
def upload(workshop: Workshop) -> Upload:
    """A row of 1,000 bytes."""
    return enqueue(workshop.house.ledger)


def test_rate_and_time_left_follow_from_bytes_and_seconds(
    board: Board, seconds: Seconds, upload: Upload
) -> None:
    board.begin(upload, is_resumed=False)
    (line,) = board.lines()
    assert (line.bytes_sent, line.rate, line.seconds_left) == (0, 0.0, None)
    seconds.now = 10.0
    board.move(upload, 200)
    (line,) = board.lines()
    assert (line.bytes_sent, line.rate, line.seconds_left) == (200, 20.0, 40.0)
    assert line.as_dict()["bytes_per_second"] == 20


def test_parts_that_were_kept_count_as_sent_and_not_for_the_rate(
    board: Board, seconds: Seconds, upload: Upload
) -> None:
    board.begin(upload, is_resumed=True)
    board.move(upload, 600)
    seconds.now = 10.0
    board.move(upload, 800)
    (line,) = board.lines()
    assert (line.bytes_sent, line.rate, line.seconds_left) == (800, 20.0, 10.0)


def test_an_upload_never_goes_back_and_never_past_its_end(board: Board, upload: Upload) -> None:
    """A part that is sent twice does not count twice."""
    board.begin(upload, is_resumed=False)
    board.move(upload, 500)
    board.move(upload, 300)
    assert board.lines()[0].bytes_sent == 500
    board.move(upload, 1_500)
    assert board.lines()[0].bytes_sent == upload.size == 1_000


def test_an_upload_that_is_over_is_off_the_board(board: Board, upload: Upload) -> None:
    board.begin(upload, is_resumed=False)
    board.end(upload)
    board.move(upload, 500)
    assert board.lines() == []
