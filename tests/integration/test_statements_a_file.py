"""How many statements the databases are sent for one small file, from its discovery to its publication."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

from db import State
from db.fields import Dialect
from tests.support.catalog_rows import CatalogRows
from tests.support.harness import VIDEO_ID, Harness, MakeHarness

FIRST = f"{VIDEO_ID}/my video_480p.mp4"
PATH = f"{VIDEO_ID}/my video_720p.mp4"

SQLITE = {"SELECT": 13, "UPDATE": 9, "INSERT": 7, "SAVEPOINT": 5, "RELEASE": 5, "BEGIN": 4, "COMMIT": 4}
"""Of the INSERTs and UPDATEs six are of triggers. Three SELECTs are the test's own."""
POSTGRESQL = {
    "BEGIN": 15,
    "COMMIT": 6,
    "SELECT": 5,
    "UPDATE": 5,
    "INSERT": 5,
    "RELEASE": 4,
    "SAVEPOINT": 1,
    "DELETE": 1,
}
"""By the first statement of each message."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that psycopg sends; several in one message count as one."""
    found: list[str] = []
    execute = psycopg.Cursor.execute

    def record(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        found.append(str(query))
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", record)
    return found


def publish(harness: Harness, video: bytes, sent: list[str]) -> Counter[str]:
    """Publish a second file as the daemon does; the number of statements by their first word.

    The first one has the server asked what it takes.
    """
    database = harness.app.context.database
    peewee: Any = database._peewee
    advance(harness, FIRST, video)
    sent.clear()
    if database.dialect is Dialect.SQLITE:
        for connection in (peewee.connection(), peewee._writer):
            connection.set_trace_callback(sent.append)
    advance(harness, PATH, video)
    return Counter(text.split()[0].rstrip(";") for text in sent)


def advance(harness: Harness, path: str, video: bytes) -> None:
    harness.put(path, video)
    if harness.app.context.gate is not None:
        harness.admit_waiting()
    (upload,) = harness.step(State.PENDING, publishes=True)
    assert upload.state is State.PUBLISHED


def test_on_sqlite_a_file_costs_no_more_statements(
    make_harness: MakeHarness, video: bytes, sent: list[str]
) -> None:
    counted = publish(make_harness(), video, sent)
    assert counted == SQLITE, sent


def test_on_postgresql_a_file_costs_no_more_statements(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, sent: list[str]
) -> None:
    for quality in ("480p", "720p"):
        rows.insert(f"my video_{quality}.mp4", quality)
    counted = publish(make_catalog_harness(), video, sent)
    assert counted == POSTGRESQL, sent
