"""Objects of this ledger's uploads are recognized without a receipt, and without a local copy."""

from __future__ import annotations

import hashlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Unpack

import pytest
from structlog.testing import capture_logs

from db import Progress, State, Upload
from storage import Verdict
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import KEY, PART, interrupted
from tests.support.video_files import FREE_BOX, PATH, padded
from watcher import failpoints
from watcher.failpoints import Point
from watcher.stages import upload as upload_module
from watcher.stages.object_origin import confirm_without_copy, metadata_of, warn_of_unknown_objects

pytestmark = pytest.mark.long

FAR_FUTURE = "Fri, 01 Jan 2100 00:00:00 GMT"


def without_checksums(answer: Answer) -> Answer:
    """The answer of a server that keeps no checksums."""
    return answer.having(x_amz_checksum_crc64nvme=None, x_amz_checksum_type=None)


def lose_receipt(harness: Harness, proxy: FaultProxy, content: bytes) -> Upload:
    """A pending row whose object was written, although no answer to the PUT arrived."""
    harness.put(PATH, content)

    def answer(request: Request, forward: Forward) -> Answer | None:
        found = forward()
        return None if request.action == "PutObject" else found

    proxy.fault = answer
    (row,) = harness.step(State.PENDING)
    proxy.fault = no_fault
    assert (row.state, row.etag, harness.object(row)) == (State.PENDING, None, content)
    return row


@pytest.mark.parametrize("keeps_checksums", [True, False])
def test_an_own_object_without_a_receipt_is_replaced_even_if_new(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, *, keeps_checksums: bool
) -> None:
    """The answer to a PUT is lost, and the video is compressed again before the object was written."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    lose_receipt(harness, proxy, video)
    harness.put(PATH, video + FREE_BOX)

    def is_new(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == "HeadObject" and proxy.actions.count("PutObject") <= before:
            answer = answer.having(last_modified=FAR_FUTURE)
        return answer if keeps_checksums else without_checksums(answer)

    before = proxy.actions.count("PutObject")
    proxy.fault = is_new
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.last_error) == (State.VERIFIED, None)
    assert harness.object(row) == video + FREE_BOX


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """Set by the test once a stage has ended, at the latest at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_file_that_another_one_replaces_is_not_sent_to_the_end(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, ended: threading.Event
) -> None:
    """The single PUT is cancelled while S3 is slow to answer; the new file need not wait for it."""
    harness = make_harness()
    harness.put(PATH, video)
    was_cancelled: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def stall(request: Request, forward: Forward) -> Answer | None:
        if request.action != "PutObject":
            return forward()
        harness.write(f"{PATH}.part", padded(video, 70_000))
        os.replace(harness.absolute(f"{PATH}.part"), harness.absolute(PATH))
        was_cancelled.put(ended.wait(20))
        return None

    proxy.fault = stall
    (row,) = harness.step(State.PENDING)
    ended.set()
    assert (row.state, row.error_code, row.attempts) == (State.PENDING, "local-changed", 0)
    assert was_cancelled.get(timeout=10)


def restored(place: str, harness: Harness) -> None:
    """Finish the upload of the only file, then put the ledger back to what it was before."""
    ledger, backup = f"{place}/state/ledger.sqlite3", f"{place}/backup.sqlite3"
    with sqlite3.connect(ledger) as connection:
        connection.execute("VACUUM INTO ?", [backup])
    assert harness.finish(PATH).state is State.RELEASED
    harness.write("another.txt", b"the directory is not empty")
    with sqlite3.connect(backup) as source, sqlite3.connect(ledger) as target:
        source.backup(target)
    assert harness.row(PATH).state is State.PENDING


