"""What the looks for objects without catalog rows have found, and the ledger's token.

A frozen copy of what `db.models` had become when this was written.
"""

import secrets
from typing import Any

SQLITE_TYPES = {"bigint": "INTEGER", "time": "TEXT"}
POSTGRESQL_TYPES = {"bigint": "BIGINT", "time": "TIMESTAMPTZ"}

STATEMENTS = (
    """
    CREATE TABLE {schema}orphans (
        upload_id {bigint} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        missing_since {time} NOT NULL,
        FOREIGN KEY (upload_id) REFERENCES {schema}uploads (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE {schema}orphan_looks (
        instance TEXT NOT NULL PRIMARY KEY,
        rows {bigint} NOT NULL,
        looked_at {time} NOT NULL
    )
    """,
    "CREATE TABLE {schema}ledger_token (token TEXT NOT NULL PRIMARY KEY)",
    "INSERT INTO {schema}ledger_token (token) VALUES ('{token}')",
)


def up(migrator: Any, db: Any) -> None:
    """Create the tables: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    types = types | {"token": secrets.token_hex(8)}
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
