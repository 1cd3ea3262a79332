"""The compressor's rows as a test writes them: by hand, one change at a time, on a connection of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.compressor.database import add_video, create_schema
from tests.support.harness import VIDEO_ID

BASE_URL = "https://example.com/videos"


@dataclass(frozen=True)
class CatalogRows:
    """The table `video_qualities` of a database that has the compressor's tables."""

    url: str
    connection: psycopg.Connection[dict[str, Any]]

    def insert(self, name: str, quality: str, status: str = "ready", **columns: str) -> str:
        """Add a row with the local URL of a file, newer than all others; returns its id."""
        values = {
            "video_id": VIDEO_ID,
            "quality": quality,
            "status": status,
            "url": f"{BASE_URL}/{VIDEO_ID}/{name}",
            **columns,
        }
        names = sql.SQL(", ").join(map(sql.Identifier, values))
        places = sql.SQL(", ").join(sql.Placeholder() * len(values))
        statement = sql.SQL("INSERT INTO video_qualities ({}) VALUES ({}) RETURNING id::text AS id").format(
            names, places
        )
        row = self.connection.execute(statement, list(values.values())).fetchone()
        assert row is not None
        return str(row["id"])

    def update(self, row_id: str, **columns: object) -> None:
        """Change columns of a row, as the compressor or an operator does."""
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns
        )
        statement = sql.SQL("UPDATE video_qualities SET {} WHERE id = {}").format(changes, sql.Placeholder())
        assert self.connection.execute(statement, [*columns.values(), row_id]).rowcount == 1

    def delete(self, *row_ids: str) -> None:
        """Delete rows."""
        self.connection.execute("DELETE FROM video_qualities WHERE id = ANY(%s::uuid[])", [list(row_ids)])

    def read(self, row_id: str) -> dict[str, Any]:
        """A whole row as it is now."""
        row = self.connection.execute("SELECT * FROM video_qualities WHERE id = %s", [row_id]).fetchone()
        assert row is not None
        return row

    def url_of(self, row_id: str) -> str:
        """What players are given."""
        return str(self.read(row_id)["url"])


@contextmanager
def catalog_rows(url: str) -> Iterator[CatalogRows]:
    """The rows of a fresh database: the compressor's tables are made, and one video."""
    create_schema(url)
    add_video(url, VIDEO_ID)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield CatalogRows(url, connection)
