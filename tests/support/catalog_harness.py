"""A compressor's database, written into by the stand-in compressor's recorder."""

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
        """The settings of a daemon that uses it."""
        return {"DATABASE_URL": self.url, "CATALOG": "compressor"}

    def begin(self, path: str, quality: str = "720p") -> str:
        """Begin an encode onto a path; returns the row's id."""
        video_id = posixpath.dirname(path)
        add_video(self.url, video_id)
        return self.recorder.processing(video_id, quality, f"{LOCAL}/{path}")

    def end(self, row: str, path: str) -> None:
        """End it well; the local URL is written once more."""
        self.recorder.ready(row, f"{LOCAL}/{path}", FOUND)

    def encode(self, path: str, quality: str = "720p") -> str:
        """Begin and end an encode; returns the row's id."""
        row = self.begin(path, quality)
        self.end(row, path)
        return row

    def fail(self, row: str) -> None:
        """End it badly."""
        self.recorder.failed(row)

    def delete(self, video_id: str = VIDEO_ID) -> None:
        """Delete the video, and with it its rows."""
        assert delete_video(self.url, video_id)

    def urls(self, video_id: str = VIDEO_ID) -> list[str]:
        """The URLs that players are given for a video."""
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


def pass_gate(harness: Harness) -> int:
    """Run the catalog gate; returns how many uploads wait no longer."""
    catalog_thread = harness.app.catalog_thread
    assert catalog_thread is not None
    return catalog_thread.gate.ask()


def publish(harness: Harness, compressor: Compressor, path: str, content: bytes) -> tuple[Upload, str]:
    """Bring a file of quality 720p to `published`; returns its upload and its row's id."""
    row = compressor.encode(path)
    harness.put(path, content)
    assert pass_gate(harness) == 1
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    upload = harness.row(path)
    assert upload.state is State.PUBLISHED, upload
    return upload, row
