"""The compressor's times have no time zone: what they do not tell is not decided by them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from db import State
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, sent
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from watcher.errors import Code
from watcher.filesystem.openat import birth_time_ns

pytestmark = pytest.mark.long

NAME = "my video_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
KEY = f"videos/{VIDEO_ID}/{NAME}"
ORIGINAL_NAME = "my video.mp4"
ORIGINAL = f"{VIDEO_ID}/{ORIGINAL_NAME}"
ORIGINAL_KEY = f"videos/{VIDEO_ID}/my video_original.mp4"
FREE_BOX = b"\0\0\0\x08free"

BEFORE, AFTER = "2026-10-25 02:50", "2026-10-25 02:10"
"""Twenty minutes apart in Berlin: at 3:00 the clocks were set back to 2:00."""


def set_zone(rows: CatalogRows, zone: str) -> None:
    """Have sessions that begin from now on read times without a zone in this one."""
    with psycopg.connect(rows.url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = {}").format(name, zone))


def clock_in(zone: str) -> str:
    """What a clock in this zone shows now."""
    return datetime.now(ZoneInfo(zone)).replace(tzinfo=None).isoformat()


def finish(harness: Harness, path: str = PATH) -> None:
    """Run the gate and all stages once."""
    harness.admit_waiting()
    harness.finish(path)


def public(harness: Harness, key: str = KEY) -> str:
    return harness.app.context.naming.public_url_of(key)


def test_a_second_encode_in_the_repeated_hour_replaces_the_object(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """Its row is dated before that of the first encode, and was inserted after it."""
    set_zone(rows, "Europe/Berlin")
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p", created_at=BEFORE)
    harness.put(PATH, video)
    finish(harness)
    again = rows.insert(NAME, "720p", created_at=AFTER)
    upload = harness.put(PATH, video + FREE_BOX)
    finish(harness)
    assert harness.object(upload) == video + FREE_BOX
    assert rows.url_of(again) == public(harness)
    assert harness.row(PATH).catalog_row_id == again


def test_a_second_encode_that_fails_in_the_repeated_hour_is_the_one_that_counts(
    make_catalog_harness: MakeHarness, rows: CatalogRows, proxy: FaultProxy, video: bytes
) -> None:
    set_zone(rows, "Europe/Berlin")
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p", created_at=BEFORE)
    harness.put(PATH, video)
    finish(harness)
    del proxy.requests[:]
    rows.insert(NAME, "720p", "failed", created_at=AFTER)
    harness.put(PATH, video + FREE_BOX)
    finish(harness)
    assert (harness.row(PATH).state, harness.row(PATH).error_code) == (State.REJECTED, Code.ENCODE_FAILED)
    assert sent(proxy) == []


def test_a_row_of_the_repeated_hour_waits_for_content_of_its_own(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    """The old object does not belong to the new row, whose encode has replaced the file."""
    set_zone(rows, "Europe/Berlin")
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p", created_at=BEFORE)
    harness.put(PATH, video)
    finish(harness)
    again = rows.insert(NAME, "720p", created_at=AFTER)
    harness.write(PATH, video + FREE_BOX)
    assert harness.check_rows() == 0
    assert rows.url_of(again) == f"{BASE_URL}/{PATH}"


@pytest.mark.parametrize("zones", [("Asia/Kolkata", "UTC"), ("Pacific/Kiritimati", "America/Los_Angeles")])
def test_what_a_compressor_in_another_zone_encodes_is_newer_than_what_was_seen_before(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, zones: tuple[str, str]
) -> None:
    """The later row is dated hours before the earlier one."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p", created_at=clock_in(zones[0]))
    harness.put(PATH, video)
    finish(harness)
    again = rows.insert(NAME, "720p", created_at=clock_in(zones[1]))
    harness.put(PATH, video + FREE_BOX)
    finish(harness)
    assert harness.object(harness.row(PATH)) == video + FREE_BOX
    assert rows.url_of(again) == public(harness)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Los_Angeles"])
def test_another_zone_of_the_server_makes_no_row_newer_than_itself(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, zone: str
) -> None:
    """What a power cut leaves of the file must not replace its object."""
    set_zone(rows, "Europe/Berlin")
    harness = make_catalog_harness(KEEP_LOCAL=True)
    row = rows.insert(ORIGINAL_NAME, "original")
    upload = harness.put(ORIGINAL, video)
    finish(harness, ORIGINAL)
    set_zone(rows, zone)
    later = make_catalog_harness(KEEP_LOCAL=True)
    damaged = later.put(ORIGINAL, bytes(len(video) + 1))
    finish(later, ORIGINAL)
    (damaged,) = later.app.ledger.uploads(ids=[damaged.id])
    assert (damaged.awaits_row, damaged.error_code) == (True, Code.ROW_NOT_NEWER)
    assert later.object(upload) == video
    assert damaged.catalog_row_id == row


