"""A proof by reading the object back is recorded as what it is.

A frozen copy of what `db.models` had become when this was written.
"""

from typing import Any

OLD = "confirmed_by IN ('checksum', 'etag')"
NEW = "confirmed_by IN ('checksum', 'etag', 'reading')"
POSTGRESQL = (
    "ALTER TABLE {schema}uploads DROP CONSTRAINT uploads_confirmed_by_known",
    "ALTER TABLE {schema}uploads ADD CONSTRAINT uploads_confirmed_by_known CHECK ({new})",
)


def up(migrator: Any, db: Any) -> None:
    """Allow the word: in the migrator's schema, which only PostgreSQL has.

    SQLite changes no constraint of a table. The text of the table is changed as
    https://sqlite.org/lang_altertable.html#otheralter says, because every row meets the new one.
    """
    if migrator.schema is not None:
        schema = '"{}".'.format(migrator.schema.replace('"', '""'))
        for statement in POSTGRESQL:
            db.execute_sql(statement.format(schema=schema, new=NEW))
        return
    (version,) = db.execute_sql("PRAGMA schema_version").fetchone()
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql(
        "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'uploads'",
        (OLD, NEW),
    )
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")
