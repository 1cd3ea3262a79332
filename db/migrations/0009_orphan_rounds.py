"""Where an unfinished look for objects without catalog rows continues.

A frozen copy of `db.models.OrphanRoundRow` as it was when this was written.
"""

from typing import Any

SQLITE_TYPES = {"bigint": "INTEGER"}
POSTGRESQL_TYPES = {"bigint": "BIGINT"}

STATEMENTS = (
    """
    CREATE TABLE {schema}orphan_rounds (
        instance TEXT NOT NULL PRIMARY KEY,
        after_id {bigint} NOT NULL
    )
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Create the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
