"""The ctime that a file had when it was hashed; unknown for the rows that exist.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

SQLITE_TYPES = {"bigint": "INTEGER"}
POSTGRESQL_TYPES = {"bigint": "BIGINT"}

STATEMENTS = ("ALTER TABLE {schema}uploads ADD COLUMN ctime_ns {bigint}",)


def up(migrator: Any, db: Any) -> None:
    """Change the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
