"""Receipts of released uploads, which the daemon fills in small batches from the rows that exist.

Publications and orphans of a released upload name its receipt, so that they refer to `uploads` no longer.
A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

SQLITE_TYPES = {"bigint": "INTEGER", "uuid": "BLOB", "bytes": "BLOB"}
POSTGRESQL_TYPES = {"bigint": "BIGINT", "uuid": "UUID", "bytes": "BYTEA"}

STATEMENTS = (
    """
    CREATE TABLE {schema}receipts (
        id {bigint} NOT NULL PRIMARY KEY,
        path_hash INTEGER NOT NULL,
        key_hash INTEGER NOT NULL,
        released_day INTEGER NOT NULL,
        video_id {uuid} NOT NULL,
        instance TEXT NOT NULL,
        content {bytes} NOT NULL
    )
    """,
    "CREATE INDEX receipts_of_path ON {schema}receipts (path_hash)",
    "CREATE INDEX receipts_of_key ON {schema}receipts (key_hash)",
    "CREATE INDEX receipts_of_video ON {schema}receipts (video_id)",
)
POSTGRESQL_STATEMENTS = (
    "ALTER TABLE {schema}publications DROP CONSTRAINT publications_upload_id_fkey",
    "ALTER TABLE {schema}orphans DROP CONSTRAINT orphans_upload_id_fkey",
    # It is compressed already.
    "ALTER TABLE {schema}receipts ALTER COLUMN content SET STORAGE EXTERNAL",
)
REFERENCE = ",\n        FOREIGN KEY (upload_id) REFERENCES uploads (id) ON DELETE CASCADE"


def up(migrator: Any, db: Any) -> None:
    """Create the table and drop the references: in the migrator's schema, which only PostgreSQL has.

    SQLite drops no constraint of a table. The text of the tables is changed as
    https://sqlite.org/lang_altertable.html#otheralter says, because every row meets the new one.
    """
    types, schema = SQLITE_TYPES, ""
    statements = [*STATEMENTS]
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
        statements += POSTGRESQL_STATEMENTS
    for statement in statements:
        db.execute_sql(statement.format(schema=schema, **types))
    if migrator.schema is not None:
        return
    (version,) = db.execute_sql("PRAGMA schema_version").fetchone()
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql(
        "UPDATE sqlite_master SET sql = replace(sql, ?, '')"
        " WHERE type = 'table' AND name IN ('publications', 'orphans')",
        (REFERENCE,),
    )
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")