ZONES = ["Asia/Kolkata", "America/Los_Angeles"]


@pytest.mark.parametrize("server_zone", ZONES)
@pytest.mark.parametrize(("name", "key"), [(NAME, KEY), (ORIGINAL_NAME, ORIGINAL_KEY)])
def test_an_object_of_another_program_that_is_older_than_the_file_is_replaced(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    server: S3Server,
    proxy: FaultProxy,
    video: bytes,
    server_zone: str,
    name: str,
    key: str,
) -> None:
    """The compressor writes UTC, which the server reads as its own time: hours off, in either direction."""
    set_zone(rows, server_zone)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    put_foreign(server, proxy, datetime.now(UTC) - timedelta(seconds=5), key)
    path = f"{VIDEO_ID}/{name}"
    harness.put(path, video)
    date(harness, path, written=timedelta(seconds=5))
    rows.insert(name, "original" if key == ORIGINAL_KEY else "720p", created_at=clock_in("UTC"))
    finish(harness, path)
    assert harness.object(harness.row(path)) == video


@pytest.mark.parametrize("server_zone", ZONES)
@pytest.mark.parametrize(("name", "key"), [(NAME, KEY), (ORIGINAL_NAME, ORIGINAL_KEY)])
def test_an_object_of_another_program_that_is_newer_than_the_file_is_never_replaced(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    server: S3Server,
    video: bytes,
    server_zone: str,
    name: str,
    key: str,
) -> None:
    set_zone(rows, server_zone)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    path = f"{VIDEO_ID}/{name}"
    harness.put(path, video)
    date(harness, path, written=timedelta(seconds=-5))
    rows.insert(name, "original" if key == ORIGINAL_KEY else "720p", created_at=clock_in("UTC"))
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"newer")
    finish(harness, path)
    assert (harness.row(path).state, harness.row(path).error_code) == (State.FAILED, Code.FOREIGN_OBJECT)
    assert harness.object(harness.row(path)) == b"newer"


def encode(
    harness: Harness, rows: CatalogRows, content: bytes, *, seconds: int, starts_in: int = 0
) -> datetime:
    """Encode a rendition for a new row, for so long; returns when it began.

    Its row, its end and its discovery are dated later instead of waiting for them.
    """
    began_at = datetime.now(UTC) + timedelta(seconds=starts_in)
    rows.insert(NAME, "720p", created_at=began_at.replace(tzinfo=None).isoformat())
    harness.write(PATH, content)
    ended = (began_at + timedelta(seconds=seconds)).timestamp()
    os.utime(harness.absolute(PATH), (ended, ended))
    upload = harness.settle(PATH)
    assert upload is not None
    with harness.app.context.database.operation("date a discovery") as connected:
        connected.execute_sql(
            "UPDATE video_uploader.uploads SET discovered_at = %s WHERE id = %s",
            (began_at + timedelta(seconds=seconds + 1), upload.id),
        )
    return began_at


def put_foreign(server: S3Server, proxy: FaultProxy, written_at: datetime, key: str = KEY) -> None:
    """Write an object of another program, at this time by the server's clock.

    The kernel's clock for inodes lags by up to 10 ms: what is written right after an object may be dated
    before it.
    """
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"foreign")
    before = proxy.actions.count("PutObject")

    def answer(request: Request, forward: Forward) -> Answer:
        found = forward()
        is_replaced = proxy.actions.count("PutObject") > before
        if request.action != "HeadObject" or found.status != 200 or is_replaced:
            return found
        return found.having(last_modified=format_datetime(written_at, usegmt=True))

    proxy.fault = answer


def send(harness: Harness) -> None:
    """Run the gate and the upload stage once; the file stays."""
    harness.admit_waiting()
    harness.step(State.PENDING)


FOREIGN = (State.FAILED, Code.FOREIGN_OBJECT)


