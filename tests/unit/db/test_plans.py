"""A ledger's size costs nobody anything: what is asked for all day is found by the index made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from db import Database, Ledger, State
from tests.support.bulk_ledger import BACKOFF, INSTANCE, RETENTION, LedgerCounts, fill_ledger
from tests.support.databases import LEASE, Place
from tests.support.query_plans import plans_of

ROWS = 20_000
"""So many that PostgreSQL has a reason to use an index at all."""


@pytest.fixture
def empty(place: Place) -> Iterator[Database]:
    database = place.open()
    yield database
    database.close()


@pytest.fixture
def counts(empty: Database) -> LedgerCounts:
    return fill_ledger(empty, ROWS)


def test_the_crowd_is_what_it_is_said_to_be(empty: Database, counts: LedgerCounts) -> None:
    ledger = Ledger(empty, INSTANCE)
    assert counts == LedgerCounts(ROWS, due=200, held=2, awaiting_row=600, published=4_000)
    claimed = ledger.claim(State.PENDING, ROWS, lease=LEASE, horizon=BACKOFF)
    assert len(claimed) == counts.due
    assert ledger.claim(State.PUBLISHED, ROWS, lease=LEASE, horizon=RETENTION) == []
    assert ledger.count_awaiting_row() == counts.awaiting_row


def reading(ledger: Ledger) -> dict[str, tuple[Callable[[], object], set[str]]]:
    """What is asked, and by which indexes it may be answered."""
    return {
        "claim": (lambda: ledger.claim(State.PENDING, 64, lease=LEASE, horizon=BACKOFF), {"uploads_due"}),
        "nothing due": (
            lambda: ledger.claim(State.PUBLISHED, 64, lease=LEASE, horizon=RETENTION),
            {"uploads_due"},
        ),
        "beyond the horizon": (
            lambda: ledger.claim(State.PUBLISHED, 64, lease=LEASE, horizon=timedelta(minutes=1)),
            {"uploads_due"},
        ),
        "next due": (lambda: ledger.next_due(State.PENDING, horizon=BACKOFF), {"uploads_due"}),
        "next due, none is": (lambda: ledger.next_due(State.PUBLISHED, horizon=RETENTION), {"uploads_due"}),
        "a page of the gate": (lambda: ledger.awaiting_row(limit=20), {"uploads_awaiting_row"}),
        "a later page": (lambda: ledger.awaiting_row(limit=20, after=ROWS // 2), {"uploads_awaiting_row"}),
        "the oldest at the gate": (ledger.oldest_awaiting_row, {"uploads_awaiting_since"}),
        "how many are at the gate": (
            ledger.count_awaiting_row,
            {"uploads_awaiting_since", "uploads_awaiting_row"},
        ),
    }


def test_what_is_asked_all_day_is_answered_by_its_index(empty: Database, counts: LedgerCounts) -> None:
    ledger = Ledger(empty, INSTANCE)
    for what, (ask, indexes) in reading(ledger).items():
        plans = [plan for plan in plans_of(empty, ask) if plan.statement.startswith("SELECT")]
        assert plans, what
        for plan in plans:
            assert plan.reads_by, (what, plan)
            assert plan.reads_by <= indexes, (what, plan)


def test_what_is_claimed_and_renewed_is_found_by_its_number(empty: Database, counts: LedgerCounts) -> None:
    ledger = Ledger(empty, INSTANCE)

    def work() -> None:
        ledger.renew(ledger.claim(State.PENDING, 8, lease=LEASE, horizon=BACKOFF), LEASE)

    updates = [plan for plan in plans_of(empty, work) if plan.statement.startswith("UPDATE")]
    assert [plan.reads_by for plan in updates] == [{"primary key"}, {"primary key"}]


def test_postgresql_writes_no_index_for_a_claim(postgres_place: Place) -> None:
    """What a claim and its renewal change is in no index, and every page has room for more of its rows."""
    with closing(postgres_place.open()) as database:
        fill_ledger(database, ROWS)
        ledger = Ledger(database, INSTANCE)
        with database.transaction(), database.operation("count what was rewritten") as connected:
            ledger.renew(ledger.claim(State.PENDING, 64, lease=LEASE, horizon=BACKOFF), LEASE)
            cursor = connected.execute_sql(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables"
                " WHERE schemaname = %s AND relname = 'uploads'",
                (database.schema,),
            )
            assert cursor.fetchone() == (128, 128)
