"""A large file is hashed as its parts go out, and nothing that proves its content is lost by that."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from db import State
from storage import SourceFile
from tests.support.bucket_contents import open_multiparts
from tests.support.catalog_rows import CatalogRows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import FIVE_PARTS, KEY, PART, content, interrupted
from tests.support.video_files import PATH, padded
from watcher import failpoints
from watcher.errors import Code
from watcher.failpoints import Point

NAME = "my video_720p.mp4"
SIZE = 2 * PART + 100


class KilledError(BaseException):
    """Ends an attempt as SIGKILL does: nothing handles it."""


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that is read as a whole for its checksum."""
    sizes: list[int] = []
    checksum = SourceFile.checksum

    def count(source: SourceFile, **options: Any) -> str:
        sizes.append(source.size)
        return checksum(source, **options)

    monkeypatch.setattr(SourceFile, "checksum", count)
    return sizes


def edited(video: bytes) -> bytes:
    """Other content of the same size, in the first part and the last, that is as complete."""
    middle = len(video) // 4
    return video[:middle] + bytes([video[middle] ^ 1]) + video[middle + 1 : -1] + bytes([video[-1] ^ 1])


def write_in_place(path: str, new: bytes) -> None:
    """Give a file other content of the same size, and its time back."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def before_answering(proxy: FaultProxy, action: str, do: Callable[[], object]) -> None:
    """Have something done once the server has taken the first request of a kind."""

    def fault(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == action:
            proxy.fault = no_fault
            do()
        return answer

    proxy.fault = fault


def checksums_before(proxy: FaultProxy, action: str, harness: Harness) -> list[str | None]:
    """Fills with the checksum that the ledger has of the file before each request of a kind."""
    known: list[str | None] = []

    def look(request: Request, forward: Forward) -> Answer:
        if request.action == action:
            known.append(harness.row(PATH).checksum)
        return forward()

    proxy.fault = look
    return known


def test_a_new_large_file_is_never_read_as_a_whole_for_its_checksum(
    make_harness: MakeHarness, server: S3Server, video: bytes, hashed: list[int]
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, SIZE))
    row = harness.finish(PATH)
    head = server.client().head_object(Bucket=BUCKET, Key=row.object_key, ChecksumMode="ENABLED")
    assert (row.state, row.confirmed_by, hashed) == (State.RELEASED, "checksum", [])
    assert (head["ChecksumCRC64NVME"], head["ETag"]) == (row.checksum, f'"{row.etag}"')


def test_the_checksum_is_in_the_ledger_before_there_can_be_an_object(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, SIZE))
    known = checksums_before(proxy, "CompleteMultipartUpload", harness)
    (row,) = harness.step(State.PENDING)
    assert known == [row.checksum]
    assert row.checksum is not None


def test_what_is_there_already_is_hashed_first_and_not_sent(
    make_harness: MakeHarness, server: S3Server, proxy: FaultProxy, video: bytes, hashed: list[int]
) -> None:
    server.client().put_object(
        Bucket=BUCKET, Key=KEY, Body=padded(video, SIZE), ChecksumAlgorithm="CRC64NVME"
    )
    harness = make_harness()
    harness.put(PATH, padded(video, SIZE))
    (row,) = harness.step(State.PENDING)
    assert (row.state, hashed) == (State.VERIFIED, [SIZE])
    assert "CreateMultipartUpload" not in proxy.actions


def test_where_the_server_keeps_no_checksums_of_parts_the_file_is_hashed_before_any_is_sent(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, hashed: list[int]
) -> None:
    harness = make_harness(AWS_S3_CHECKSUM="none")
    harness.put(PATH, padded(video, SIZE))
    known = checksums_before(proxy, "UploadPart", harness)
    (row,) = harness.step(State.PENDING)
    assert (row.state, hashed, set(known)) == (State.VERIFIED, [SIZE], {row.checksum})


def test_an_edit_between_two_parts_that_keeps_size_and_time_makes_no_object(
    make_harness: MakeHarness, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    """The parts are of no content that the file ever had; their checksum alone would agree."""
    harness = make_harness()
    new = edited(padded(video, SIZE))
    harness.put(PATH, padded(video, SIZE))
    before_answering(proxy, "UploadPart", lambda: write_in_place(harness.absolute(PATH), new))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, Code.LOCAL_CHANGED)
    assert "CompleteMultipartUpload" not in proxy.actions
    assert open_multiparts(server) == []
    harness.settle(PATH)
    done = harness.finish(PATH)
    assert (done.id, harness.object(done)) == (row.id + 1, new)


def test_a_chmod_between_two_parts_has_the_file_read_once_and_not_sent_again(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, hashed: list[int]
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, SIZE))
    before_answering(proxy, "UploadPart", lambda: os.chmod(harness.absolute(PATH), 0o640))
    (row,) = harness.step(State.PENDING)
    assert (row.state, hashed) == (State.VERIFIED, [SIZE])
    assert proxy.actions.count("UploadPart") == 3


def test_an_interrupted_upload_goes_on_without_a_pass_for_the_checksum(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, hashed: list[int]
) -> None:
    assert interrupted(make_harness(), proxy, video).checksum is None
    next_life = make_harness()
    next_life.app.ledger.release_all_claims()
    (row,) = next_life.step(State.PENDING)
    assert (row.state, hashed) == (State.VERIFIED, [])
    assert proxy.actions.count("UploadPart") < 5
    assert next_life.object(row) == padded(video, FIVE_PARTS)


def test_an_edit_after_an_interruption_is_sent_and_is_no_damage(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    interrupted(make_harness(), proxy, video)
    next_life = make_harness()
    new = edited(padded(video, FIVE_PARTS))
    write_in_place(next_life.absolute(PATH), new)
    next_life.app.ledger.release_all_claims()
    (row,) = next_life.step(State.PENDING)
    assert (row.state, next_life.object(row)) == (State.VERIFIED, new)


def test_a_file_that_no_process_changed_and_is_not_what_was_sent_of_it_is_damaged(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    interrupted(make_harness(), proxy, video)
    next_life = make_harness()
    write_in_place(next_life.absolute(PATH), b"\0" * FIVE_PARTS)
    # No power cut changes the ctime, and no process can set it: so the recorded one is made the present one.
    uploads = next_life.app.context.database.tables.uploads
    with next_life.app.context.database.transaction("set a ctime"):
        uploads.update(ctime_ns=os.stat(next_life.absolute(PATH)).st_ctime_ns).execute()
    next_life.app.ledger.release_all_claims()
    (row,) = next_life.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, Code.LOCAL_DAMAGED)
    assert (next_life.object(row), open_multiparts(server)) == (None, [])


@pytest.mark.parametrize("point", [Point.MULTIPART_RECORDED, Point.PART_SENT, Point.HASHED, Point.COMPLETED])
def test_a_kill_at_any_point_loses_nothing(
    make_harness: MakeHarness,
    server: S3Server,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
    point: Point,
) -> None:
    def kill(reached: Point) -> None:
        if reached is point:
            raise KilledError

    harness = make_harness()
    harness.put(PATH, padded(video, SIZE))
    monkeypatch.setattr(failpoints, "hook", kill)
    with pytest.raises(KilledError):
        harness.step(State.PENDING)
    monkeypatch.setattr(failpoints, "hook", None)
    is_known = harness.row(PATH).checksum is not None
    assert is_known is (point in {Point.HASHED, Point.COMPLETED})
    next_life = make_harness()
    next_life.app.ledger.release_all_claims()
    (row,) = next_life.step(State.PENDING)
    assert (row.state, next_life.object(row)) == (State.VERIFIED, padded(video, SIZE))
    assert content(next_life) == padded(video, SIZE)
    assert open_multiparts(server) == []


def test_no_object_is_made_if_an_older_file_of_its_key_passed_the_gate_while_the_parts_were_sent(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    server: S3Server,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    older, younger = f"{VIDEO_ID.upper()}/{NAME}", f"{VIDEO_ID}/{NAME}"
    harness.put(older, padded(video, SIZE))
    rows.insert(NAME, "720p")
    harness.put(younger, padded(video, SIZE))
    assert harness.admit_waiting() == 1
    rows.insert(NAME, "720p", url=f"https://example.com/videos/{older}")
    monkeypatch.setattr(failpoints, "hook", lambda point: point is Point.HASHED and harness.admit_waiting())
    (stopped,) = harness.step(State.PENDING)
    assert (stopped.path, stopped.state, stopped.error_code) == (younger, State.FAILED, Code.KEY_TAKEN)
    assert harness.object(stopped) is None
    harness.app.abandoned_multiparts.abort_abandoned()
    assert open_multiparts(server) == []
