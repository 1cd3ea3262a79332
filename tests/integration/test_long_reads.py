"""Long reads hold up neither the watchdog, nor a stop, nor any new file."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from db import State
from storage.source_file import BUFFER_BYTES
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.uploads_in_progress import FIVE_PARTS, PART, interrupted, published
from tests.support.video_files import PATH, padded
from watcher.app.wiring import Application
from watcher.supervision.background_thread import stop_all

OLD = {f"{VIDEO_ID}/old_{number}_720p.mp4": number * BUFFER_BYTES + 5 for number in range(5, 0, -1)}
WAIT_SECONDS = 20


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class CountedReads:
    """Counts the bytes that are read of each file; `before_read` gets its inode before each block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes: Counter[int] = Counter()
        self.order: list[int] = []
        self.before_read: Callable[[int], None] = lambda _: None
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self._count)

    def _count(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        inode = os.fstat(fd).st_ino
        self.before_read(inode)
        count = self._preadv(fd, buffers, offset)
        self.bytes[inode] += count
        if inode not in self.order:
            self.order.append(inode)
        return count


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> CountedReads:
    return CountedReads(monkeypatch)


@contextmanager
def settling(app: Application) -> Iterator[None]:
    app.settler.start()
    try:
        yield
    finally:
        assert stop_all([app.settler], WAIT_SECONDS)


def renumber_devices(harness: Harness) -> None:
    """As after a boot that gave the disk another number."""
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction("renumber devices"):
        uploads.update(device=uploads.device + 1).execute()


def inode_of(harness: Harness, path: str) -> int:
    return os.stat(harness.absolute(path)).st_ino


def test_a_new_file_is_uploaded_while_all_old_copies_wait_to_be_hashed_again(
    make_harness: MakeHarness, video: bytes, reads: CountedReads
) -> None:
    """After the device number changed, no more than one block of one old copy is read before the new file."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    for path, size in OLD.items():
        published(harness, padded(video, size), path)
    renumber_devices(harness)
    old = {inode_of(harness, path): size for path, size in OLD.items()}
    reads.bytes.clear()
    reads.order.clear()
    has_begun, may_go_on = threading.Event(), threading.Event()

    def hold_up_old_copies(inode: int) -> None:
        if inode in old and reads.bytes.total():
            has_begun.set()
            assert may_go_on.wait(WAIT_SECONDS)

    reads.before_read = hold_up_old_copies
    app = harness.app
    with settling(app):
        app.scanner.scan()
        assert has_begun.wait(WAIT_SECONDS)
        harness.write(PATH, video)
        app.settler.check(PATH)
        until(lambda: app.ledger.current(PATH))
        (new,) = harness.step(State.PENDING)
        assert (new.path, new.state) == (PATH, State.VERIFIED)
        assert sum(reads.bytes[inode] for inode in old) <= BUFFER_BYTES
        may_go_on.set()
        until(lambda: len(app.settler) == 0)
    # Each of them once and whole, the smallest first, and none is uploaded again.
    assert {inode: reads.bytes[inode] for inode in old} == old
    assert [old[inode] for inode in reads.order if inode in old] == sorted(old.values())
    for path in OLD:
        row = harness.row(path)
        assert (row.state, row.device) == (State.PUBLISHED, os.stat(harness.absolute(path)).st_dev)


def test_a_release_asks_neither_s3_nor_the_disk_until_its_file_was_hashed_again(
    make_harness: MakeHarness, video: bytes, proxy: FaultProxy, reads: CountedReads
) -> None:
    harness = make_harness()
    published(harness, video)
    renumber_devices(harness)
    reads.bytes.clear()
    del proxy.requests[:]
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, reads.bytes.total(), proxy.requests) == (State.PUBLISHED, 0, [])
    assert harness.step(State.PUBLISHED) == []
    harness.settle(PATH)
    assert harness.step(State.PUBLISHED)[0].state is State.RELEASED


def keep_no_checksums(_request: Request, forward: Forward) -> Answer:
    return forward().having(x_amz_checksum_crc64nvme=None, x_amz_checksum_type=None)


def test_every_pass_over_a_file_beats_with_every_block(
    make_harness: MakeHarness,
    proxy: FaultProxy,
    video: bytes,
    reads: CountedReads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hashing, adopting parts by their MD5, and the MD5 pass for an ETag where no checksum is kept."""
    harness = make_harness()
    row = interrupted(harness, proxy, video)
    proxy.fault = keep_no_checksums
    beats: list[int] = []
    reads.bytes.clear()
    monkeypatch.setattr(harness, "beat", lambda: beats.append(1))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by) == (State.VERIFIED, "etag")
    # The hash, CRC64NVME and MD5 of the parts that were kept, and the ETag; sent parts are read, too.
    hashed = reads.bytes.total() - proxy.actions.count("UploadPart") * PART
    assert hashed >= 2 * FIVE_PARTS + 2 * PART
    assert len(beats) >= hashed // BUFFER_BYTES


def test_a_stop_ends_the_pass_for_an_etag(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, reads: CountedReads
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, FIVE_PARTS))

    def stop_when_the_object_is_confirmed(request: Request, forward: Forward) -> Answer:
        if request.method == "HEAD" and "CompleteMultipartUpload" in proxy.actions:
            harness.stop_requested = True
            reads.bytes.clear()
        return keep_no_checksums(request, forward)

    proxy.fault = stop_when_the_object_is_confirmed
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.claimed_by, row.last_error) == (State.PENDING, None, None)
    assert reads.bytes.total() == 0
