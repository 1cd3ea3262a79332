"""What a measured rate changes: sizes of parts, how many bodies are in flight, and who counts as stuck."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import Multipart, ObjectStore, Sent, SourceFile, StorageError, Target
from storage.transfer.crt_client import CrtClient
from storage.transfer.part_sender import is_starved
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

pytestmark = pytest.mark.long

MIB = 1024 * 1024
MEDIUM = random.Random(5).randbytes(6 * MIB)
LARGE = random.Random(7).randbytes(17 * MIB)
SLOW = 64_000.0
KEY = "videos/a.mp4"

SourceOf = Callable[[bytes], SourceFile]


class Line:
    """The line as it is measured."""

    def __init__(self) -> None:
        self.rate: float | None = None


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line that is as fast as the test says, instead of one that is measured."""
    line = Line()
    monkeypatch.setattr(CrtClient, "rate", property(lambda _: line.rate))
    return line


def send(
    store: ObjectStore,
    source: SourceFile,
    key: str = KEY,
    *,
    resume: Multipart | None = None,
    on_multipart: Callable[[Multipart], None] | None = None,
) -> Sent:
    target = Target(key, "video/mp4")
    sent = store.upload(source, target, checksum=source.checksum(), resume=resume, on_multipart=on_multipart)
    found = store.confirm_file(key, source, checksum=source.checksum(), part_size=sent.part_size)
    assert found.receipt is not None
    assert sent.etag == source.etags(sent.part_size)[0]
    return sent


def held_up(proxy: FaultProxy, action: str, then: Callable[[], None]) -> threading.Event:
    """Have the first request of this kind wait for the event that is returned, once `then` was called."""
    over = threading.Event()

    def hold(request: Request, forward: Forward) -> Answer | None:
        if request.action == action and proxy.actions.count(action) == 1:
            then()
            over.wait()
            return None
        return forward()

    proxy.fault = hold
    return over


def test_a_file_that_takes_longer_than_a_minute_is_sent_in_parts(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, line: Line
) -> None:
    line.rate = SLOW
    assert send(store, source_of(MEDIUM)).part_size == 5 * MIB
    assert "PutObject" not in proxy.actions
    assert proxy.actions.count("UploadPart") == 2


def test_a_single_put_on_a_line_that_turns_out_slow_is_broken_off_for_parts(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, line: Line
) -> None:
    over = held_up(proxy, "PutObject", lambda: setattr(line, "rate", SLOW))
    try:
        assert send(store, source_of(MEDIUM)).part_size == 5 * MIB
    finally:
        over.set()
    assert proxy.actions.count("PutObject") == 1
    assert proxy.actions.count("UploadPart") == 2


@pytest.mark.parametrize(("rate", "likely"), [(SLOW, None), (None, 5 * MIB)])
def test_what_was_sent_on_a_slower_or_faster_line_is_known_by_its_etag(
    store: ObjectStore,
    proxy: FaultProxy,
    source_of: SourceOf,
    line: Line,
    rate: float | None,
    likely: int | None,
) -> None:
    line.rate = rate
    source = source_of(MEDIUM)
    send(store, source)

    def keep_no_checksum(request: Request, forward: Forward) -> Answer:
        return forward().having(x_amz_checksum_crc64nvme=None)

    proxy.fault = keep_no_checksum
    confirmation = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=likely)
    assert confirmation.receipt is not None
    assert confirmation.receipt.confirmed_by == "etag"


