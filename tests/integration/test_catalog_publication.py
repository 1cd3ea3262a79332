"""Publication into the compressor's catalog, and republication."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from db import State, Upload
from tests.compressor.database import add_video
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from watcher.catalog.republisher import LOCKED_BACKOFF
from watcher.catalog.row_matching import rows_of_file
from watcher.errors import Code

NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
KEY = f"videos/{VIDEO_ID}/{NAME}"
ORIGINAL_NAME = "my video.mp4"
ORIGINAL = f"{VIDEO_ID}/{ORIGINAL_NAME}"
ORIGINAL_KEY = f"videos/{VIDEO_ID}/my video_original.mp4"


def publish(harness: Harness, path: str = PATH) -> None:
    """Take the path's upload to `published`."""
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert harness.row(path).state is State.PUBLISHED


def verify(harness: Harness) -> None:
    """Take the uploads at the gate to `verified`."""
    harness.admit_waiting()
    (upload,) = harness.step(State.PENDING)
    assert upload.state is State.VERIFIED


def public(harness: Harness, key: str = KEY) -> str:
    return harness.app.context.naming.public_url_of(key)


def check_recent(harness: Harness) -> int:
    assert harness.app.catalog_thread is not None
    return harness.app.catalog_thread.republisher.check_recent()


def check_new(harness: Harness, *, fresh_only: bool = False) -> int:
    assert harness.app.catalog_thread is not None
    return harness.app.catalog_thread.republisher.check_new(fresh_only=fresh_only)


def republished(harness: Harness) -> float | None:
    return harness.app.context.metrics.registry.get_sample_value("video_uploader_republished_rows_total")


@pytest.mark.parametrize("status", ["processing", "failed"])
def test_a_url_is_published_onto_ready_rows_only(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, status: str
) -> None:
    """Without a row that can be given the URL, publication is retried."""
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    verify(harness)
    rows.update(row, status=status)
    (upload,) = harness.step(State.VERIFIED)
    assert (upload.state, upload.error_code) == (State.VERIFIED, "row-missing")
    assert rows.url_of(row) == f"{BASE_URL}/{PATH}"
    rows.update(row, status="ready")
    assert harness.check_rows() == 0
    harness.step(State.VERIFIED)
    assert harness.row(PATH).state is State.PUBLISHED
    assert rows.url_of(row) == public(harness)


