"""What the compressor writes down, in a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

import psycopg
from psycopg import sql

from tests.compressor.database import connect
from tests.compressor.ffmpeg import Probe


class PostgresRecorder:
    """See `Recorder`. Every thread has a connection of its own; `close` ends them all.

    A connection that was lost, or whose server has become a standby, is replaced before the next use, as a
    pool with a ping would do it.
    """

    def __init__(self, url: str, schema: str | None = None) -> None:
        self._url = url
        self._schema = schema
        self._own = threading.local()
        self._all: list[psycopg.Connection[tuple[object, ...]]] = []
        self._all_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; no thread may be in a call."""
        with self._all_lock:
            while self._all:
                self._all.pop().close()

    def processing(self, video_id: str, quality: str, url: str) -> str:
        """See `Recorder.processing`."""
        return self._inserted(
            "INSERT INTO video_qualities (video_id, quality, url, status, processing_started_at)"
            " VALUES (%s, %s, %s, 'processing', localtimestamp) RETURNING id",
            [video_id, quality, url],
        )

    def ready(self, row: str, url: str, found: Probe) -> None:
        """See `Recorder.ready`."""
        ready = sql.SQL(
            "status = 'ready', url = %s, processing_completed_at = localtimestamp,"
            " encoding_time = extract(epoch FROM localtimestamp - processing_started_at)::integer"
        )
        self._update(row, [_assignments(found), ready], [*_metadata(found).values(), url])

    def failed(self, row: str) -> None:
        """See `Recorder.failed`."""
        self._update(row, [sql.SQL("status = 'failed', processing_completed_at = localtimestamp")], [])

    def finished(self, video_id: str, default_row: str | None) -> None:
        """See `Recorder.finished`."""
        connection = self._connection()
        if default_row is not None:
            # An earlier compression's default has to go first: there is one for each video.
            with connection.transaction():
                connection.execute(
                    "UPDATE video_qualities SET is_default = false WHERE video_id = %s AND is_default",
                    [video_id],
                )
                connection.execute(
                    "UPDATE video_qualities SET is_default = true WHERE id = %s", [default_row]
                )
        status = "draft" if default_row is None else "published"
        connection.execute(
            "UPDATE videos SET status = %s, updated_at = localtimestamp WHERE id = %s", [status, video_id]
        )

    def original(self, video_id: str, url: str) -> str:
        """See `Recorder.original`."""
        return self._inserted(
            "INSERT INTO video_qualities (video_id, quality, url, status)"
            " VALUES (%s, 'original', %s, 'ready') RETURNING id",
            [video_id, url],
        )

    def describe(self, row: str, found: Probe) -> None:
        """See `Recorder.describe`."""
        self._update(row, [_assignments(found)], list(_metadata(found).values()))

    def _inserted(self, statement: str, values: Sequence[object]) -> str:
        row = self._connection().execute(statement.encode(), values).fetchone()
        assert row is not None
        return str(row[0])

    def _update(self, row: str, assignments: Sequence[sql.Composable], values: Sequence[object]) -> None:
        statement = sql.SQL("UPDATE video_qualities SET {} WHERE id = %s")
        self._connection().execute(statement.format(sql.SQL(", ").join(assignments)), [*values, row])

    def _connection(self) -> psycopg.Connection[tuple[object, ...]]:
        connection: psycopg.Connection[tuple[object, ...]] | None = getattr(self._own, "connection", None)
        if connection is not None and _is_alive(connection):
            return connection
        self._own.connection = connection = connect(self._url, self._schema)
        with self._all_lock:
            self._all.append(connection)
        return connection


def _is_alive(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        is_alive = connection.execute("SHOW transaction_read_only").fetchone() == ("off",)
    except psycopg.OperationalError:
        is_alive = False
    if not is_alive:
        connection.close()
    return is_alive


def _assignments(found: Probe) -> sql.Composed:
    """One ``column = %s`` for each of the metadata."""
    return sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in _metadata(found))


def _metadata(found: Probe) -> dict[str, object]:
    return {
        "file_size": found.file_size,
        "bitrate": found.bitrate,
        "resolution_width": found.width,
        "resolution_height": found.height,
        "codec": found.codec,
        "container": found.container,
        "duration": int(found.duration),
        "fps": found.fps,
        "pixel_format": found.pixel_format,
        "color_space": found.color_space,
        "color_range": found.color_range,
        "audio_codec": found.audio_codec,
        "audio_bitrate": found.audio_bitrate,
        "audio_sample_rate": found.audio_sample_rate,
        "audio_channels": found.audio_channels,
        "aspect_ratio": found.aspect_ratio,
        "frame_count": None if found.fps is None else round(found.duration * found.fps),
    }