def test_parts_that_turn_out_too_large_are_made_smaller_before_any_was_accepted(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf, line: Line, s3: S3Server, bucket: str
) -> None:
    over = held_up(proxy, "UploadPart", lambda: setattr(line, "rate", SLOW))
    made: list[Multipart] = []
    try:
        assert send(one_by_one, source_of(LARGE), on_multipart=made.append).part_size == 5 * MIB
    finally:
        over.set()
    assert [multipart.part_size for multipart in made] == [8 * MIB, 5 * MIB]
    assert not s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_parts_of_which_one_was_accepted_are_kept_however_slow_the_line_becomes(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf, line: Line
) -> None:
    def become_slow(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart" and request.part_number == 2:
            line.rate = SLOW
        return forward()

    proxy.fault = become_slow
    assert send(one_by_one, source_of(LARGE)).part_size == 8 * MIB
    assert proxy.actions.count("CreateMultipartUpload") == 1


def test_a_small_file_of_which_parts_were_sent_is_resumed_on_a_fast_line(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf, line: Line
) -> None:
    source = source_of(MEDIUM)
    made: list[Multipart] = []

    def refuse_the_second(request: Request, forward: Forward) -> Answer:
        is_second = request.action == "UploadPart" and request.part_number == 2
        return s3_error(403, "AccessDenied") if is_second else forward()

    line.rate = SLOW
    proxy.fault = refuse_the_second
    with pytest.raises(StorageError):
        send(one_by_one, source, on_multipart=made.append)
    proxy.fault = lambda _, forward: forward()
    proxy.requests.clear()
    line.rate = None
    assert send(one_by_one, source, resume=made[0], on_multipart=made.append).part_size == 5 * MIB
    assert [request.part_number for request in proxy.requests if request.action == "UploadPart"] == [2]
    assert len(made) == 1


@pytest.fixture
def other_source(tmp_path: Path) -> Iterator[SourceFile]:
    """A second file."""
    path = tmp_path / "other.mp4"
    path.write_bytes(bytes(3 * MIB))
    fd = os.open(path, os.O_RDONLY)
    yield SourceFile(fd)
    os.close(fd)


def test_of_two_bodies_on_a_line_that_turns_out_slow_one_is_recalled_and_sent_later(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, other_source: SourceFile, line: Line
) -> None:
    both_there = threading.Barrier(2)
    one_recalled = threading.Event()
    first_sent: list[str] = []

    def hold_both(request: Request, forward: Forward) -> Answer:
        if request.action == "PutObject" and proxy.actions.count("PutObject") <= 2:
            both_there.wait()
            line.rate = SLOW
            assert one_recalled.wait(30)
        if request.action == "PutObject":
            first_sent.append(request.path)
        return forward()

    proxy.fault = hold_both
    senders = [
        threading.Thread(target=send, args=(store, source_of(bytes(3 * MIB)), "videos/a.mp4")),
        threading.Thread(target=send, args=(store, other_source, "videos/b.mp4")),
    ]
    for sender in senders:
        sender.start()
    buffers = store._crt.buffers
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (line.rate and len(buffers._slots) == 1):
        time.sleep(0.01)
    assert len(buffers._slots) == 1
    one_recalled.set()
    for sender in senders:
        sender.join()
    assert store.confirm_file("videos/a.mp4", other_source, checksum=other_source.checksum(), part_size=None)
    assert store.confirm_file("videos/b.mp4", other_source, checksum=other_source.checksum(), part_size=None)
    assert proxy.actions.count("PutObject") == 3


def test_a_part_that_failed_gets_a_buffer_of_its_own_length(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    """While the second of three parts fails, the last, which is shorter, already waits for a slot."""
    failures = iter(range(3))

    def fail_the_second(request: Request, forward: Forward) -> Answer:
        is_second = request.action == "UploadPart" and request.part_number == 2
        if is_second and next(failures, None) is not None:
            return s3_error(500, "InternalError")
        return forward()

    proxy.fault = fail_the_second
    send(one_by_one, source_of(LARGE))
    sizes = {
        request.part_number: len(request.body) for request in proxy.requests if request.action == "UploadPart"
    }
    assert sizes == {1: 8 * MIB, 2: 8 * MIB, 3: MIB}


def test_every_time_that_bytes_move_is_told_and_a_stall_is_not(
    s3: S3Server, bucket: str, source_of: SourceOf
) -> None:
    over = threading.Event()
    told: list[int] = []

    def fall_silent(request: Request, forward: Forward) -> Answer | None:
        if request.action != "PutObject":
            return forward()
        over.wait()
        return None

    with (
        FaultProxy(s3.url, fall_silent) as proxy,
        ObjectStore(config_for(proxy.url, bucket, stall_seconds=0.5)) as store,
    ):
        source = source_of(MEDIUM)
        try:
            with pytest.raises(StorageError) as caught:
                store.upload(
                    source,
                    Target(KEY, "video/mp4"),
                    checksum=source.checksum(),
                    moved=lambda: told.append(store._crt.moved),
                )
        finally:
            over.set()
    assert caught.value.code == "stalled"
    # Each time more bytes had been acknowledged than the time before.
    assert told
    assert told == sorted(set(told))


@pytest.mark.parametrize(
    ("seconds", "rate", "starved"),
    [
        (599, 100_000_000, False),
        (601, 100_000_000, True),
        (601, 64_000, False),
        (900, 2_000, False),
        (601, 500, True),
    ],
)
def test_a_part_is_given_up_when_it_had_no_share_of_what_moved_and_not_because_the_line_is_slow(
    seconds: float, rate: int, starved: bool
) -> None:
    moved = int(seconds * rate)
    assert is_starved(seconds, moved, in_flight=48 * MIB, stall_seconds=60) is starved