@pytest.mark.parametrize("is_hashed", [True, False])
def test_after_a_restore_of_the_ledger_a_released_file_is_published_again(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str, *, is_hashed: bool
) -> None:
    """The object proves the content: by the ETag in the row or, without one, size and metadata."""
    harness = make_harness()
    if is_hashed:
        lose_receipt(harness, proxy, video)
        harness.app.ledger.make_due(State.PENDING)
    else:
        harness.put(PATH, video)
    restored(place, harness)
    del proxy.requests[:]
    (row,) = harness.step(State.PENDING)
    proof = "etag" if is_hashed else "checksum"
    assert (row.state, row.confirmed_by, {*proxy.actions}) == (State.VERIFIED, proof, {"HeadObject"})
    harness.step(State.VERIFIED)
    assert harness.catalog_urls() == [f"/{BUCKET}/{KEY}"]
    assert [row.state for row in harness.step(State.PUBLISHED)] == [State.RELEASED]


def test_an_object_that_nothing_proves_to_be_that_of_a_missing_file_is_not_published(
    make_harness: MakeHarness, server: S3Server, video: bytes, place: str
) -> None:
    """Of the same key and size, without our metadata."""
    harness = make_harness()
    harness.put(PATH, video)
    restored(place, harness)
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.GONE, "local-missing")


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (403, "object-unknown")])
def test_a_missing_file_is_not_gone_while_s3_does_not_say_whether_it_has_the_object(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str, *, status: int, code: str
) -> None:
    """The row waits with a backoff of its own, and the stage is not paused for it."""
    harness = make_harness()
    harness.put(PATH, video)
    restored(place, harness)
    proxy.fault = lambda _request, _forward: s3_error(status, code)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code, row.attempts) == (State.PENDING, code, 1)
    assert harness.app.runners[State.PENDING].breaker.failure is None
    proxy.fault = no_fault
    harness.app.ledger.make_due(State.PENDING)
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED


def test_beside_a_compressor_a_row_of_an_older_ledger_passes_the_gate_and_is_published(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """It waited at the gate when the backup was made; its catalog row shows the dead local URL."""
    harness = make_catalog_harness()
    row = rows.insert("my_video_720p.mp4", "720p")
    before = harness.put(PATH, video)
    harness.admit_waiting()
    released = harness.finish(PATH)
    assert (released.state, rows.url_of(row)) == (State.RELEASED, released.url)
    columns = ("state", "awaits_row", "checksum", "etag", "url", "catalog_row_id", "catalog_row_at")
    times = ("verified_at", "published_at", "released_at")
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction():
        uploads.update({name: getattr(before, name) for name in (*columns, *times)}).execute()
        harness.app.context.database.tables.publications.delete().execute()
    rows.update(row, url=f"{BASE_URL}/{PATH}")
    harness.write("another.txt", b"the directory is not empty")
    harness.app.scanner.scan()
    (upload,) = harness.step(State.PENDING)
    assert (upload.state, upload.catalog_row_id) == (State.VERIFIED, row)
    harness.step(State.VERIFIED)
    assert rows.url_of(row) == released.url


def lose_answers(harness: Harness, proxy: FaultProxy, action: str) -> list[str | None]:
    """Lose the answer to each such request; returns which ETags the row expected when they came."""
    noted: list[str | None] = []

    def answer(request: Request, forward: Forward) -> Answer | None:
        if request.action != action:
            return forward()
        noted.append(harness.row(PATH).expected_etag)
        forward()
        return None

    proxy.fault = answer
    return noted


def disguise(proxy: FaultProxy, action: str, *, keeps_metadata: bool) -> None:
    """Date an object late, and keep secret what it has, until a request of this action replaces it."""
    before = proxy.actions.count(action)

    def answer(request: Request, forward: Forward) -> Answer:
        found = forward()
        if request.action != "HeadObject" or proxy.actions.count(action) > before or found.status != 200:
            return found
        metadata = {name.replace("-", "_"): None for name in found.headers if "x-amz-meta" in name}
        hidden = without_checksums(found).having(**{} if keeps_metadata else metadata)
        return hidden.having(last_modified=FAR_FUTURE)

    proxy.fault = answer


@pytest.mark.parametrize(
    ("size", "action"),
    [
        (70_000, "PutObject"),
        pytest.param(2 * PART, "CompleteMultipartUpload", marks=pytest.mark.long),
    ],
)
def test_the_etag_is_noted_before_the_object_can_exist_and_tells_that_it_is_ours(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, size: int, action: str
) -> None:
    """The answer is lost, and the server keeps nothing else by which the object could be recognized."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    noted = lose_answers(harness, proxy, action)
    harness.put(PATH, padded(video, size))
    (row,) = harness.step(State.PENDING)
    etag = harness.server.client().head_object(Bucket=BUCKET, Key=KEY)["ETag"].strip('"')
    assert (row.state, row.etag, row.expected_etag, {*noted}) == (State.PENDING, None, etag, {etag})
    harness.put(PATH, padded(video, size) + FREE_BOX)
    disguise(proxy, action, keeps_metadata=False)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.last_error) == (State.VERIFIED, None)
    assert harness.object(row) == padded(video, size) + FREE_BOX


def test_noting_the_etag_takes_no_transaction_of_its_own(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    ledger = harness.app.ledger
    recorded: list[set[str]] = []
    record = ledger.record

    def count(upload: Upload, **facts: Unpack[Progress]) -> Upload:
        recorded.append({*facts})
        return record(upload, **facts)

    monkeypatch.setattr(ledger, "record", count)
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    (before,) = recorded
    assert {"checksum", "expected_etag"} <= before
    assert (row.bytes_sent, row.etag) == (row.size, row.expected_etag)


def test_where_the_server_compares_checksums_a_small_file_is_hashed_for_no_etag(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The MD5 takes longer than all else that reads it; the checksum in the row tells as much."""
    harness = make_harness()
    noted: list[str | None] = []

    def note(point: Point) -> None:
        if point is Point.HASHED:
            noted.append(harness.row(PATH).expected_etag)

    monkeypatch.setattr(failpoints, "hook", note)
    harness.put(PATH, video)
    assert harness.app.context.store.compares_checksums()
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, noted) == (State.VERIFIED, "checksum", [None])
    assert row.etag is not None


