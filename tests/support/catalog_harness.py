"""A compressor's database for tests, written by the simulated compressor."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from db import State, Upload
from tests.compressor.database import add_video, create_schema, delete_video
from tests.compressor.ffmpeg import Probe
from tests.compressor.postgres_recorder import PostgresRecorder
from tests.support.harness import VIDEO_ID, Harness
from tests.support.postgres import PostgresServer

LOCAL = "https://example.com/videos"
FOUND = Probe(file_size=1, duration=1.0, codec="mpeg4", width=160, height=90)


@dataclass(frozen=True)
class Compressor:
    """The compressor's side of the catalog at `url`."""

    url: str
    recorder: PostgresRecorder

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a daemon that uses this catalog."""
        return {"DATABASE_URL": self.url, "CATALOG": "compressor"}

    def begin(self, path: str, quality: str = "720p") -> str:
        """Begin an encode to a path; returns the row's id."""
        video_id = posixpath.dirname(path)
        add_video(self.url, video_id)
        return self.recorder.processing(video_id, quality, f"{LOCAL}/{path}")

    def end(self, row: str, path: str) -> None:
        """End an encode successfully; the local URL is written again."""
        self.recorder.ready(row, f"{LOCAL}/{path}", FOUND)

    def encode(self, path: str, quality: str = "720p") -> str:
        """Begin and end an encode; returns the row's id."""
        row = self.begin(path, quality)
        self.end(row, path)
        return row

    def fail(self, row: str) -> None:
        """End an encode with an error."""
        self.recorder.failed(row)

    def delete(self, video_id: str = VIDEO_ID) -> None:
        """Delete the video and with it its rows."""
        assert delete_video(self.url, video_id)

    def urls(self, video_id: str = VIDEO_ID) -> list[str]:
        """The URLs of a video's rows."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT url FROM video_qualities WHERE video_id = %s ORDER BY created_at, id", [video_id]
            )
            return [str(url) for (url,) in rows]

    def set_url(self, row: str, url: str) -> None:
        """Write another URL into a row."""
        with psycopg.connect(self.url) as connection:
            connection.execute("UPDATE video_qualities SET url = %s WHERE id = %s", [url, row])


@contextmanager
def compressor_on(postgres: PostgresServer) -> Iterator[Compressor]:
    """A compressor with a new database of its own."""
    with postgres.fresh_database() as url:
        create_schema(url)
        with PostgresRecorder(url) as recorder:
            yield Compressor(url, recorder)


@pytest.fixture
def compressor(postgres: PostgresServer) -> Iterator[Compressor]:
    """A compressor with a new database of its own."""
    with compressor_on(postgres) as made:
        yield made


def publish(harness: Harness, compressor: Compressor, path: str, content: bytes) -> tuple[Upload, str]:
    """Take a file of quality 720p to `published`; returns its upload and its row's id."""
    row = compressor.encode(path)
    harness.put(path, content)
    assert harness.admit_waiting() == 1
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    upload = harness.row(path)
    assert upload.state is State.PUBLISHED, upload
    return upload, row