@pytest.mark.long
@pytest.mark.parametrize(
    ("server_zone", "after", "outcome"),
    [
        ("Asia/Kolkata", -2, (State.VERIFIED, None)),
        ("America/Los_Angeles", -2, (State.VERIFIED, None)),
        ("America/Los_Angeles", 2, FOREIGN),
        ("Asia/Kolkata", 3500, FOREIGN),
    ],
)
def test_an_object_of_another_program_from_before_the_encode_is_replaced_and_no_later_one(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    server: S3Server,
    proxy: FaultProxy,
    video: bytes,
    server_zone: str,
    after: int,
    outcome: tuple[State, str | None],
) -> None:
    """The encode takes an hour; the object was written so many seconds after it began."""
    set_zone(rows, server_zone)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    began_at = encode(harness, rows, video, seconds=3600)
    with open(harness.absolute(PATH), "rb") as file:
        if birth_time_ns(file.fileno()) is None:
            pytest.skip("this file system does not keep the birth of files")
    put_foreign(server, proxy, began_at + timedelta(seconds=after))
    send(harness)
    row = harness.row(PATH)
    assert (row.state, row.error_code) == outcome
    assert harness.object(row) == (b"foreign" if outcome == FOREIGN else video)


@pytest.mark.long
@pytest.mark.parametrize("knows_births", [True, False])
@pytest.mark.parametrize(
    ("server_zone", "after", "outcome"),
    [
        ("Asia/Kolkata", -2, (State.VERIFIED, None)),
        ("America/Los_Angeles", 2, FOREIGN),
        ("Asia/Kolkata", 595, FOREIGN),
    ],
)
def test_an_encode_into_the_same_inode_begins_with_its_row(
    make_catalog_harness: MakeHarness,
    rows: CatalogRows,
    server: S3Server,
    proxy: FaultProxy,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    outcome: tuple[State, str | None],
    *,
    server_zone: str,
    knows_births: bool,
) -> None:
    """The compressor writes over the file of the encode before; an object from between the two is older."""
    set_zone(rows, server_zone)
    if not knows_births:
        monkeypatch.setattr("watcher.filesystem.openat._statx", None)
    harness = make_catalog_harness(KEEP_LOCAL=True)
    rows.insert(NAME, "720p", created_at=clock_in("UTC"))
    harness.put(PATH, video)
    send(harness)
    began_at = encode(harness, rows, video + FREE_BOX, seconds=600, starts_in=3600)
    put_foreign(server, proxy, began_at + timedelta(seconds=after))
    send(harness)
    row = harness.row(PATH)
    assert (row.state, row.error_code) == outcome
    assert harness.object(row) == (b"foreign" if outcome == FOREIGN else video + FREE_BOX)


def test_an_original_is_as_old_as_its_copy_and_not_as_its_source(
    make_catalog_harness: MakeHarness, rows: CatalogRows, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    """Another program wrote the object after the source, and before that was copied."""
    harness = make_catalog_harness(KEEP_LOCAL=True)
    put_foreign(server, proxy, datetime.now(UTC) - timedelta(seconds=5), ORIGINAL_KEY)
    harness.write(ORIGINAL, video)
    os.utime(harness.absolute(ORIGINAL), (1_000_000_000, 1_000_000_000))
    harness.settle(ORIGINAL)
    rows.insert(ORIGINAL_NAME, "original", created_at=clock_in("UTC"))
    finish(harness, ORIGINAL)
    assert harness.object(harness.row(ORIGINAL)) == video


def date(harness: Harness, path: str, *, written: timedelta) -> None:
    """Date a file, and the discovery of it: S3 tells times in whole seconds.

    The inode's own time cannot be set; the discovery stands for it.
    """
    at = datetime.now(UTC) + written
    os.utime(harness.absolute(path), (at.timestamp(), at.timestamp()))
    upload = harness.settle(path)
    assert upload is not None
    with harness.app.context.database.operation("date a discovery") as connected:
        connected.execute_sql(
            "UPDATE video_uploader.uploads SET discovered_at = %s WHERE id = %s", (at, upload.id)
        )


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/Los_Angeles"])
def test_an_original_is_kept_while_a_compressor_in_another_zone_is_at_work_on_its_video(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, zone: str
) -> None:
    set_zone(rows, "Europe/Berlin")
    harness = make_catalog_harness()
    rows.insert(ORIGINAL_NAME, "original", created_at="2026-01-01", updated_at="2026-01-01")
    rows.connection.execute("ALTER TABLE video_qualities DISABLE TRIGGER video_qualities_touched")
    harness.put(ORIGINAL, video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    upload = harness.row(ORIGINAL)
    assert harness.app.context.catalog.reason_to_keep_copy(upload) is None
    rows.insert(NAME, "720p", created_at="2026-01-01", updated_at=clock_in(zone))
    reason = harness.app.context.catalog.reason_to_keep_copy(upload)
    assert reason is not None
    assert "may open its original" in reason
