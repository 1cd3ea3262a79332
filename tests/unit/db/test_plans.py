"""Frequent queries are answered by the indexes made for them, whatever the size of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from db import CompressorTable, Database, Ledger, State, migrate
from tests.support.bulk_ledger import BACKOFF, INSTANCE, RETENTION, RowCounts, fill_ledger
from tests.support.databases import LEASE, DatabaseAddress, enqueue
from tests.support.query_plans import explain

ROWS = 20_000
"""Enough for PostgreSQL to prefer an index to a scan."""

VIDEO = "40000000-0000-4000-8000-000000000000"


@pytest.fixture
def empty(address: DatabaseAddress) -> Iterator[Database]:
    database = address.open()
    yield database
    database.close()


@pytest.fixture
def counts(empty: Database) -> RowCounts:
    return fill_ledger(empty, ROWS)


def test_the_ledger_is_filled_as_documented(empty: Database, counts: RowCounts) -> None:
    ledger = Ledger(empty, INSTANCE)
    assert counts == RowCounts(ROWS, due=200, held=2, awaiting_row=600, published=4_000)
    claimed = ledger.claim(State.PENDING, ROWS, lease=LEASE, horizon=BACKOFF)
    assert len(claimed) == counts.due
    assert ledger.claim(State.PUBLISHED, ROWS, lease=LEASE, horizon=RETENTION) == []
    assert ledger.count_awaiting_row() == counts.awaiting_row


def frequent_queries(ledger: Ledger) -> dict[str, tuple[Callable[[], object], set[str]]]:
    """The queries, and the indexes that may answer each."""
    return {
        "claim": (
            lambda: ledger.claim(State.PENDING, 64, lease=LEASE, horizon=BACKOFF),
            {"uploads_due", "uploads_due_first"},
        ),
        "claim what makes a video playable": (
            lambda: ledger.claim(
                State.PENDING, 8, lease=LEASE, horizon=BACKOFF, playable_for=timedelta(days=300)
            ),
            {"uploads_due", "uploads_due_first"},
        ),
        "the turn of a new upload": (
            lambda: enqueue(ledger, video_id=VIDEO),
            {
                "uploads_of_video",
                "uploads_of_path",
                "uploads_one_live_a_path",
                "primary key",
                "receipts_of_video",
            },
        ),
        "claim a small one": (
            lambda: ledger.claim(State.PENDING, 1, lease=LEASE, horizon=BACKOFF, small_only=True),
            {"uploads_due_small", "uploads_due_first"},
        ),
        "nothing due": (
            lambda: ledger.claim(State.PUBLISHED, 64, lease=LEASE, horizon=RETENTION),
            {"uploads_due"},
        ),
        "beyond the horizon": (
            lambda: ledger.claim(State.PUBLISHED, 64, lease=LEASE, horizon=timedelta(minutes=1)),
            {"uploads_due"},
        ),
        "the age of what waits": (ledger.waiting_since, {"uploads_due", "uploads_pending"}),
        "a probe": (
            lambda: ledger.claim(
                State.PENDING, 1, lease=LEASE, horizon=BACKOFF, other_than=list(range(1, 65))
            ),
            {"uploads_due"},
        ),
        "another that is due": (
            lambda: ledger.has_other_due(ledger.claim(State.PENDING, 1, lease=LEASE, horizon=BACKOFF)[0]),
            {"uploads_due", "uploads_due_first"},
        ),
        "the newest upload of a path": (
            lambda: ledger.current("v/my_video_720p.mp4"),
            {"uploads_of_path", "receipts_of_path"},
        ),
        "another upload of a key": (
            lambda: ledger.key_conflict(enqueue(ledger, "v/another.mp4")),
            {
                "uploads_of_key",
                "uploads_of_path",
                "uploads_of_video",
                "uploads_one_live_a_path",
                "primary key",
                "receipts_of_video",
                "receipts_of_key",
            },
        ),
        "the uploads of a key": (lambda: ledger.uploads_of_key("videos/x"), {"uploads_of_key"}),
        "next due": (lambda: ledger.next_due(State.PENDING, horizon=BACKOFF), {"uploads_due"}),
        "next due, none is": (lambda: ledger.next_due(State.PUBLISHED, horizon=RETENTION), {"uploads_due"}),
        "the oldest at the gate": (ledger.awaiting_row_since, {"uploads_awaiting_since"}),
        "the oldest pending": (ledger.oldest_pending, {"uploads_pending"}),
        "the oldest of a state": (lambda: ledger.oldest(State.PUBLISHED), {"uploads_due"}),
        "the latest of a state": (lambda: ledger.latest(State.RELEASED, 500), {"uploads_due"}),
        "the uploads of a video": (
            lambda: next(ledger.iter_uploads(newest_first=True, video_id=VIDEO), None),
            {"uploads_of_video"},
        ),
        "a page of uploads": (lambda: ledger.page(50, before=9_000), {"primary key"}),
        "a search": (lambda: ledger.page(50, before=9_000, text="x"), {"primary key"}),
        "the errors by code": (ledger.error_counts, {"uploads_with_error"}),
        "how many are at the gate": (
            ledger.count_awaiting_row,
            {"uploads_awaiting_since", "uploads_awaiting_row"},
        ),
        "the next known videos": (
            lambda: CompressorTable(ledger.database, INSTANCE).known_videos(
                [State.PUBLISHED], after="40000000-0000-4000-8000-000000000000", limit=500
            ),
            {"uploads_of_video"},
        ),
    }


def test_frequent_queries_are_answered_by_their_indexes(empty: Database, counts: RowCounts) -> None:
    ledger = Ledger(empty, INSTANCE)
    for what, (ask, indexes) in frequent_queries(ledger).items():
        plans = [plan for plan in explain(empty, ask) if plan.statement.startswith("SELECT")]
        assert plans, what
        for plan in plans:
            assert plan.access_paths, (what, plan)
            assert plan.access_paths <= indexes, (what, plan)


def test_sqlite_finds_other_uploads_of_a_key_by_it_without_statistics(
    sqlite_address: DatabaseAddress,
) -> None:
    """The daemon makes none: an index that has two of the columns would read every pending upload."""
    with closing(sqlite_address.open()) as database:
        migrate(database)
        ledger = Ledger(database, INSTANCE)
        upload = enqueue(ledger)

        def ask() -> None:
            ledger.key_conflict(upload)
            ledger.uploads_of_key(upload.object_key)
            ledger.replaces_other_content(upload)

        found = [plan.access_paths - {"upload_events_of_upload"} for plan in explain(database, ask)]
        assert found == [{"uploads_of_key", "receipts_of_key"}, {"uploads_of_key"}, {"uploads_of_key"}]


def test_what_is_claimed_and_renewed_is_found_by_its_number(empty: Database, counts: RowCounts) -> None:
    ledger = Ledger(empty, INSTANCE)

    def work() -> None:
        ledger.renew_claims(ledger.claim(State.PENDING, 8, lease=LEASE, horizon=BACKOFF), LEASE)

    updates = [plan for plan in explain(empty, work) if plan.statement.startswith("UPDATE")]
    assert [plan.access_paths for plan in updates] == [{"primary key"}, {"primary key"}]


def test_postgresql_writes_no_index_for_a_claim(postgres_address: DatabaseAddress) -> None:
    """Claims and renewals change no indexed column, and every page has room: all updates are HOT."""
    with closing(postgres_address.open()) as database:
        fill_ledger(database, ROWS)
        ledger = Ledger(database, INSTANCE)
        with database.transaction(), database.operation("count what was rewritten") as connected:
            ledger.renew_claims(ledger.claim(State.PENDING, 64, lease=LEASE, horizon=BACKOFF), LEASE)
            cursor = connected.execute_sql(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables"
                " WHERE schemaname = %s AND relname = 'uploads'",
                (database.schema,),
            )
            assert cursor.fetchone() == (128, 128)
