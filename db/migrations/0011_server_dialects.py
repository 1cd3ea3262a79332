"""What object stores were found not to take.

A frozen copy of `db.models.ServerDialectRow` as it was when this was written.
"""

from typing import Any

SQLITE_TYPES = {"time": "TEXT"}
POSTGRESQL_TYPES = {"time": "TIMESTAMPTZ"}

STATEMENT = """
    CREATE TABLE {schema}server_dialects (
        endpoint TEXT NOT NULL,
        bucket TEXT NOT NULL,
        feature TEXT NOT NULL,
        said TEXT NOT NULL,
        found_at {time} NOT NULL,
        PRIMARY KEY (endpoint, bucket, feature)
    )
    """


def up(migrator: Any, db: Any) -> None:
    """Create the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    db.execute_sql(STATEMENT.format(schema=schema, **types))
