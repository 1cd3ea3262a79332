"""The ETag that an object will have; unknown for the rows that exist.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

STATEMENTS = ("ALTER TABLE {schema}uploads ADD COLUMN expected_etag TEXT",)


def up(migrator: Any, db: Any) -> None:
    """Change the table: in the migrator's schema, which only PostgreSQL has."""
    schema = "" if migrator.schema is None else '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema))
