"""The catalog gate on real rows: nothing is sent before its row is ready."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from db import CatalogRow, CompressorTable, State, Upload
from tests.support.catalog_rows import CatalogRows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error, sent
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from watcher import failpoints
from watcher.errors import Code
from watcher.failpoints import Point

NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
ORIGINAL = f"{VIDEO_ID}/my video.mp4"


def finish(harness: Harness, path: str = PATH) -> None:
    """Run the gate and all stages once."""
    harness.admit_waiting()
    harness.finish(path)


def begin_wait(harness: Harness, *, minutes: int) -> None:
    """Have everything at the gate have waited for so long."""
    with harness.app.context.database.operation("make uploads wait for longer") as connected:
        connected.execute_sql(
            "UPDATE video_uploader.uploads SET due_at = now() - %s", (timedelta(minutes=minutes),)
        )


def public(harness: Harness, key: str) -> str:
    return harness.app.context.naming.public_url_of(key)


def test_a_file_waits_for_its_row_and_only_the_url_of_that_is_changed(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p", "processing", codec="h264")
    assert harness.put(PATH, video).awaits_row
    assert harness.admit_waiting() == 0
    assert harness.step(State.PENDING) == []
    assert proxy.actions == []
    rows.update(row, status="ready", file_size=len(video))
    before = rows.read(row)
    assert harness.admit_waiting() == 1
    assert harness.finish(PATH).state is State.RELEASED
    after = rows.read(row)
    assert after["url"] == public(harness, f"videos/{VIDEO_ID}/{NAME}")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"url", "updated_at"}


def test_a_failed_row_rejects_a_file_however_good_it_looks(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    """ffmpeg stopped with SIGTERM leaves a valid file; only the row shows that it must not be used."""
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p", "failed")
    harness.put(PATH, video)
    finish(harness)
    upload = harness.row(PATH)
    assert (upload.state, upload.error_code) == (State.REJECTED, "encode-failed")
    assert proxy.actions == []
    assert os.path.exists(harness.absolute(PATH))
    assert rows.url_of(row).startswith("https://example.com/")


def test_a_pass_of_the_gate_ends_while_files_arrive(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that went on to them would leave the rows that have become ready since it began."""
    harness = make_catalog_harness()
    read = CompressorTable.rows_of_waiting
    arrived: list[str] = []

    def arrive() -> None:
        name = f"file {len(arrived)}_720p.mp4"
        rows.insert(name, "720p")
        harness.put(f"{VIDEO_ID}/{name}", video)
        arrived.append(name)

    def read_while_files_arrive(*arguments: Any, **options: Any) -> list[tuple[Upload, list[CatalogRow]]]:
        found = read(*arguments, **options)
        if len(arrived) < 10:
            arrive()
        return found

    arrive()
    monkeypatch.setattr(CompressorTable, "rows_of_waiting", read_while_files_arrive)
    assert [harness.admit_waiting() for _ in range(3)] == [1, 2, 2]


