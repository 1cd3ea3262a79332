"""Long reads: how many at once, in which order, how fast, and when they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from db import Identity, State
from storage import UploadCancelledError
from tests.support.uploads import make_upload
from watcher.filesystem.hashing import COPY_SHARE, REST_AFTER_SECONDS, Hashing, Rank

WAIT_SECONDS = 10


@dataclass
class Thread:
    """What a read knows of its thread; nothing stops it unless a test says so."""

    beats: int = 0
    is_stopped: bool = False
    rested: list[float] = field(default_factory=list)
    while_resting: Callable[[], object] = lambda: None

    def beat(self) -> None:
        self.beats += 1

    def stopped(self) -> bool:
        return self.is_stopped

    def wait(self, seconds: float) -> bool:
        self.rested.append(seconds)
        self.while_resting()
        return self.is_stopped


@contextmanager
def in_the_background(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Work in another thread, whose end is waited for."""
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_small_new_file_is_read_between_two_blocks_of_a_large_one() -> None:
    hashing = Hashing(places=1)
    story: list[str] = []

    def read_small() -> None:
        with hashing.pace(Rank.NEW, 20_000, Thread()) as before_block:
            before_block(0)
            story.append("small")

    with hashing.pace(Rank.NEW, 10**11, Thread()) as before_block:
        before_block(0)
        story.append("large")
        with in_the_background(read_small):
            until(lambda: hashing._waiting)
            before_block(10**6)
            story.append("large")
    assert story == ["large", "small", "large"]
    assert hashing.bytes_read == 10**6


def test_a_read_that_is_sooner_keeps_its_place_until_it_ends() -> None:
    hashing = Hashing(places=1)
    story: list[str] = []

    def read_large() -> None:
        with hashing.pace(Rank.NEW, 1000, Thread()):
            story.append("large")

    large = threading.Thread(target=read_large)
    with hashing.pace(Rank.NEW, 10, Thread()) as before_block:
        large.start()
        until(lambda: hashing._waiting)
        for _ in range(3):
            before_block(1)
            story.append("small")
    large.join(WAIT_SECONDS)
    assert story == ["small", "small", "small", "large"]


def test_new_content_is_read_before_old_and_small_files_before_large_ones() -> None:
    hashing = Hashing(places=1)
    reads = [(Rank.COPY, 1), (Rank.AGAIN, 5), (Rank.NEW, 100), (Rank.COPY, 7), (Rank.NEW, 10)]
    story: list[tuple[Rank, int]] = []

    def read(rank: Rank, size: int) -> None:
        with hashing.pace(rank, size, Thread()):
            story.append((rank, size))

    threads = [threading.Thread(target=read, args=each) for each in reads]
    with hashing.pace(Rank.NEW, 10**9, Thread()):
        for thread in threads:
            thread.start()
        until(lambda: len(hashing._waiting) == len(reads))
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert story == sorted(reads)


def test_no_more_files_are_read_at_once_than_there_are_places() -> None:
    hashing = Hashing(places=2)
    third = Thread()
    with hashing.pace(Rank.NEW, 1, Thread()), hashing.pace(Rank.NEW, 2, Thread()):
        third.is_stopped = True
        with pytest.raises(UploadCancelledError), hashing.pace(Rank.NEW, 0, third):
            pass
    with hashing.pace(Rank.NEW, 3, Thread()):
        pass


@pytest.mark.parametrize("rank", Rank)
def test_copies_are_read_for_a_share_of_the_time_and_leave_their_place_meanwhile(rank: Rank) -> None:
    now = 0.0
    hashing = Hashing(places=1, clock=lambda: now)
    thread = Thread()

    def read_new() -> None:
        nonlocal now
        with hashing.pace(Rank.NEW, 1, Thread()):
            now += 3

    thread.while_resting = read_new
    with hashing.pace(rank, 10**11, thread) as before_block:
        before_block(0)
        for _ in range(100):
            now += 0.01
            before_block(10**6)
    if rank is Rank.COPY:
        # The last stretch may be followed by no block before which it would rest.
        assert sum(thread.rested) == pytest.approx((1 - COPY_SHARE) / COPY_SHARE, abs=2 * REST_AFTER_SECONDS)
    else:
        assert thread.rested == []


def test_a_read_beats_with_every_block_and_ends_at_the_block_after_a_stop() -> None:
    thread = Thread()
    with Hashing().pace(Rank.AGAIN, 10**11, thread) as before_block:
        for _ in range(5):
            beats = thread.beats
            before_block(10**6)
            assert thread.beats > beats
        thread.is_stopped = True
        with pytest.raises(UploadCancelledError):
            before_block(10**6)


def test_a_read_that_waits_for_a_place_beats_and_ends_when_it_is_stopped() -> None:
    hashing = Hashing(places=1)
    thread = Thread()
    story: list[str] = []

    def wait() -> None:
        try:
            with hashing.pace(Rank.NEW, 10, thread):
                story.append("read")
        except UploadCancelledError:
            story.append("cancelled")

    with hashing.pace(Rank.NEW, 1, Thread()), in_the_background(wait):
        until(lambda: thread.beats >= 2)
        thread.is_stopped = True
    assert story == ["cancelled"]
    assert hashing._free == 1


def test_a_stop_ends_a_rest() -> None:
    now = 0.0
    thread = Thread()
    with Hashing(clock=lambda: now).pace(Rank.COPY, 10**11, thread) as before_block:
        now += 1
        thread.while_resting = lambda: setattr(thread, "is_stopped", True)
        with pytest.raises(UploadCancelledError):
            before_block(10**6)


@pytest.mark.parametrize(
    ("state", "changes", "rank"),
    [
        (State.PUBLISHED, {"device": 9}, Rank.COPY),
        (State.PUBLISHED, {"ctime_ns": 9}, Rank.COPY),
        (State.PUBLISHED, {"device": 9, "ctime_ns": 9}, Rank.COPY),
        (State.PENDING, {"device": 9}, Rank.AGAIN),
        (State.PUBLISHED, {"mtime_ns": 9}, Rank.NEW),
        (State.PENDING, {"inode": 9}, Rank.NEW),
    ],
)
def test_what_only_looks_touched_is_read_last(state: State, changes: dict[str, int], rank: Rank) -> None:
    upload = make_upload(state=state, ctime_ns=4)
    identity: Identity = replace(upload.identity, **changes)
    assert Rank.of(upload, identity) is rank
