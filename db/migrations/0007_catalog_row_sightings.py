"""The order in which the compressor's catalog rows were seen.

A frozen copy of `db.models.SightingRow` as it was when this was written.
"""

from typing import Any

SQLITE_TYPES = {"time": "TEXT", "uuid": "TEXT"}
POSTGRESQL_TYPES = {"time": "TIMESTAMPTZ", "uuid": "UUID"}

STATEMENTS = (
    """
    CREATE TABLE {schema}catalog_row_sightings (
        row_id {uuid} NOT NULL PRIMARY KEY,
        video_id {uuid} NOT NULL,
        ordered_at {time} NOT NULL
    )
    """,
    "CREATE INDEX catalog_row_sightings_of_video ON {schema}catalog_row_sightings (video_id)",
    # The rows that uploads were admitted for were seen before all that come now.
    """
    INSERT INTO {schema}catalog_row_sightings (row_id, video_id, ordered_at)
    SELECT catalog_row_id, video_id, MAX(catalog_row_at) FROM {schema}uploads
    WHERE catalog_row_id IS NOT NULL AND catalog_row_at IS NOT NULL
    GROUP BY catalog_row_id, video_id
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Create the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
