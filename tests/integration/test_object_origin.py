"""Objects of this ledger's uploads are recognized without a receipt, and without a local copy."""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from db import State, Upload
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.support.harness import BUCKET, Harness, MakeHarness
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import KEY
from tests.support.video_files import FREE_BOX, PATH, padded
from watcher.stages.object_origin import warn_of_unknown_objects

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
    """The object proves the content: by the checksum in the row or, without one, size and metadata."""
    harness = make_harness()
    if is_hashed:
        lose_receipt(harness, proxy, video)
        harness.app.ledger.make_due(State.PENDING)
    else:
        harness.put(PATH, video)
    restored(place, harness)
    del proxy.requests[:]
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, {*proxy.actions}) == (State.VERIFIED, "checksum", {"HeadObject"})
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
