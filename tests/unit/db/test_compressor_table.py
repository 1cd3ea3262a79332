"""The compressor's table is read through its indexes, and only its column `url` is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db import (
    CompressorTable,
    Database,
    ErrorKind,
    Ledger,
    LockNotAvailableError,
    Publications,
    State,
    migrate,
    open_database,
)
from tests.compressor.database import add_video
from tests.support.bulk_ledger import fill_ledger
from tests.support.catalog_rows import BASE_URL, CatalogRows, catalog_rows
from tests.support.databases import VIDEO_ID, advance_to, enqueue
from tests.support.postgres import PostgresServer
from tests.support.query_plans import explain

OTHER_VIDEO = VIDEO_ID.replace("0b8e", "1b8e")
PUBLIC_URL = "https://bucket.example/a"


@pytest.fixture
def rows(postgres: PostgresServer) -> Iterator[CatalogRows]:
    with postgres.fresh_database() as url, catalog_rows(url) as made:
        add_video(url, OTHER_VIDEO)
        yield made


@pytest.fixture
def database(rows: CatalogRows) -> Iterator[Database]:
    with closing(open_database(rows.url)) as database:
        migrate(database)
        yield database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, "main")


@pytest.fixture
def table(database: Database) -> CompressorTable:
    return CompressorTable(database, "main")


def test_rows_come_oldest_first_with_times_in_the_servers_zone(
    rows: CatalogRows, table: CompressorTable
) -> None:
    newer = rows.insert("a_720p.mp4", "720p", "processing")
    older = rows.insert("a_720p.mp4", "720p", created_at="2020-01-02 03:04:05")
    rows.insert("a_720p.mp4", "720p", video_id=OTHER_VIDEO)
    found = table.rows_of_video(VIDEO_ID)
    assert [(row.id, row.status) for row in found] == [(older, "ready"), (newer, "processing")]
    zone = rows.connection.execute("SELECT '2020-01-02 03:04:05'::timestamp::timestamptz AS t").fetchone()
    assert zone is not None
    assert found[0].created_at == zone["t"]
    assert datetime.now(UTC) - found[1].created_at < timedelta(minutes=1)


def test_a_row_without_times_is_older_than_any(rows: CatalogRows, table: CompressorTable) -> None:
    timeless = rows.insert("a_720p.mp4", "720p")
    rows.update(timeless, created_at=None)
    rows.insert("a_720p.mp4", "720p", created_at="1980-01-01")
    assert table.rows_of_video(VIDEO_ID)[0].id == timeless


def test_the_rows_of_a_bucket_are_read_page_by_page(
    rows: CatalogRows, table: CompressorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.catalog.own_catalog.PAGE", 2)
    shown = {rows.insert("x", "720p", url=f"https://bucket.example/v%_/{number}") for number in range(5)}
    rows.insert("x", "720p", url="https://bucket.example/vxx/1")
    assert [row.id for row in table.rows_with_url_prefix("https://bucket.example/v%_/")] == sorted(shown)


def test_rows_published_after_everything_in_the_ledger_are_counted(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    """After the restore of an older ledger; what another program published before is none of them."""
    prefix = "https://bucket.example/"
    assert table.unrecorded_rows(prefix) == 0
    rows.insert("x", "720p", url=f"{prefix}earlier", updated_at="2020-01-02 03:04:05")
    assert table.unrecorded_rows(prefix) == 1
    upload = advance_to(ledger, enqueue(ledger), State.PUBLISHED)
    ours = rows.insert("a_720p.mp4", "720p", url=f"{prefix}ours")
    (row,) = [row for row in table.rows_of_video(VIDEO_ID) if row.id == ours]
    Publications(ledger.database, "main").record(row, upload, row.url, ledger.now())
    rows.insert("a_480p.mp4", "480p")
    assert table.unrecorded_rows(prefix) == 0
    rows.insert("x", "480p", url=f"{prefix}later")
    assert table.unrecorded_rows(prefix) == 1


def order(table: CompressorTable) -> list[str]:
    """The ids of the video's rows, oldest first; the order of new ones is recorded."""
    return [row.id for row in table.rows_of_video(VIDEO_ID, record=True)]


