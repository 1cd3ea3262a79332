"""Ledgers of any number of uploads, filled by statements of the database itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from db import Database, migrate
from db.fields import Dialect

INSTANCE = "main"
BACKOFF = timedelta(hours=1)
"""Nothing that is pending waits for longer."""
RETENTION = timedelta(days=1)
"""Nothing that is published waits for longer."""


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """How many uploads there are: in all, and of the kinds that have to be told apart."""

    rows: int
    due: int
    """Pending, and to be claimed at once."""
    held: int
    """Pending and due before all others, but claimed by another worker."""
    awaiting_row: int
    published: int
    """None of them is due, and each is within the retention."""


class _Words:
    """What the two databases say differently. `n` counts the rows, `turn` a thousand of them, mixed."""

    def __init__(self, database: Database, rows: int) -> None:
        is_server = database.dialect is Dialect.POSTGRESQL
        self.table = f'"{database.schema}".uploads' if is_server else "uploads"
        self.numbers = f"generate_series(1::bigint, {rows}) AS numbers(n)" if is_server else "numbers"
        self.head = (
            ""
            if is_server
            else "WITH RECURSIVE numbers(n) AS"
            f" (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})"
        )
        scattered = "n / 5 * 2654435761 % 4294967296"
        self.video = (
            f"lpad(to_hex({scattered}), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(n / 5), 12, '0')"
            if is_server
            else f"printf('%08x-0000-4000-8000-%012x', {scattered}, n / 5)"
        )
        self.video_id = "CAST(video AS uuid)" if is_server else "video"
        self._is_server = is_server

    def after(self, seconds: str) -> str:
        """The time so many seconds from now."""
        if self._is_server:
            return f"now() + make_interval(secs => {seconds})"
        # The fixed-width text of `db.fields`; SQLite counts in milliseconds.
        return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ({seconds}) || ' seconds')"


def fill_ledger(database: Database, rows: int) -> LedgerCounts:
    """Bring an empty database up to date and fill it; its indexes are made anew, and what it knows of them.

    Of every thousand 700 are released, 200 published, 10 pending and due, 30 at the catalog gate, 50 pending
    and due later, the rest ended otherwise. They lie scattered, each due one far from the next: the worst of
    cases for a claim.
    """
    migrate(database)
    words = _Words(database, rows)
    with database.transaction("fill the ledger"), database.operation("fill the ledger") as connected:
        indexes = connected.execute_sql(_INDEXES[database.dialect], _schema(database)).fetchall()
        for name, _ in indexes:
            connected.execute_sql(f"DROP INDEX {words.table.removesuffix('uploads')}{name}")
        connected.execute_sql(_escaped(database, _insert(words)))
        for _, statement in indexes:
            connected.execute_sql(_escaped(database, statement))
    with database.operation("look at what was filled") as connected:
        # Outside of a transaction, as VACUUM must be; it is what autovacuum does soon after.
        is_server = database.dialect is Dialect.POSTGRESQL
        connected.execute_sql(f"VACUUM ANALYZE {words.table}" if is_server else "ANALYZE")
        return LedgerCounts(*connected.execute_sql(f"SELECT {_COUNTED} FROM {words.table}").fetchone())


_INDEXES = {
    Dialect.SQLITE: "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'uploads' AND type = 'index'",
    Dialect.POSTGRESQL: "SELECT indexname, indexdef FROM pg_indexes"
    " WHERE schemaname = %s AND tablename = 'uploads' AND indexname <> 'uploads_pkey'",
}

_COUNTED = ", ".join(
    f"count(CASE WHEN {condition} THEN 1 END)"
    for condition in (
        "1 = 1",
        "state = 'pending' AND error_code = 'due'",
        "claimed_until IS NOT NULL",
        "awaits_row",
        "state = 'published'",
    )
)


def _schema(database: Database) -> tuple[str, ...]:
    return (database.schema,) if database.schema is not None else ()


def _escaped(database: Database, statement: str) -> str:
    """A statement without parameters, for a driver that looks for some after every percent sign."""
    return statement.replace("%", "%%") if database.dialect is Dialect.POSTGRESQL else statement


def _insert(words: _Words) -> str:
    is_held = "turn = 40 AND n / 1000 % 10 = 0"
    past, soon, later = "-(n * 7919 % 86400)", "60 + n * 7919 % 3000", "3600 + n * 7919 % 80000"
    long_ago = words.after("-200000")
    values: dict[str, Any] = {
        "instance": f"'{INSTANCE}'",
        "path": "video || '/my_video_' || n || '_720p.mp4'",
        "video_id": words.video_id,
        "filename": "'my_video_' || n || '.mp4'",
        "quality": "'720p'",
        "device": "2049",
        "inode": "n",
        "size": "104857600",
        "mtime_ns": "1700000000000000000",
        "checksum": "CASE WHEN turn >= 90 THEN 'AAAAAAAAAAA=' END",
        "etag": "CASE WHEN turn >= 90 THEN '9e107d9d372bb6826bd81d3542a419d6' END",
        "object_key": "'videos/' || video || '/my_video_' || n || '_720p.mp4'",
        "url": "CASE WHEN turn >= 90 THEN"
        " 'https://bucket.example/videos/' || video || '/my_video_' || n || '_720p.mp4' END",
        "state": "CASE WHEN turn < 90 THEN 'pending' WHEN turn < 290 THEN 'published'"
        " WHEN turn < 990 THEN 'released' WHEN turn < 996 THEN 'superseded' ELSE 'failed' END",
        "error_code": "CASE WHEN turn < 10 THEN 'due' END",
        "awaits_row": "turn BETWEEN 10 AND 39",
        "due_at": f"CASE WHEN {is_held} THEN {words.after('-100000')}"
        f" WHEN turn BETWEEN 40 AND 89 THEN {words.after(soon)}"
        f" WHEN turn BETWEEN 90 AND 289 THEN {words.after(later)} ELSE {words.after(past)} END",
        "claimed_by": f"CASE WHEN {is_held} THEN 'another' END",
        "claimed_until": f"CASE WHEN {is_held} THEN {words.after('3600')} END",
        "claim": f"CASE WHEN {is_held} THEN 1 ELSE 0 END",
        "discovered_at": long_ago,
        "changed_at": long_ago,
        "verified_at": f"CASE WHEN turn >= 90 THEN {long_ago} END",
        "published_at": f"CASE WHEN turn >= 90 THEN {long_ago} END",
        "released_at": f"CASE WHEN turn >= 290 THEN {long_ago} END",
    }
    return (
        f"{words.head} INSERT INTO {words.table} ({', '.join(values)}) SELECT {', '.join(values.values())}"
        f" FROM (SELECT n, n * 409 % 1000 AS turn, {words.video} AS video FROM {words.numbers}) AS numbered"
    )
