"""The counts of uploads by state know bytes, too, and when uploads were published, failed or were rejected.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

COLUMNS = (
    "ALTER TABLE {schema}state_counts ADD COLUMN size {bigint} NOT NULL DEFAULT 0",
    "ALTER TABLE {schema}state_counts ADD COLUMN entered_at {time}",
    """
    INSERT INTO {schema}state_counts (instance, state, uploads, size)
    SELECT instance, state, 0, sum(size) FROM {schema}uploads GROUP BY instance, state
    """,
)
ENTERED_AT = "CASE WHEN NEW.state IN ('published', 'failed', 'rejected') THEN NEW.changed_at END"
LEFT = "OLD.instance, OLD.state, -1, -OLD.size, NULL"
ENTERED = f"NEW.instance, NEW.state, 1, NEW.size, {ENTERED_AT}"
INSERT = "INSERT INTO {schema}state_counts (instance, state, uploads, size, entered_at) VALUES"
SQLITE_TRIGGERS = (
    "DROP TRIGGER uploads_counted_in",
    "DROP TRIGGER uploads_counted_over",
    "DROP TRIGGER uploads_counted_out",
    f"CREATE TRIGGER uploads_counted_in AFTER INSERT ON uploads BEGIN {INSERT} ({ENTERED}); END",
    f"""
    CREATE TRIGGER uploads_counted_over AFTER UPDATE OF instance, state ON uploads
    WHEN OLD.state <> NEW.state OR OLD.instance <> NEW.instance BEGIN {INSERT} ({LEFT}), ({ENTERED}); END
    """,
    f"CREATE TRIGGER uploads_counted_out AFTER DELETE ON uploads BEGIN {INSERT} ({LEFT}); END",
)
POSTGRESQL_TRIGGERS = (
    f"""
    CREATE OR REPLACE FUNCTION {{schema}}count_upload() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            {INSERT} ({LEFT});
        END IF;
        IF TG_OP <> 'DELETE' THEN
            {INSERT} ({ENTERED});
        END IF;
        RETURN NULL;
    END $$
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns and replace the triggers: in the migrator's schema, which only PostgreSQL has."""
    types, schema = {"bigint": "INTEGER", "time": "TEXT"}, ""
    triggers: tuple[str, ...] = SQLITE_TRIGGERS
    if migrator.schema is not None:
        types, triggers = {"bigint": "BIGINT", "time": "TIMESTAMPTZ"}, POSTGRESQL_TRIGGERS
        schema = '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in (*COLUMNS, *triggers):
        db.execute_sql(statement.format(schema=schema, **types))