def test_an_object_is_recognized_by_its_checksum_where_no_etag_was_expected(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is killed after the object was written, and the local file is lost."""
    harness = make_harness()

    class CrashError(BaseException):
        """Stands for SIGKILL: nothing catches it."""

    def crash(point: Point) -> None:
        if point is Point.COMPLETED:
            raise CrashError

    harness.put(PATH, video)
    assert harness.app.context.store.compares_checksums()
    with monkeypatch.context() as crashing:
        crashing.setattr(failpoints, "hook", crash)
        with pytest.raises(CrashError):
            harness.step(State.PENDING)
    os.unlink(harness.absolute(PATH))
    harness.app.ledger.release_all_claims()
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.expected_etag, row.confirmed_by) == (State.VERIFIED, None, "checksum")


def test_other_content_has_no_expected_etag_of_the_content_before(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """Damage on the disk, which a retry sends: size, times and inode are the same."""
    harness = make_harness()
    row = lose_receipt(harness, proxy, video)
    status = os.stat(harness.absolute(PATH))
    harness.write(PATH, bytes(len(video)))
    os.utime(harness.absolute(PATH), ns=(status.st_atime_ns, status.st_mtime_ns))
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction():
        uploads.update(ctime_ns=None).execute()
    harness.app.ledger.make_due(State.PENDING)
    (later,) = make_harness().step(State.PENDING)
    assert (later.id, later.error_code) == (row.id, "local-damaged")
    assert later.expected_etag == hashlib.md5(bytes(len(video)), usedforsecurity=False).hexdigest()


def test_the_expected_etag_proves_the_object_of_a_missing_file(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The answer to the PUT was lost, and the server keeps no checksums."""
    harness = make_harness()
    harness.write("another.txt", b"the directory is not empty")
    lose_receipt(harness, proxy, video)
    os.unlink(harness.absolute(PATH))
    disguise(proxy, "PutObject", keeps_metadata=False)
    harness.app.ledger.make_due(State.PENDING)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by) == (State.VERIFIED, "etag")