def test_a_row_may_come_long_after_its_file(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    harness.put(PATH, video)
    assert harness.admit_waiting() == 0
    assert harness.app.ledger.count_awaiting_row() == 1
    row = rows.insert(NAME, "720p")
    finish(harness)
    assert harness.row(PATH).state is State.RELEASED
    assert rows.url_of(row) == public(harness, f"videos/{VIDEO_ID}/{NAME}")


def test_the_gate_is_asked_again_right_before_sending(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    """A second encode has begun since: what is on disk may be about to be overwritten."""
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    again = rows.insert(NAME, "720p", "processing")
    (upload,) = harness.step(State.PENDING)
    assert (upload.state, upload.awaits_row, upload.error_code) == (State.PENDING, True, "row-processing")
    assert proxy.actions == []
    rows.update(again, status="ready")
    finish(harness)
    assert harness.row(PATH).state is State.RELEASED


def test_a_retried_attempt_passes_the_gate_again(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    proxy.fault = lambda _request, _forward: s3_error(503, "SlowDown")
    (postponed,) = harness.step(State.PENDING)
    assert (postponed.attempts, postponed.checksum is None) == (1, False)
    proxy.fault = lambda _request, forward: forward()
    del proxy.requests[:]
    rows.insert(NAME, "720p", "processing")
    harness.app.ledger.make_due([postponed.id])
    (upload,) = harness.step(State.PENDING)
    assert (upload.awaits_row, upload.error_code) == (True, "row-processing")
    assert proxy.actions == []


def test_a_row_that_admitted_a_file_and_failed_since_rejects_it(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    rows.update(row, status="failed")
    (upload,) = harness.step(State.PENDING)
    assert (upload.state, upload.error_code) == (State.REJECTED, "encode-failed")
    assert proxy.actions == []


def test_a_rejected_upload_stays_rejected_while_its_newest_row_is_failed(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """An older row that is ready and shows no object of ours is not the one that decides."""
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    rows.insert(NAME, "720p", "failed")
    rejected = harness.put(PATH, video)
    harness.admit_waiting()
    before = harness.events(PATH)
    assert harness.check_rows() == 0
    (upload,) = harness.app.ledger.uploads(ids=[rejected.id])
    assert (upload.state, upload.error_code) == (State.REJECTED, "encode-failed")
    assert harness.events(PATH) == before


def test_a_second_encode_that_fails_leaves_object_and_older_row_as_they_were(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    good = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    finish(harness)
    first = harness.row(PATH)
    before = rows.read(good)
    rows.insert(NAME, "720p", "failed")
    broken = video + b"\0\0\0\x08free"
    assert harness.put(PATH, broken).id != first.id
    finish(harness)
    assert harness.row(PATH).state is State.REJECTED
    assert harness.object(first) == video
    assert rows.read(good) == before
    with open(harness.absolute(PATH), "rb") as file:
        assert file.read() == broken


def test_a_second_encode_that_fails_before_it_opens_the_file_does_not_stop_the_first(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The content was admitted for the older row and has not changed since: it still belongs to that row."""
    harness = make_catalog_harness()
    good = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    failed = rows.insert(NAME, "720p", "failed")
    assert harness.finish(PATH).state is State.RELEASED
    assert rows.url_of(good) == public(harness, f"videos/{VIDEO_ID}/{NAME}")
    assert rows.url_of(failed).startswith("https://example.com/")


def test_a_failed_encode_of_the_same_size_is_not_taken_for_what_was_admitted(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    """Nothing of the first one has been read yet, so its size is all that is known of its content."""
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    good = video + b"\0\0\0\x09free1"
    harness.put(PATH, good)
    assert harness.admit_waiting() == 1
    second = rows.insert(NAME, "720p", "processing")
    os.utime(harness.absolute(harness.write(PATH, good[:-1] + b"2")), (1, 1))
    harness.settle(PATH)
    rows.update(second, status="failed")
    finish(harness)
    assert (harness.row(PATH).state, harness.row(PATH).error_code) == (State.REJECTED, "encode-failed")
    assert sent(proxy) == []


def test_a_second_encode_that_is_good_replaces_the_object_and_both_rows_show_it(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    first = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    finish(harness)
    second = rows.insert(NAME, "720p", url=f"https://elsewhere.example/{VIDEO_ID}/{NAME}")
    better = video + b"\0\0\0\x08free"
    upload = harness.put(PATH, better)
    finish(harness)
    assert harness.object(upload) == better
    assert {rows.url_of(first), rows.url_of(second)} == {public(harness, upload.object_key)}


def test_what_a_power_cut_left_of_a_file_does_not_replace_its_good_object(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """A verified object is replaced only for a newer row; the damaged file waits for one, and is not hashed
    over and over for it."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert("my video.mp4", "original")
    harness.put(ORIGINAL, video)
    finish(harness, ORIGINAL)
    good = harness.row(ORIGINAL)
    harness.put(ORIGINAL, bytes(len(video) + 1))
    del proxy.requests[:]
    finish(harness, ORIGINAL)
    damaged = harness.row(ORIGINAL)
    assert damaged.id != good.id
    assert (damaged.state, damaged.awaits_row, damaged.error_code) == (
        State.PENDING,
        True,
        Code.ROW_NOT_NEWER,
    )
    assert sent(proxy) == []
    assert harness.admit_waiting() == 0
    assert harness.object(good) == video
    rows.insert("my video.mp4", "original")
    finish(harness, ORIGINAL)
    assert harness.row(ORIGINAL).state is State.PUBLISHED
    assert harness.object(good) == bytes(len(video) + 1)


def test_an_original_that_the_compressor_could_read_is_uploaded_whatever_its_container(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    odd = video[:-100]
    upload = harness.put(ORIGINAL, odd)
    assert (upload.state, upload.finding is not None) == (State.PENDING, True)
    rows.insert("my video.mp4", "original")
    finish(harness, ORIGINAL)
    assert harness.object(harness.row(ORIGINAL)) == odd


def test_a_rendition_with_an_incomplete_container_is_rejected_even_if_its_row_is_ready(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    harness.put(PATH, video[:-100])
    finish(harness)
    upload = harness.row(PATH)
    assert (upload.state, upload.error_code) == (State.REJECTED, "incomplete")
    assert proxy.actions == []


def test_the_row_tells_an_original_from_a_rendition_of_the_same_name(
    make_catalog_harness: MakeHarness, rows: CatalogRows, server: S3Server, video: bytes
) -> None:
    """A source called `clip_720p.mp4`: its 720p rendition comes first, and so does the row of that."""
    harness = make_catalog_harness()
    original, rendition = f"{VIDEO_ID}/clip_720p.mp4", f"{VIDEO_ID}/clip_720p_720p.mp4"
    of_rendition = rows.insert("clip_720p_720p.mp4", "720p")
    harness.put(rendition, video)
    harness.put(original, video + b"\0\0\0\x08free")
    assert harness.admit_waiting() == 1
    of_original = rows.insert("clip_720p.mp4", "original")
    finish(harness, original)
    harness.finish(rendition)
    assert (harness.row(original).quality, harness.row(original).filename) == ("original", "clip_720p.mp4")
    assert rows.url_of(of_original) == public(harness, f"videos/{VIDEO_ID}/clip_720p_original.mp4")
    assert rows.url_of(of_rendition) == public(harness, f"videos/{VIDEO_ID}/clip_720p_720p.mp4")
    keys = server.client().list_objects_v2(Bucket=BUCKET)["Contents"]
    assert sorted(key["Key"] for key in keys) == [
        f"videos/{VIDEO_ID}/clip_720p_720p.mp4",
        f"videos/{VIDEO_ID}/clip_720p_original.mp4",
    ]


def test_an_object_that_the_compressor_uploaded_itself_is_adopted_once_it_is_confirmed(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """Its URL names the object as the file name stands; players get it percent-encoded."""
    harness = make_catalog_harness()
    key = f"videos/{VIDEO_ID}/{NAME}"
    server.client().put_object(
        Bucket=BUCKET, Key=key, Body=video, ACL="public-read", ChecksumAlgorithm="CRC64NVME"
    )
    row = rows.insert(NAME, "720p", url=f"{harness.app.context.naming.public_base}/{key}")
    harness.put(PATH, video)
    finish(harness)
    assert harness.row(PATH).state is State.RELEASED
    assert sent(proxy) == []
    assert rows.url_of(row) == public(harness, key)


@pytest.mark.parametrize(
    ("name", "quality", "uploaded"),
    [
        ("movie_144p.mp4", "144p", "movie_144p.mov"),
        ("movie_144p.mp4", "144p", "movie_144p"),
        ("50% off? #1_144p.mp4", "144p", "50% off? #1_144p.mp4"),
        ("50% off? #1.mov", "original", "50% off? #1_original.mov"),
    ],
)
def test_a_row_of_what_the_compressor_uploaded_itself_is_given_a_url_that_players_can_fetch(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, name: str, quality: str, uploaded: str
) -> None:
    """Its keys have the extension of the source, and its URLs are not encoded."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    url = f"https://lam-brk.s3.ap-south-1.amazonaws.com/videos/{VIDEO_ID}/{uploaded}"
    row = rows.insert(name, quality, url=url)
    path = f"{VIDEO_ID}/{name}"
    harness.put(path, video)
    finish(harness, path)
    stem, extension = os.path.splitext(name)
    key = f"videos/{VIDEO_ID}/{stem}_original{extension}" if quality == "original" else f"videos/{path}"
    assert harness.row(path).object_key == key
    assert harness.object(harness.row(path)) == video
    assert rows.url_of(row) == public(harness, key)


def test_a_copy_in_a_directory_in_upper_case_leaves_row_and_key_to_the_file_that_the_row_names(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    copy = f"{VIDEO_ID.upper()}/{NAME}"
    stray = harness.put(copy, video + b"\0\0\0\x08free")
    row = rows.insert(NAME, "720p")
    upload = harness.put(PATH, video)
    assert stray.object_key == upload.object_key
    finish(harness)
    assert harness.row(PATH).state is State.RELEASED
    assert harness.object(upload) == video
    assert rows.url_of(row) == public(harness, upload.object_key)
    assert harness.admit_waiting() == 0
    assert harness.row(copy).awaits_row


def test_a_file_in_a_directory_in_upper_case_is_uploaded_for_a_row_that_names_it(
    make_catalog_harness: MakeHarness, rows: CatalogRows, server: S3Server, video: bytes
) -> None:
    """Also again, when its object was lost: the row shows the object by then."""
    harness = make_catalog_harness()
    path = f"{VIDEO_ID.upper()}/{NAME}"
    row = rows.insert(NAME, "720p", url=f"https://example.com/videos/{path}")
    key = harness.put(path, video).object_key
    assert key == f"videos/{VIDEO_ID}/{NAME}"
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert rows.url_of(row) == public(harness, key)
    harness.app.context.catalog.publications.delete([row])  # type: ignore[attr-defined]  # the compressor's
    server.client().delete_object(Bucket=BUCKET, Key=key)
    (lost,) = harness.step(State.PUBLISHED)
    assert lost.state is State.PENDING
    assert harness.finish(path).state is State.RELEASED


def test_a_file_that_passes_the_gate_while_another_of_its_key_is_being_sent_waits_for_that(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    """At the gate the older one held no key, so the younger one began."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    older, younger = f"{VIDEO_ID.upper()}/{NAME}", PATH
    harness.put(older, video + b"\0\0\0\x08free")
    rows.insert(NAME, "720p")
    harness.put(younger, video)
    assert harness.admit_waiting() == 1
    meanwhile: list[Upload] = []

    def admit_the_older(request: Request, forward: Forward) -> Answer:
        if request.action == "PutObject" and not meanwhile:
            rows.insert(NAME, "720p", url=f"https://example.com/videos/{older}")
            harness.admit_waiting()
            meanwhile.extend(harness.step(State.PENDING))
        return forward()

    proxy.fault = admit_the_older
    (upload,) = harness.step(State.PENDING)
    assert [(waits.path, waits.state, waits.error_code) for waits in meanwhile] == [
        (older, State.PENDING, Code.KEY_TAKEN)
    ]
    assert (upload.path, upload.state) == (younger, State.VERIFIED)
    assert harness.object(upload) == video


def test_a_file_is_not_sent_if_an_older_one_of_its_key_passed_the_gate_while_it_was_hashed(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    proxy: FaultProxy,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    older = f"{VIDEO_ID.upper()}/{NAME}"
    harness.put(older, video)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    assert harness.admit_waiting() == 1
    rows.insert(NAME, "720p", url=f"https://example.com/videos/{older}")

    monkeypatch.setattr(failpoints, "hook", lambda point: point is Point.HASHED and harness.admit_waiting())
    (stopped,) = harness.step(State.PENDING)
    assert (stopped.path, stopped.state, stopped.error_code) == (PATH, State.FAILED, Code.KEY_TAKEN)
    assert proxy.actions == []


def test_a_file_that_vanishes_while_it_waits_is_gone(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    harness.put(f"{VIDEO_ID}/other_144p.mp4", video)
    harness.put(PATH, video)
    os.remove(harness.absolute(PATH))
    harness.app.scanner.scan()
    harness.step(State.PENDING)
    assert harness.row(PATH).state is State.GONE


def test_a_retried_upload_is_judged_by_its_row_again(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p", "failed")
    harness.put(PATH, video)
    finish(harness)
    harness.app.ledger.reopen(harness.row(PATH).id, reason="retried by hand")
    (upload,) = harness.step(State.PENDING)
    assert upload.state is State.REJECTED
    rows.update(row, status="ready")
    harness.check_rows()
    assert harness.finish(PATH).state is State.RELEASED


def test_the_files_of_a_deleted_video_are_gone_after_the_timeout_until_a_row_is_ready(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness(CATALOG_ROW_TIMEOUT=600)
    row = rows.insert(NAME, "720p", "processing")
    harness.put(PATH, video)
    begin_wait(harness, minutes=11)
    assert harness.admit_waiting() == 0
    rows.delete(row)
    begin_wait(harness, minutes=9)
    assert harness.admit_waiting() == 0
    begin_wait(harness, minutes=11)
    assert harness.admit_waiting() == 1
    gone = harness.row(PATH)
    assert (gone.state, gone.error_code) == (State.GONE, "row-gone")
    assert "no catalog row for 10 min" in str(gone.last_error)
    assert os.path.exists(harness.absolute(PATH))
    assert harness.settle(PATH) == gone
    assert harness.app.scanner.scan().noticed == 0
    rows.insert(NAME, "720p")
    harness.check_rows()
    assert harness.finish(PATH).state is State.RELEASED