def test_a_row_is_newer_than_those_that_were_seen_before_it_where_the_clock_does_not_tell(
    rows: CatalogRows, table: CompressorTable
) -> None:
    first = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    assert order(table) == [first]
    second = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:10")
    assert order(table) == [first, second]
    third = rows.insert("a_720p.mp4", "720p", created_at="2026-10-24 02:00")
    assert order(table) == [first, second, third]
    times = [row.order_time for row in table.rows_of_video(VIDEO_ID)]
    assert times == sorted(set(times))
    assert times[0] == table.rows_of_video(VIDEO_ID)[0].created_at


def test_of_rows_that_are_first_seen_together_the_clock_decides_and_rows_of_one_time_are_equally_old(
    rows: CatalogRows, table: CompressorTable
) -> None:
    seen = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    order(table)
    later = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:20")
    twins = [rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:10") for _ in range(2)]
    assert order(table) == [seen, *sorted(twins), later]
    times = [row.order_time for row in table.rows_of_video(VIDEO_ID)]
    assert times[0] < times[1] == times[2] < times[3]


def test_a_row_that_is_older_by_the_clock_of_any_zone_is_older_whenever_it_is_seen(
    rows: CatalogRows, table: CompressorTable
) -> None:
    """A backup was restored, or the row was dated by hand."""
    seen = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    order(table)
    restored = rows.insert("a_720p.mp4", "720p", created_at="2026-10-23 02:50")
    assert order(table) == [restored, seen]


def test_a_row_is_newer_than_one_that_was_deleted_before_it(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    """An upload may have been verified for the deleted one, or admitted before sightings were recorded."""
    deleted = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    (before,) = table.rows_of_video(VIDEO_ID, record=True)
    rows.delete(deleted)
    rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:10")
    (after,) = table.rows_of_video(VIDEO_ID)
    assert after.order_time > before.order_time


def test_a_row_that_an_upload_was_admitted_for_before_the_migration_counts_as_seen(
    rows: CatalogRows, database: Database, table: CompressorTable, ledger: Ledger
) -> None:
    upload = enqueue(ledger)
    row_id = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    (row,) = table.rows_of_video(VIDEO_ID)
    ledger.note_newer_row(upload, row)
    with database.operation("undo the latest migration") as connected:
        connected.execute_sql("DROP TABLE video_uploader.catalog_row_sightings")
        connected.execute_sql("DELETE FROM video_uploader.schema_migration WHERE name LIKE '0007%%'")
    assert [row.id for row in CompressorTable(database, "main").rows_of_video(VIDEO_ID)] == [row_id]
    migrate(database)
    again = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:10")
    assert order(table) == [row_id, again]


def test_the_order_of_rows_is_recorded_by_what_may_write(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    first = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:50")
    with closing(open_database(rows.url, read_only=True)) as reading:
        assert [row.id for row in CompressorTable(reading, "main").rows_of_video(VIDEO_ID)] == [first]
    enqueue(ledger, awaits_row=True)
    table.rows_of_waiting(limit=10)
    second = rows.insert("a_720p.mp4", "720p", created_at="2026-10-25 02:10")
    with closing(open_database(rows.url, read_only=True)) as reading:
        assert [row.id for row in CompressorTable(reading, "main").rows_of_video(VIDEO_ID)] == [first, second]
    ((_, of_video),) = table.rows_of_waiting(limit=10)
    assert [row.id for row in of_video] == [first, second]


def test_a_row_that_another_session_is_recording_is_read_all_the_same(
    rows: CatalogRows, database: Database, table: CompressorTable
) -> None:
    row_id = rows.insert("a_720p.mp4", "720p")
    with rows.connection.transaction():
        rows.connection.execute(
            "INSERT INTO video_uploader.catalog_row_sightings VALUES (%s, %s, now())", [row_id, VIDEO_ID]
        )
        assert order(table) == [row_id]


def test_what_waits_comes_with_all_rows_of_its_video_and_without_where_there_are_none(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    first = enqueue(ledger, "v/a_720p.mp4", awaits_row=True)
    second = enqueue(ledger, "w/b_720p.mp4", awaits_row=True, video_id=OTHER_VIDEO)
    enqueue(ledger, "v/c_720p.mp4")
    ids = {rows.insert("a_720p.mp4", "720p"), rows.insert("b_480p.mp4", "480p")}
    found = table.rows_of_waiting(limit=10)
    assert [upload for upload, _ in found] == [first, second]
    assert [{row.id for row in of_video} for _, of_video in found] == [ids, set()]
    assert [upload for upload, _ in table.rows_of_waiting(limit=10, before=second.id)] == [first]
    assert [upload for upload, _ in table.rows_of_waiting(limit=1)] == [second]
    assert table.rows_of_waiting(limit=10, since=ledger.now() + timedelta(hours=1)) == []
    assert CompressorTable(ledger.database, "other").rows_of_waiting(limit=10) == []


def test_the_gates_question_is_one_query_that_indexes_answer(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(ledger, awaits_row=True)
    with caplog.at_level("DEBUG", "peewee"):
        table.rows_of_waiting(limit=10)
    (asked,) = [record.msg for record in caplog.records if "uploads" in str(record.msg)]
    assert isinstance(asked, tuple)
    rows.connection.execute("SET enable_seqscan = off")
    plan = rows.connection.execute(f"EXPLAIN {asked[0]}", asked[1]).fetchall()
    steps = "\n".join(line["QUERY PLAN"] for line in plan)
    assert "uploads_awaiting_row" in steps
    assert "Seq Scan" not in steps


def test_rows_that_are_written_to_are_locked_and_others_of_the_video_are_not(
    rows: CatalogRows, database: Database, table: CompressorTable
) -> None:
    row_id, other = (rows.insert("a_720p.mp4", "720p") for _ in range(2))
    with database.transaction():
        read = table.rows_of_video(VIDEO_ID)
        assert may_be_locked(rows, row_id)
        assert table.set_url([row for row in read if row.id == row_id], PUBLIC_URL) == 1
        assert not may_be_locked(rows, row_id)
        assert may_be_locked(rows, other)
    assert may_be_locked(rows, row_id)


def test_a_row_that_another_session_has_locked_is_not_waited_for(
    rows: CatalogRows, table: CompressorTable
) -> None:
    row_id = rows.insert("a_720p.mp4", "720p")
    read = table.rows_of_video(VIDEO_ID)
    with rows.connection.transaction():
        rows.connection.execute("SELECT 1 FROM video_qualities WHERE id = %s FOR UPDATE", [row_id])
        with pytest.raises(LockNotAvailableError) as caught:
            table.set_url(read, PUBLIC_URL)
        assert caught.value.kind is ErrorKind.TRANSIENT
        (holder,) = table.lock_holders(read)
    assert f"process {rows.connection.info.backend_pid} " in holder
    assert table.lock_holders(read) == []
    assert table.set_url(read, PUBLIC_URL) == 1


def may_be_locked(rows: CatalogRows, row_id: str) -> bool:
    """Whether the compressor could change the row now without waiting for a lock."""
    try:
        rows.connection.execute("SELECT 1 FROM video_qualities WHERE id = %s FOR UPDATE NOWAIT", [row_id])
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def test_a_url_is_given_only_to_a_row_that_still_is_as_it_was_read(
    rows: CatalogRows, table: CompressorTable
) -> None:
    row_id = rows.insert("a_720p.mp4", "720p")
    (row,) = table.rows_of_video(VIDEO_ID)
    assert table.set_url([replace(row, url="https://other.example/x")], PUBLIC_URL) == 0
    assert table.set_url([replace(row, status="processing")], PUBLIC_URL) == 0
    assert rows.url_of(row_id) == row.url
    assert table.set_url([row], PUBLIC_URL) == 1
    assert rows.url_of(row_id) == PUBLIC_URL


def test_what_does_not_show_what_was_published_is_found(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    upload = advance_to(ledger, enqueue(ledger), State.PUBLISHED)
    shown, back, new = (rows.insert("a_720p.mp4", "720p") for _ in range(3))
    rows.insert("a_480p.mp4", "480p", "processing")
    rows.insert("a_480p.mp4", "480p", video_id=OTHER_VIDEO)
    publications = Publications(ledger.database, "main")
    for row in table.rows_of_video(VIDEO_ID):
        if row.id in {shown, back}:
            publications.record(row, upload, PUBLIC_URL, ledger.now())
    rows.update(shown, url=PUBLIC_URL)
    assert {row.id for row in table.unpublished_rows([State.PUBLISHED])[VIDEO_ID]} == {back, new}
    assert table.unpublished_rows([State.VERIFIED]) == {}
    assert [row.id for row in table.reverted_rows(ledger.now() - timedelta(minutes=1))] == [back]
    rows.update(back, status="processing")
    assert table.reverted_rows(ledger.now() - timedelta(minutes=1)) == []
    assert table.reverted_rows(ledger.now() + timedelta(minutes=1)) == []


def test_the_known_videos_are_listed_a_page_at_a_time(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    for path, video in (("v/a_720p.mp4", VIDEO_ID), ("v/b_720p.mp4", VIDEO_ID), ("w/a.mp4", OTHER_VIDEO)):
        advance_to(ledger, enqueue(ledger, path, video_id=video), State.PUBLISHED)
    first, second = sorted([VIDEO_ID, OTHER_VIDEO])
    assert table.known_videos([State.PUBLISHED], after=None, limit=1) == [first]
    assert table.known_videos([State.PUBLISHED], after=first, limit=2) == [second]
    assert table.known_videos([State.PUBLISHED], after=second, limit=2) == []
    assert table.known_videos([State.VERIFIED], after=None, limit=2) == []


def test_the_new_rows_of_some_videos_are_read_by_one_query_that_indexes_answer(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    rows.connection.execute(
        "WITH made AS (INSERT INTO videos SELECT FROM generate_series(1, 5000) RETURNING id)"
        " INSERT INTO video_qualities (video_id, quality, url, status)"
        " SELECT id, quality, 'https://a.example/' || id, 'ready'"
        " FROM made, unnest(ARRAY['144p', '360p', '720p', 'original']) AS quality"
    )
    rows.connection.execute("ANALYZE video_qualities")
    some = [str(row["id"]) for row in rows.connection.execute("SELECT id FROM videos LIMIT 500").fetchall()]
    with caplog.at_level("DEBUG", "peewee"):
        table.unpublished_rows([State.PUBLISHED], some)
    (asked,) = [record.msg for record in caplog.records if "video_qualities" in str(record.msg)]
    assert isinstance(asked, tuple)
    plan = rows.connection.execute(f"EXPLAIN {asked[0]}", asked[1]).fetchall()
    steps = "\n".join(line["QUERY PLAN"] for line in plan)
    assert "video_qualities_by_video" in steps
    assert "Seq Scan on video_qualities" not in steps


def test_a_publication_remembers_what_stood_there_before_however_often_it_is_repeated(
    rows: CatalogRows, table: CompressorTable, ledger: Ledger
) -> None:
    upload = advance_to(ledger, enqueue(ledger), State.PUBLISHED)
    row_id = rows.insert("a_720p.mp4", "720p")
    publications = Publications(ledger.database, "main")
    (row,) = table.rows_of_video(VIDEO_ID)
    publications.record(row, upload, PUBLIC_URL, ledger.now())
    publications.record(replace(row, url=PUBLIC_URL), upload, PUBLIC_URL, ledger.now())
    found = publications.by_row_id([row_id])[row_id]
    assert (found.local_url, found.url) == (f"{BASE_URL}/{VIDEO_ID}/a_720p.mp4", PUBLIC_URL)
    assert publications.of_deleted_rows(0, gone_code="x") == (set(), None)
    rows.delete(row_id)
    assert publications.of_deleted_rows(0, gone_code="x") == ({upload.id}, None)
    publications.delete_of_upload(upload)
    assert publications.by_row_id([row_id]) == {}


def test_any_row_that_shows_an_address_is_found_whatever_its_video(
    rows: CatalogRows, table: CompressorTable
) -> None:
    rows.insert("x.mp4", "original", video_id=OTHER_VIDEO, url=PUBLIC_URL)
    assert table.shown_urls(["https://nobody.example/", PUBLIC_URL]) == {PUBLIC_URL}
    assert table.shown_urls(["https://nobody.example/"]) == set()


@pytest.mark.long
def test_deleted_rows_are_looked_for_in_windows_that_read_no_table_as_a_whole(
    rows: CatalogRows, database: Database, table: CompressorTable
) -> None:
    """One query answers for all uploads of a window; what reads the whole catalog is asked once for all."""
    fill_ledger(database, 20_000)
    execute = rows.connection.execute
    execute("DROP TRIGGER video_qualities_touched ON video_qualities")
    execute("INSERT INTO videos (id) SELECT DISTINCT video_id FROM video_uploader.uploads")
    execute(
        "INSERT INTO video_qualities (video_id, quality, status, url)"
        " SELECT video_id, quality, 'ready', coalesce(url, '') FROM video_uploader.uploads"
    )
    execute(
        "INSERT INTO video_uploader.publications (row_id, instance, url, published_at, upload_id)"
        " SELECT r.id, 'main', r.url, now(), u.id FROM video_uploader.uploads u"
        " JOIN video_qualities r USING (video_id, url)"
    )
    dead = {row["id"] for row in execute("SELECT id FROM video_uploader.uploads WHERE state <> 'pending'")}
    dead = {upload_id for upload_id in dead if upload_id % 7 == 0}
    execute(
        "DELETE FROM video_qualities r USING video_uploader.publications p"
        " WHERE p.row_id = r.id AND p.upload_id % 7 = 0"
    )
    for name in ("video_qualities", "video_uploader.publications"):
        execute(f"VACUUM ANALYZE {name}")
    publications = Publications(database, "main")
    found, windows = set[int](), 0
    after: int | None = 0
    while after is not None:
        of_window, after = publications.of_deleted_rows(after, gone_code="row-gone")
        found |= of_window
        windows += 1
    assert (found, windows) == (dead, 11)
    for of in ("uploads", "publications"):
        plans = explain(database, lambda: publications.of_deleted_rows(10_000, gone_code="x"), of=of)
        assert plans
        for plan in plans:
            assert "Seq Scan" not in " ".join(plan.steps), plan
    candidates = sorted(found)[:500]
    (plan,) = explain(database, lambda: table.rows_of_uploads(candidates))
    assert " on video_qualities" in " ".join(plan.steps)
    with_rows = table.rows_of_uploads(candidates)
    assert [upload.id for upload, _ in with_rows] == candidates
    urls = [upload.url or "" for upload, _ in with_rows]
    assert table.shown_urls(urls) == set()
    (plan,) = explain(database, lambda: table.shown_urls(urls), of="video_qualities")
    assert sum("on video_qualities" in step for step in plan.steps) == 1
    assert " Join" in " ".join(plan.steps)