def test_every_ready_row_of_the_file_is_given_the_url_and_no_other_row(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    ours = [rows.insert(NAME, "720p", url=f"https://{host}.example/{PATH}") for host in ("a", "b")]
    others = [
        rows.insert("my video_480p.mp4", "480p"),
        rows.insert("another_720p.mp4", "720p"),
        rows.insert(ORIGINAL_NAME, "original"),
        rows.insert(NAME, "720p", "failed", url=f"https://c.example/{PATH}"),
    ]
    before = [rows.read(row) for row in others]
    rows.update(ours[1], created_at="2999-01-01")
    harness.put(PATH, video)
    publish(harness)
    assert {rows.url_of(row) for row in ours} == {public(harness)}
    assert [rows.read(row) for row in others] == before


def test_a_row_that_shows_no_file_at_all_is_found_by_video_and_quality(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p", url="https://player.example/watch?v=1")
    other = rows.insert(NAME, "480p", url="https://player.example/watch?v=2")
    harness.put(PATH, video)
    publish(harness)
    assert rows.url_of(row) == public(harness)
    assert rows.url_of(other) == "https://player.example/watch?v=2"


def test_an_address_of_ours_from_before_is_replaced_by_the_present_one(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The original's old URL does not end in its file's name; the ledger has recorded it."""
    old = make_catalog_harness(KEEP_LOCAL=True, AWS_S3_BASE_URL="https://old.example")
    first = rows.insert(ORIGINAL_NAME, "original")
    old.put(ORIGINAL, video)
    publish(old, ORIGINAL)
    assert rows.url_of(first) == f"https://old.example/{ORIGINAL_KEY.replace(' ', '%20')}"
    new = make_catalog_harness(KEEP_LOCAL=True, AWS_S3_BASE_URL="https://new.example")
    rows.insert(ORIGINAL_NAME, "original")
    new.put(ORIGINAL, video + b"\0\0\0\x08free")
    publish(new, ORIGINAL)
    assert rows.url_of(first) == f"https://new.example/{ORIGINAL_KEY.replace(' ', '%20')}"


def test_a_row_that_went_back_is_published_again_and_counted(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The copy may be released already: players need the object."""
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    harness.admit_waiting()
    assert harness.finish(PATH).state is State.RELEASED
    assert check_recent(harness) == 0
    rows.update(row, url=f"{BASE_URL}/{PATH}")
    assert check_recent(harness) == 1
    assert rows.url_of(row) == public(harness)
    assert republished(harness) == 1
    assert harness.events(PATH)[-1] == "republished"


def test_a_row_that_appears_for_a_file_that_did_not_change_is_published_by_the_sweep(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    """Compressed again while the original is still there: nothing is copied, and no event comes."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(ORIGINAL_NAME, "original")
    harness.put(ORIGINAL, video)
    publish(harness, ORIGINAL)
    del proxy.requests[:]
    again = rows.insert(ORIGINAL_NAME, "original")
    assert harness.check_rows() == 1
    assert rows.url_of(again) == public(harness, ORIGINAL_KEY)
    assert harness.row(ORIGINAL).catalog_row_id == again
    assert proxy.actions == []
    assert harness.check_rows() == 0


def test_a_file_that_is_compressed_again_to_equal_bytes_is_published_when_its_new_row_is_ready(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    upload = harness.put(PATH, video)
    publish(harness)
    del proxy.requests[:]
    again = rows.insert(NAME, "720p", "processing")
    os.utime(harness.absolute(harness.write(PATH, video)), (1, 1))
    assert check_new(harness, fresh_only=True) == 0
    assert harness.put(PATH, video).id == upload.id
    assert check_new(harness, fresh_only=True) == 0
    rows.update(again, status="ready")
    assert check_new(harness, fresh_only=True) == 1
    assert rows.url_of(again) == public(harness)
    assert proxy.actions == []


def test_a_new_row_that_is_ready_before_its_file_is_found_is_looked_at_again_when_that_is(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """Until its content is compared, a file with a new time may hold anything."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    again = rows.insert(NAME, "720p")
    os.utime(harness.absolute(harness.write(PATH, video)), (1, 1))
    assert check_new(harness) == 0
    assert rows.url_of(again) == f"{BASE_URL}/{PATH}"
    harness.settle(PATH)
    assert check_new(harness, fresh_only=True) == 1
    assert rows.url_of(again) == public(harness)


def test_the_original_of_a_video_that_is_compressed_again_is_published_with_its_renditions(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """It is not copied again, so no event comes for it: the renditions' events do."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(ORIGINAL_NAME, "original")
    harness.put(ORIGINAL, video)
    publish(harness, ORIGINAL)
    rows.insert(NAME, "720p", "processing")
    harness.put(PATH, video)
    again = rows.insert(ORIGINAL_NAME, "original")
    assert check_new(harness, fresh_only=True) == 1
    assert rows.url_of(again) == public(harness, ORIGINAL_KEY)


def test_a_row_that_no_event_announces_is_published_in_the_turn_of_its_video(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour later: the turns begin again after the last video."""
    monkeypatch.setattr("watcher.catalog.republisher.PAGE", 1)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    other = VIDEO_ID.replace("0b8e", "1b8e")
    add_video(rows.url, other)
    rows.insert(NAME, "720p", video_id=other, url=f"{BASE_URL}/{other}/{NAME}")
    harness.put(f"{other}/{NAME}", video)
    publish(harness, f"{other}/{NAME}")
    later = make_catalog_harness(KEEP_LOCAL=True)
    again = rows.insert(NAME, "720p")
    assert check_new(later, fresh_only=True) == 0
    assert [check_new(later) for _ in range(3)] == [1, 0, 0]
    assert rows.url_of(again) == public(harness)
    again = rows.insert(NAME, "720p")
    assert sum(check_new(later) for _ in range(3)) == 1
    assert rows.url_of(again) == public(harness)


def test_a_row_that_cannot_be_published_onto_is_examined_only_once(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Thousands of them must not take the time of new files every few seconds."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    rows.insert("ignored.xyz", "original")
    later = make_catalog_harness(KEEP_LOCAL=True)
    with caplog.at_level("DEBUG", "peewee"):
        assert check_new(later) == 0
        first = len(caplog.records)
        assert check_new(later) == 0
    assert first > len(caplog.records) - first == 2


def test_many_rows_that_are_new_to_the_daemon_are_examined_some_at_a_time(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start there may be thousands."""
    monkeypatch.setattr("watcher.catalog.republisher.MAX_EXAMINED_AT_ONCE", 2)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    videos = [VIDEO_ID.replace("0b8e", f"0b8{n}") for n in range(5)]
    for video_id in videos:
        add_video(rows.url, video_id)
        rows.insert(NAME, "720p", video_id=video_id, url=f"{BASE_URL}/{video_id}/{NAME}")
        harness.put(f"{video_id}/{NAME}", video)
    publish(harness, f"{VIDEO_ID.replace('0b8e', '0b84')}/{NAME}")
    later = make_catalog_harness(KEEP_LOCAL=True)
    for video_id in videos:
        rows.insert(NAME, "720p", video_id=video_id, url=f"{BASE_URL}/{video_id}/{NAME}")
    assert [check_new(later) for _ in range(4)] == [2, 2, 1, 0]


def test_an_upload_whose_rows_raise_does_not_keep_others_from_being_published(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    for name, quality in ((NAME, "720p"), (ORIGINAL_NAME, "original")):
        rows.insert(name, quality)
        harness.put(f"{VIDEO_ID}/{name}", video)
    publish(harness)

    def poisoned(upload: Upload, *args: Any, **kwargs: Any) -> object:
        if upload.path == PATH:
            raise OverflowError
        return rows_of_file(upload, *args, **kwargs)

    monkeypatch.setattr("watcher.catalog.republisher.rows_of_file", poisoned)
    rows.insert(NAME, "720p")
    again = rows.insert(ORIGINAL_NAME, "original")
    assert check_new(harness) == 1
    assert rows.url_of(again) == public(harness, ORIGINAL_KEY)


def test_a_row_that_is_locked_is_published_when_the_lock_is_gone(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    later = make_catalog_harness(KEEP_LOCAL=True)
    assert later.app.catalog_thread is not None
    republisher = later.app.catalog_thread.republisher
    again = rows.insert(NAME, "720p")
    with rows.connection.transaction():
        rows.connection.execute("SELECT 1 FROM video_qualities WHERE id = %s FOR UPDATE", [again])
        assert check_new(later) == 0
    began = republisher._clock()
    monkeypatch.setattr(republisher, "_clock", lambda: began + LOCKED_BACKOFF.base + 1)
    assert check_new(later, fresh_only=True) == 1
    assert rows.url_of(again) == public(harness)


def test_a_newer_row_of_other_content_waits_for_its_own_upload(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The old object does not belong to the new row, although it has the same URL."""
    harness = make_catalog_harness()
    first = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    verify(harness)
    second = rows.insert(NAME, "720p")
    harness.write(PATH, video + b"\0\0\0\x08free")
    harness.step(State.VERIFIED)
    assert rows.url_of(first) == public(harness)
    assert rows.url_of(second) == f"{BASE_URL}/{PATH}"
    assert harness.check_rows() == 0
    harness.settle(PATH)
    publish(harness)
    assert rows.url_of(second) == public(harness)


def test_a_row_deleted_before_publication_ends_the_upload_and_keeps_object_and_file(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    verify(harness)
    rows.delete(row)
    (upload,) = harness.step(State.VERIFIED)
    assert (upload.state, upload.error_code) == (State.GONE, Code.ROW_GONE)
    assert harness.object(upload) == video
    assert os.path.exists(harness.absolute(PATH))
    assert harness.app.scanner.scan().noticed == 0
    back = rows.insert(NAME, "720p")
    harness.check_rows()
    assert harness.finish(PATH).state is State.RELEASED
    assert rows.url_of(back) == public(harness)


def test_a_lost_object_gives_each_row_back_what_it_showed_before(
    make_catalog_harness: MakeHarness, rows: CatalogRows, server: S3Server, video: bytes
) -> None:
    """Each request chose its own local URL: it is recorded, not derived."""
    harness = make_catalog_harness()
    locals_ = [f"https://{host}.example/{PATH}" for host in ("a", "b")]
    ids = [rows.insert(NAME, "720p", url=url) for url in locals_]
    harness.put(PATH, video)
    publish(harness)
    server.client().delete_object(Bucket=BUCKET, Key=KEY)
    (upload,) = harness.step(State.PUBLISHED)
    assert upload.state is State.PENDING
    assert [rows.url_of(row) for row in ids] == locals_
    assert harness.finish(PATH).state is State.RELEASED
    assert {rows.url_of(row) for row in ids} == {public(harness)}


def test_a_row_that_goes_back_while_the_object_is_lost_is_left_as_it_is(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, server: S3Server
) -> None:
    """Its earlier URL is unknown, so it keeps the present one."""
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p", url=public(harness))
    harness.put(PATH, video)
    publish(harness)
    server.client().delete_object(Bucket=BUCKET, Key=KEY)
    (lost,) = harness.step(State.PUBLISHED)
    assert (lost.state, rows.url_of(row)) == (State.PENDING, public(harness))
    rows.update(row, url=f"{BASE_URL}/{PATH}")
    assert check_recent(harness) == 0
    assert rows.url_of(row) == f"{BASE_URL}/{PATH}"


def test_a_copy_is_not_released_while_the_compressor_is_about_to_write_its_path(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    again = rows.insert(NAME, "720p", "processing")
    (upload,) = harness.step(State.PUBLISHED)
    assert (upload.state, upload.error_code) == (State.PUBLISHED, "catalog-busy")
    assert os.path.exists(harness.absolute(PATH))
    rows.delete(again)
    harness.app.ledger.update_identity(upload, upload.identity)
    assert harness.app.context.catalog.reason_to_keep_copy(upload) is None


@pytest.mark.parametrize("name", [NAME, ORIGINAL_NAME])
@pytest.mark.parametrize(
    ("age", "keeps"),
    [("-1 minute", True), ("-1 hour", True), ("-25 hours", False), ("5 hours", True), ("25 hours", False)],
)
def test_a_newest_row_that_is_processing_keeps_the_copy_for_a_day(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, name: str, age: str, keeps: bool
) -> None:
    """The compressor's clock may be that of another time zone."""
    harness = make_catalog_harness()
    path, quality = f"{VIDEO_ID}/{name}", "original" if name == ORIGINAL_NAME else "720p"
    rows.insert(name, quality, created_at="2020-01-01", updated_at="2020-01-01")
    harness.put(path, video)
    publish(harness, path)
    again = rows.insert(name, quality, "processing")
    rows.connection.execute("ALTER TABLE video_qualities DISABLE TRIGGER video_qualities_touched")
    rows.connection.execute("UPDATE video_qualities SET updated_at = '2020-01-01'")
    rows.connection.execute(
        "UPDATE video_qualities SET created_at = localtimestamp + %s::interval WHERE id = %s", [age, again]
    )
    reason = harness.app.context.catalog.reason_to_keep_copy(harness.row(path))
    assert (reason is not None) == keeps
    assert reason is None or f"catalog row {again} has been processing since 20" in reason


def test_a_processing_row_that_a_killed_compressor_left_does_not_keep_the_copy(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The video was compressed again, which added a newer row beside it."""
    harness = make_catalog_harness()
    rows.insert(NAME, "720p", "processing")
    rows.insert(NAME, "720p")
    rows.insert("my video_360p.mp4", "360p", "processing")
    rows.insert("my video_360p.mp4", "360p")
    rows.insert(ORIGINAL_NAME, "original")
    rows.connection.execute("ALTER TABLE video_qualities DISABLE TRIGGER video_qualities_touched")
    rows.connection.execute("UPDATE video_qualities SET updated_at = localtimestamp - interval '1 minute'")
    for path in (PATH, ORIGINAL):
        harness.put(path, video)
        publish(harness, path)
    (released, original) = harness.step(State.PUBLISHED)
    assert (released.state, original.state) == (State.RELEASED, State.RELEASED)


def test_a_copy_is_not_released_while_a_row_still_shows_it(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    row = rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    rows.update(row, url=f"{BASE_URL}/{PATH}")
    (upload,) = harness.step(State.PUBLISHED)
    assert (upload.state, upload.error_code) == (State.PUBLISHED, "catalog-busy")


def test_an_original_is_kept_while_the_compressor_is_at_work_on_its_video(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The compressor checks for the original at its end and then probes it: it must not vanish in between."""
    harness = make_catalog_harness()
    row = rows.insert(ORIGINAL_NAME, "original")
    rows.insert(NAME, "720p", "processing")
    harness.put(ORIGINAL, video)
    publish(harness, ORIGINAL)
    reason_to_keep_copy = harness.app.context.catalog.reason_to_keep_copy(harness.row(ORIGINAL))
    assert reason_to_keep_copy is not None
    assert "original" in reason_to_keep_copy
    assert rows.url_of(row) == public(harness, ORIGINAL_KEY)


def test_the_object_of_another_host_is_not_taken_for_a_lost_one(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, tmp_path: Path
) -> None:
    """Two hosts compressed the same video one after the other: the later one's object stays as it is."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p")
    harness.put(PATH, video)
    publish(harness)
    other = make_catalog_harness(INSTANCE_ID="other", KEEP_LOCAL=True, COMPLETED_DIR=str(tmp_path))
    rows.insert(NAME, "720p")
    other.put(PATH, video + b"\0\0\0\x08free")
    publish(other)
    harness.app.policy.keep_local = False
    (upload,) = harness.step(State.PUBLISHED)
    assert (upload.state, upload.error_code) == (State.PUBLISHED, "object-replaced")
    assert harness.object(upload) == video + b"\0\0\0\x08free"