def test_an_expected_etag_that_is_another_proves_nothing(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The same content may have been sent in other parts."""
    harness = make_harness()
    lose_receipt(harness, proxy, video)
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction():
        uploads.update(expected_etag="0" * 32).execute()
    disguise(proxy, "PutObject", keeps_metadata=True)
    found = confirm_without_copy(harness.app.context.store, harness.row(PATH))
    assert found.verdict is Verdict.UNKNOWN


def forgotten(harness: Harness, proxy: FaultProxy, video: bytes) -> Upload:
    """Send a file, and put the ledger back to what it was before; returns the row that is not in it."""
    row = lose_receipt(harness, proxy, video)
    with harness.app.context.database.transaction():
        harness.app.context.database.tables.events.delete().execute()
        harness.app.context.database.tables.uploads.delete().execute()
    return row


def test_an_object_of_a_restored_ledger_is_ours_by_its_metadata(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The row of the upload that wrote it was lost with the ledger; the ledger's token was not."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    forgotten(harness, proxy, video)
    harness.put(PATH, video + FREE_BOX)
    disguise(proxy, "PutObject", keeps_metadata=True)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.last_error) == (State.VERIFIED, None)
    assert harness.object(row) == video + FREE_BOX


@pytest.mark.parametrize("oddity", ["a copy", "a later file", "no number", "no token", "another ledger"])
def test_an_object_whose_metadata_tells_less_is_not_replaced(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes, oddity: str
) -> None:
    """An object of another key of the video and quality, of a daemon with a copy of the ledger that has
    sent a later encode, of an older version of this program, and of another ledger.
    """
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    sent = forgotten(harness, proxy, video)
    metadata = dict(metadata_of(harness.app.ledger, sent))
    match oddity:
        case "a copy":
            other_key = replace(sent, object_key=f"videos/{VIDEO_ID}/another film_720p.mp4")
            metadata = dict(metadata_of(harness.app.ledger, other_key))
        case "a later file":
            metadata["source-mtime"] = str(time.time_ns() + 3600 * 10**9)
        case "no number":
            metadata["source-mtime"] = "yesterday"
        case "no token":
            del metadata["ledger"]
        case "another ledger":
            metadata["ledger"] = "0" * 32
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=b"another one", Metadata=metadata)
    harness.put(PATH, video + FREE_BOX)
    disguise(proxy, "PutObject", keeps_metadata=True)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, "foreign-object")
    assert harness.object(row) == b"another one"


@pytest.mark.long
def test_an_upload_that_an_older_version_began_is_resumed(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its object has the metadata of that version, and the row had no expected ETag."""
    harness = make_harness()
    with monkeypatch.context() as before:
        before.setattr(upload_module, "metadata_of", lambda _ledger, _upload: {"quality": "720p"})
        interrupted(harness, proxy, video)
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction():
        uploads.update(expected_etag=None).execute()
    harness.app.ledger.make_due(State.PENDING)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.etag) == (State.VERIFIED, row.expected_etag)
    assert "CreateMultipartUpload" not in proxy.actions
    head = harness.server.client().head_object(Bucket=BUCKET, Key=KEY)
    assert head["Metadata"] == {"quality": "720p"}


def test_a_new_ledger_beside_objects_that_this_program_wrote_is_told(
    make_harness: MakeHarness, video: bytes, place: str, server: S3Server
) -> None:
    """Not where the ledger has receipts, where a local copy has a row, or of objects of other programs."""

    def told(harness: Harness) -> list[object]:
        context = harness.app.context
        with capture_logs() as logged:
            warn_of_unknown_objects(context.store, context.ledger, "videos/")
        return [(line["event"], line["key"]) for line in logged]

    new = f"sqlite://{place}/new.sqlite3"
    server.client().put_object(Bucket=BUCKET, Key="videos/0.mp4", Body=b"of another program")
    assert told(make_harness(DATABASE_URL=new)) == []
    first = make_harness()
    first.put(PATH, video)
    assert first.finish(PATH).state is State.RELEASED
    assert told(first) == []
    second = make_harness(DATABASE_URL=new)
    assert told(second) == [("ledger_empty", KEY)]
    second.put(PATH, video)
    assert told(second) == []
