"""The text that is kept of a statement, and the values bound to it, are those of peewee for that query."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, timedelta
from importlib import import_module
from typing import Any

import pytest

import db
from db import (
    Admission,
    CompressorTable,
    Database,
    Ledger,
    Outbox,
    OwnCatalog,
    Publications,
    State,
    Steering,
    Upload,
    migrate,
)
from db.statements import MAX_LIST, MAX_SHAPES, Statement
from tests.support.catalog_rows import BASE_URL, catalog_rows
from tests.support.databases import (
    CHECKSUM,
    HORIZON,
    IDENTITY,
    LEASE,
    LOCAL_URL,
    PUBLIC_URL,
    VIDEO_ID,
    DatabaseAddress,
    advance_to,
    claim,
    enqueue,
    only,
)
from tests.support.postgres import PostgresServer

NEEDS_COMPRESSOR = ("CompressorTable.", "Publications.")
"""The statements about the compressor's table, which is on PostgreSQL only."""


def every_statement() -> set[str]:
    """The names of all statements of the package."""
    modules = [import_module(found.name) for found in pkgutil.walk_packages(db.__path__, "db.")]
    classes = {owner for module in modules for _, owner in inspect.getmembers(module, inspect.isclass)}
    members = [member for owner in classes for member in vars(owner).values()]
    return {member.make.__qualname__ for member in members if isinstance(member, Statement)}


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the statements that were run; each time what is bound is compared with peewee's query."""
    names: set[str] = set()
    bind = Statement.bind

    def compare(statement: Statement, *shape: Any, **values: Any) -> tuple[str, list[Any]]:
        expected_text, expected_values = statement.make(statement._owner, *shape, **values).sql()
        # Twice, because the first call renders what the second finds.
        for _ in range(2):
            text, bound = bind(statement, *shape, **values)
            assert text == expected_text
            assert [(type(value), value) for value in bound] == [
                (type(value), value) for value in expected_values
            ]
        names.add(statement.make.__qualname__)
        return text, bound

    monkeypatch.setattr(Statement, "bind", compare)
    return names


def use_uploads(database: Database) -> Upload:
    """Call what runs the frequent statements about uploads; returns a verified one."""
    ledger = Ledger(database, "main")
    first = enqueue(ledger, "v/a_720p.mp4")
    enqueue(ledger, "v/a_720p.mp4")
    assert ledger.current(first.path) is not None
    assert list(ledger.current_many([first.path, "v/none_720p.mp4"])) == [first.path]
    ledger.uploads(video_id=VIDEO_ID, limit=3)
    ledger.uploads(state=State.PENDING, ids=[1, 2, 3], all_instances=True)
    for awaits_others in (True, False):
        ledger.next_due(State.PENDING, horizon=HORIZON, awaits_others=awaits_others)
    ledger.claim(State.PENDING, 1, lease=LEASE, horizon=HORIZON, small_only=True, other_than=[7, 8])
    ledger.claim(State.PENDING, 1, lease=LEASE, horizon=HORIZON, other_than=[])
    ledger.next_due(State.PENDING, horizon=HORIZON, awaits_others=False)
    enqueue(ledger, "v/b_720p.mp4")
    upload = only(claim(ledger))
    ledger.renew_claims([upload], LEASE)
    ledger.require_claim(upload)
    ledger.key_conflict(upload)
    assert ledger.known_keys([upload.object_key]) == {upload.object_key}
    ledger.record(upload, checksum=CHECKSUM, etag=None, bytes_sent=5, ctime_ns=2**62)
    ledger.release_claim(only(claim(ledger)) if claim(ledger) else upload)
    ledger.append_event(upload.id, "noted", "")
    released = advance_to(ledger, enqueue(ledger, "v/c_720p.mp4"), State.RELEASED)
    enqueue(ledger, "v/d_720p.mp4")
    ledger.receipts.fold(10)
    ledger.append_event(released.id, "noted", "")
    upload = advance_to(ledger, ledger.uploads(path="v/b_720p.mp4")[0], State.VERIFIED)
    ledger.urls_of_path(upload.path)
    assert not Steering(ledger).is_held(upload.path)
    Outbox(database, "main").add("webhook", upload.path, "{}", at=ledger.now(), due_at=ledger.now())
    return upload


