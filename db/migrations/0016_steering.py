"""What operators ask for: the turn of an upload in the queue, files that are held, and orders to all daemons.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

STATEMENTS = (
    "ALTER TABLE {schema}uploads ADD COLUMN turn INTEGER NOT NULL DEFAULT 3",
    """
    CREATE INDEX uploads_due_first ON {schema}uploads (instance, state, turn, due_at, id)
    WHERE ((awaits_row = FALSE) AND (turn < 3))
    """,
    """
    CREATE TABLE {schema}holds (
        instance TEXT NOT NULL,
        path TEXT NOT NULL,
        held_at {time} NOT NULL,
        PRIMARY KEY (instance, path)
    )
    """,
    """
    CREATE TABLE {schema}orders (
        name TEXT NOT NULL PRIMARY KEY,
        detail TEXT NOT NULL,
        given_at {time} NOT NULL
    )
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Add everything: in the migrator's schema, which only PostgreSQL has."""
    types, schema = {"time": "TEXT"}, ""
    if migrator.schema is not None:
        types = {"time": "TIMESTAMPTZ"}
        schema = '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
