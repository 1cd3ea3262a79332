"""An index of the small files that are due, which are claimed beside the large ones.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

STATEMENT = """
CREATE INDEX uploads_due_small ON {schema}uploads (instance, state, due_at, id)
WHERE ((awaits_row = FALSE) AND (size <= 16777216))
"""


def up(migrator: Any, db: Any) -> None:
    """Create the index: in the migrator's schema, which only PostgreSQL has."""
    schema = ""
    if migrator.schema is not None:
        schema = '"{}".'.format(migrator.schema.replace('"', '""'))
    db.execute_sql(STATEMENT.format(schema=schema))
