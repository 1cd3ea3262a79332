"""The number of uploads in each state, kept by triggers, and indexes of what `status` asks for.

Every change of a state appends rows, so that no transaction waits for another one's count; `db.ledger_reader`
adds them up. A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

TABLE = """
    CREATE TABLE {schema}state_counts (
        id {serial} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        state TEXT NOT NULL,
        uploads {bigint} NOT NULL
    )
    """
FILL = """
    INSERT INTO {schema}state_counts (instance, state, uploads)
    SELECT instance, state, count(*) FROM {schema}uploads GROUP BY instance, state
    """
INDEXES = (
    """
    CREATE INDEX uploads_pending ON {schema}uploads (instance, discovered_at, id)
    WHERE ((state || '') = 'pending')
    """,
    "CREATE INDEX uploads_with_error ON {schema}uploads (instance, id) WHERE (last_error IS NOT NULL)",
)
SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER uploads_counted_in AFTER INSERT ON uploads BEGIN
        INSERT INTO state_counts (instance, state, uploads) VALUES (NEW.instance, NEW.state, 1);
    END
    """,
    """
    CREATE TRIGGER uploads_counted_over AFTER UPDATE OF instance, state ON uploads
    WHEN OLD.state <> NEW.state OR OLD.instance <> NEW.instance BEGIN
        INSERT INTO state_counts (instance, state, uploads)
        VALUES (OLD.instance, OLD.state, -1), (NEW.instance, NEW.state, 1);
    END
    """,
    """
    CREATE TRIGGER uploads_counted_out AFTER DELETE ON uploads BEGIN
        INSERT INTO state_counts (instance, state, uploads) VALUES (OLD.instance, OLD.state, -1);
    END
    """,
)
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION {schema}count_upload() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {schema}state_counts (instance, state, uploads) VALUES (OLD.instance, OLD.state, -1);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {schema}state_counts (instance, state, uploads) VALUES (NEW.instance, NEW.state, 1);
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER uploads_counted AFTER INSERT OR DELETE ON {schema}uploads
    FOR EACH ROW EXECUTE FUNCTION {schema}count_upload()
    """,
    """
    CREATE TRIGGER uploads_counted_over AFTER UPDATE OF instance, state ON {schema}uploads
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.instance <> NEW.instance)
    EXECUTE FUNCTION {schema}count_upload()
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Create everything: in the migrator's schema, which only PostgreSQL has."""
    types, schema, triggers = {"serial": "INTEGER", "bigint": "INTEGER"}, "", SQLITE_TRIGGERS
    if migrator.schema is not None:
        types, triggers = {"serial": "BIGSERIAL", "bigint": "BIGINT"}, POSTGRESQL_TRIGGERS
        schema = '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in (TABLE, FILL, *INDEXES, *triggers):
        db.execute_sql(statement.format(schema=schema, **types))
