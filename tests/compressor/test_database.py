"""The tables hold what the compressor's tables hold, wherever they are made."""

import uuid

import psycopg
import pytest

from tests.compressor.database import add_video, connect, create_schema, delete_video
from tests.compressor.postgres_recorder import PostgresRecorder
from tests.compressor.recorder import Recorder
from tests.support.postgres import PostgresServer

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
INSERT = "INSERT INTO video_qualities (video_id, quality, url, is_default) VALUES (%s, %s, 'url', %s)"


def test_a_video_begins_as_a_draft_and_is_handed_over_once(database: str) -> None:
    assert add_video(database, VIDEO_ID, title="Été")
    assert not add_video(database, VIDEO_ID, title="another")
    with connect(database) as connection:
        assert connection.execute("SELECT title, status FROM videos").fetchall() == [("Été", "processing")]
        connection.execute("INSERT INTO videos DEFAULT VALUES")
        assert connection.execute("SELECT status FROM videos WHERE title IS NULL").fetchall() == [("draft",)]


def test_a_row_begins_as_processing_with_an_id_and_times_of_the_databases_own(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        connection.execute(
            "INSERT INTO video_qualities (video_id, quality, url) VALUES (%s, '144p', '')", [VIDEO_ID]
        )
        row = connection.execute(
            "SELECT id, status, is_default, created_at = updated_at, pg_typeof(created_at)::text"
            " FROM video_qualities"
        ).fetchone()
    assert row is not None
    assert isinstance(row[0], uuid.UUID)
    assert row[1:] == ("processing", False, True, "timestamp without time zone")


def test_only_the_compressors_qualities_and_statuses_exist(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        for quality in ("144p", "240p", "360p", "480p", "720p", "1080p", "1440p", "2160p", "original"):
            connection.execute(INSERT, [VIDEO_ID, quality, False])
        with pytest.raises(psycopg.errors.CheckViolation, match="quality"):
            connection.execute(INSERT, [VIDEO_ID, "90p", False])
        with pytest.raises(psycopg.errors.CheckViolation, match="status"):
            connection.execute("UPDATE video_qualities SET status = 'published'")
        with pytest.raises(psycopg.errors.CheckViolation, match="status"):
            connection.execute("UPDATE videos SET status = 'ready'")


def test_a_video_has_one_default_and_any_number_of_rows_for_a_quality(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        for is_default in (True, False, False):
            connection.execute(INSERT, [VIDEO_ID, "144p", is_default])
        with pytest.raises(psycopg.errors.UniqueViolation, match="default"):
            connection.execute(INSERT, [VIDEO_ID, "240p", True])


def test_a_row_needs_a_video(database: str) -> None:
    with connect(database) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute(INSERT, [VIDEO_ID, "144p", False])


def test_every_update_of_a_row_is_noted_by_the_database(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        connection.execute(INSERT, [VIDEO_ID, "144p", False])
        connection.execute("UPDATE video_qualities SET url = url, updated_at = 'epoch'")
        noted = connection.execute("SELECT updated_at > created_at FROM video_qualities").fetchall()
    assert noted == [(True,)]


def test_rows_are_looked_up_by_video_with_an_index(database: str) -> None:
    with connect(database) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT * FROM video_qualities WHERE video_id = %s", [VIDEO_ID])
        assert "video_qualities_by_video" in str(plan.fetchall())


def test_deleting_a_video_deletes_its_rows(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        connection.execute(INSERT, [VIDEO_ID, "144p", False])
        assert delete_video(database, VIDEO_ID)
        assert connection.execute("SELECT * FROM video_qualities").fetchall() == []
    assert not delete_video(database, VIDEO_ID)


def test_the_tables_can_live_in_a_schema_of_any_name(postgres: PostgresServer) -> None:
    schema = 'the compressor\'s "own", Été'
    with postgres.fresh_database() as url:
        create_schema(url, schema)
        add_video(url, VIDEO_ID, schema=schema)
        with PostgresRecorder(url, schema) as recorder:
            recorder.processing(VIDEO_ID, "144p", "somewhere")
        with connect(url) as connection:
            assert connection.execute("SELECT to_regclass('video_qualities')").fetchall() == [(None,)]
        with connect(url, schema) as connection:
            assert connection.execute("SELECT url FROM video_qualities").fetchall() == [("somewhere",)]


def test_a_fresh_database_is_empty_and_dropped_under_whoever_still_uses_it(postgres: PostgresServer) -> None:
    with postgres.fresh_database() as url:
        connection = connect(url)
        found = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert found == []
    with connection, pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


def test_a_lost_connection_is_replaced(database: str, postgres: PostgresServer) -> None:
    add_video(database, VIDEO_ID)
    with PostgresRecorder(database) as postgres_recorder:
        recorder: Recorder = postgres_recorder
        row = recorder.processing(VIDEO_ID, "144p", "somewhere")
        postgres.terminate_connections()
        recorder.failed(row)
    with connect(database) as connection:
        assert connection.execute("SELECT status FROM video_qualities").fetchall() == [("failed",)]
