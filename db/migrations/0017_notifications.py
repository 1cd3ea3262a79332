"""The outbox of notifications, and of videos that may be complete.

A frozen copy of `db.models.NotificationRow` as it was when this was written.
"""

from typing import Any

SQLITE_TYPES = {"serial": "INTEGER", "time": "TEXT"}
POSTGRESQL_TYPES = {"serial": "BIGSERIAL", "time": "TIMESTAMPTZ"}

STATEMENTS = (
    """
    CREATE TABLE {schema}notifications (
        id {serial} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        channel TEXT NOT NULL,
        subject TEXT NOT NULL,
        payload TEXT NOT NULL,
        occurred_at {time} NOT NULL,
        due_at {time} NOT NULL,
        attempts INTEGER NOT NULL
    )
    """,
    "CREATE INDEX notifications_due ON {schema}notifications (instance, channel, due_at, id)",
    "CREATE INDEX notifications_of_subject ON {schema}notifications (instance, channel, subject)",
)


def up(migrator: Any, db: Any) -> None:
    """Create the table: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
