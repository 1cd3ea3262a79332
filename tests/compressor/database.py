"""The compressor's database, and the part of the other backend, which owns the table `videos`.

Every function takes a connection URL and, for tables elsewhere than in ``public``, the name of a schema.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

_SCHEMA = Path(__file__).with_name("schema.sql")


def connect(url: str, schema: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
    """A connection on which every statement counts at once, and which finds the tables in `schema`."""
    connection = psycopg.connect(url, autocommit=True)
    if schema is not None:
        connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
    return connection


def create_schema(url: str, schema: str | None = None) -> None:
    """Make the tables, and the schema for them if it has a name and is not there."""
    with connect(url, schema) as connection, connection.transaction():
        if schema is not None:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        connection.execute(_SCHEMA.read_text().encode())


def add_video(url: str, video_id: str, *, title: str = "", schema: str | None = None) -> bool:
    """Make the row of a video and hand it over for compression; ``False`` if there is a row already."""
    with connect(url, schema) as connection:
        added = connection.execute(
            "INSERT INTO videos (id, title, status) VALUES (%s, %s, 'draft') ON CONFLICT (id) DO NOTHING",
            [video_id, title],
        )
        if added.rowcount == 0:
            return False
        connection.execute("UPDATE videos SET status = 'processing' WHERE id = %s", [video_id])
        return True


def delete_video(url: str, video_id: str, *, schema: str | None = None) -> bool:
    """Delete a video and by cascade its qualities, but no files; ``False`` if there is no such video."""
    with connect(url, schema) as connection:
        return connection.execute("DELETE FROM videos WHERE id = %s", [video_id]).rowcount == 1
