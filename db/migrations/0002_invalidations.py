"""The queue of CDN invalidations.

A frozen copy of `db.models.InvalidationRow` as it was when this was written.
"""

from typing import Any

SQLITE_TYPES = {"serial": "INTEGER", "time": "TEXT"}
POSTGRESQL_TYPES = {"serial": "BIGSERIAL", "time": "TIMESTAMPTZ"}

STATEMENTS = (
    """
    CREATE TABLE {schema}invalidations (
        id {serial} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        object_key TEXT NOT NULL,
        requested_at {time} NOT NULL,
        sent_at {time}
    )
    """,
    "CREATE INDEX invalidations_of_instance ON {schema}invalidations (instance, sent_at, id)",
)


def up(migrator: Any, db: Any) -> None:
    """Create the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