def use_own_catalog(database: Database, upload: Upload) -> None:
    """Call what runs the statements about the uploader's own catalog."""
    catalog = OwnCatalog(database)
    catalog.announce(upload, local_url=LOCAL_URL, public_url=PUBLIC_URL)
    assert catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1


def use_compressor_table(database: Database, row_ids: list[str]) -> None:
    """Call what runs the statements about the compressor's table, which has these rows."""
    ledger, table = Ledger(database, "main"), CompressorTable(database, "main")
    upload = enqueue(ledger, "v/c_720p.mp4", awaits_row=True)
    for since, before in ((None, None), (ledger.now() - timedelta(hours=1), upload.id + 1)):
        assert len(table.rows_of_waiting(since=since, before=before, limit=5)[0][1]) == len(row_ids)
    for videos in (None, [VIDEO_ID]):
        assert len(table.unpublished_rows({State.PENDING, State.VERIFIED}, videos)[VIDEO_ID]) == len(row_ids)
    row = table.rows_of_video(VIDEO_ID, record=True)[0]
    ledger.note_newer_row(upload, row)
    ledger.admit(
        upload,
        Admission(
            catalog_row_id=row.id,
            catalog_row_at=row.order_time,
            filename="c.mp4",
            quality="720p",
            object_key="videos/c",
        ),
    )
    publications = Publications(database, "main")
    publications.record(row, upload, PUBLIC_URL, ledger.now())
    publications.record(replace(row, url=PUBLIC_URL), upload, PUBLIC_URL, ledger.now())
    assert table.set_url([row], PUBLIC_URL) == 1


@contextmanager
def migrated(address: DatabaseAddress) -> Iterator[Database]:
    with closing(address.open()) as database:
        migrate(database)
        yield database


def test_on_sqlite_every_statement_is_what_peewee_renders(
    sqlite_address: DatabaseAddress, compared: set[str]
) -> None:
    with migrated(sqlite_address) as database:
        use_own_catalog(database, use_uploads(database))
        ledger = Ledger(database, "main")
        row = db.CatalogRow(VIDEO_ID, VIDEO_ID, "720p", "", "ready", None, ledger.now(), ledger.now())
        ledger.note_newer_row(ledger.uploads()[0], row)
    assert compared == {name for name in every_statement() if not name.startswith(NEEDS_COMPRESSOR)}


def test_on_postgresql_every_statement_is_what_peewee_renders(
    postgres: PostgresServer, compared: set[str]
) -> None:
    with postgres.fresh_database() as url, catalog_rows(url) as rows:
        row_ids = [rows.insert(f"{name}_720p.mp4", "720p", url=f"{BASE_URL}/x/{name}") for name in "ab"]
        with migrated(DatabaseAddress(url, None)) as database:
            use_own_catalog(database, use_uploads(database))
            use_compressor_table(database, row_ids)
    assert compared == every_statement()


def test_what_is_kept_of_a_statement_is_bounded(database: Database) -> None:
    """Neither the number of shapes that are kept grows for ever nor the length of the lists in them."""
    ledger = Ledger(database, "main")
    upload = enqueue(ledger)
    kept = ledger._matching._rendered
    for length in range(1, MAX_LIST + 10):
        assert ledger.uploads(ids=[upload.id, *range(100, 99 + length)]) == [upload]
    assert len(kept) == MAX_LIST
    for limit in range(1, MAX_SHAPES + 10):
        assert ledger.uploads(limit=limit) == [upload]
    assert len(kept) <= MAX_SHAPES


def test_identities_and_times_survive_a_statement(database: Database) -> None:
    """The columns' conversions are applied to what is bound and to what is read."""
    identity = replace(IDENTITY, device=2**64 - 1, inode=2**63)
    ledger = Ledger(database, "main")
    upload = enqueue(ledger, identity=identity)
    found = ledger.current(upload.path)
    assert found == upload
    assert found is not None
    assert found.identity == identity
    assert type(found.state) is State
    assert found.due_at.tzinfo is UTC
