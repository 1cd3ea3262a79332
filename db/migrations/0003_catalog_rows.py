"""Waiting for the compressor's catalog rows, what was published onto them, and indexes for a million rows.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

SQLITE_TYPES = {"bigint": "INTEGER", "boolean": "INTEGER", "time": "TEXT", "uuid": "TEXT"}
POSTGRESQL_TYPES = {"bigint": "BIGINT", "boolean": "BOOLEAN", "time": "TIMESTAMPTZ", "uuid": "UUID"}

STATEMENTS = (
    "ALTER TABLE {schema}uploads ADD COLUMN finding TEXT",
    "ALTER TABLE {schema}uploads ADD COLUMN awaits_row {boolean} NOT NULL DEFAULT FALSE",
    "ALTER TABLE {schema}uploads ADD COLUMN catalog_row_id {uuid}",
    "ALTER TABLE {schema}uploads ADD COLUMN catalog_row_at {time}",
    "DROP INDEX {schema}uploads_due",
    """
    CREATE INDEX uploads_due ON {schema}uploads (instance, state, due_at, id) WHERE (awaits_row = FALSE)
    """,
    """
    CREATE INDEX uploads_awaiting_row ON {schema}uploads (instance, state, id) WHERE (awaits_row = TRUE)
    """,
    """
    CREATE INDEX uploads_awaiting_since ON {schema}uploads (instance, state, due_at, id)
    WHERE (awaits_row = TRUE)
    """,
    """
    CREATE TABLE {schema}publications (
        row_id {uuid} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        url TEXT NOT NULL,
        local_url TEXT,
        published_at {time} NOT NULL,
        upload_id {bigint} NOT NULL,
        FOREIGN KEY (upload_id) REFERENCES {schema}uploads (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX publications_of_instance ON {schema}publications (instance, published_at)",
    "CREATE INDEX publications_of_upload ON {schema}publications (upload_id)",
)

POSTGRESQL_STATEMENTS = (
    # Room in every page for the rows' next versions: without it a claim must write every index
    # (postgresql.org/docs/current/storage-hot.html).
    "ALTER TABLE {schema}uploads SET (fillfactor = 80)",
)


def up(migrator: Any, db: Any) -> None:
    """Change the tables: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    statements = [*STATEMENTS]
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
        statements += POSTGRESQL_STATEMENTS
    for statement in statements:
        db.execute_sql(statement.format(schema=schema, **types))
