"""The tables hold what the compressor's tables hold, wherever they are made."""

import uuid

import psycopg
import pytest

from tests.compressor.database import add_video, connect, create_schema, delete_video
from tests.compressor.postgres_recorder import PostgresRecorder
from tests.support.postgres import PostgresServer

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
INSERT = "INSERT INTO video_qualities (video_id, quality, url, is_default) VALUES (%s, %s, 'url', %s)"


def test_videos_and_rows_begin_as_the_compressors_do(database: str) -> None:
    assert add_video(database, VIDEO_ID, title="Été")
    assert not add_video(database, VIDEO_ID, title="another")
    with connect(database) as connection:
        assert connection.execute("SELECT title, status FROM videos").fetchall() == [("Été", "processing")]
        connection.execute("INSERT INTO videos DEFAULT VALUES")
        assert connection.execute("SELECT status FROM videos WHERE title IS NULL").fetchall() == [("draft",)]
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


def test_the_tables_refuse_what_the_compressors_refuse(database: str) -> None:
    """Qualities and statuses of other names, a row without a video, and a second default of a video."""
    with connect(database) as connection:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(INSERT, [VIDEO_ID, "144p", False])
        add_video(database, VIDEO_ID)
        for is_default in (True, False, False):
            connection.execute(INSERT, [VIDEO_ID, "144p", is_default])
        with pytest.raises(psycopg.errors.UniqueViolation, match="default"):
            connection.execute(INSERT, [VIDEO_ID, "240p", True])
        for quality in ("144p", "240p", "360p", "480p", "720p", "1080p", "1440p", "2160p", "original"):
            connection.execute(INSERT, [VIDEO_ID, quality, False])
        with pytest.raises(psycopg.errors.CheckViolation, match="quality"):
            connection.execute(INSERT, [VIDEO_ID, "90p", False])
        with pytest.raises(psycopg.errors.CheckViolation, match="status"):
            connection.execute("UPDATE video_qualities SET status = 'published'")
        with pytest.raises(psycopg.errors.CheckViolation, match="status"):
            connection.execute("UPDATE videos SET status = 'ready'")


def test_every_update_of_a_row_is_noted_by_the_database(database: str) -> None:
    add_video(database, VIDEO_ID)
    with connect(database) as connection:
        connection.execute(INSERT, [VIDEO_ID, "144p", False])
        connection.execute("UPDATE video_qualities SET url = url, updated_at = 'epoch'")
        noted = connection.execute("SELECT updated_at > created_at FROM video_qualities").fetchall()
    assert noted == [(True,)]


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
