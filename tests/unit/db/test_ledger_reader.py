"""Queries of the ledger concern its own instance and use a bounded amount of memory."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from db import Database, InstanceReport, Ledger, LedgerReader, State
from db.fields import Dialect
from tests.support.databases import LEASE, Clock, DatabaseAddress, advance_to, enqueue, only

OTHER_VIDEO = "6f1c2a8e-0d1b-4b43-9f4e-2a3b4c5d6e7f"


def in_every_state(ledger: Ledger) -> None:
    """Add an upload in each state, whose path is the state's value."""
    for state in State:
        advance_to(ledger, enqueue(ledger, state.value), state)


def test_the_current_upload_is_the_newest_of_its_path(ledger: Ledger) -> None:
    advance_to(ledger, enqueue(ledger), State.RELEASED)
    newest = advance_to(ledger, enqueue(ledger), State.RELEASED)
    enqueue(ledger, "another.mp4")
    assert ledger.current(newest.path) == newest
    assert ledger.current("unknown.mp4") is None


def test_many_paths_are_looked_up_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.ledger_reader.PAGE", 2)
    for path in ("a", "b", "c", "a"):
        enqueue(ledger, path)
    found = ledger.current_many(iter(["a", "b", "c", "d", "e"]))
    assert found == {path: ledger.current(path) for path in ("a", "b", "c")}


def test_uploads_are_listed_by_every_condition(ledger: Ledger, database: Database) -> None:
    first, second = enqueue(ledger, "a"), enqueue(ledger, "b", video_id=OTHER_VIDEO)
    failed = ledger.advance(second, State.FAILED)
    theirs = enqueue(Ledger(database, "other"), "a")
    assert ledger.uploads() == [first, failed]
    assert ledger.uploads(all_instances=True) == [first, failed, theirs]
    assert ledger.uploads(state=State.FAILED) == [failed]
    assert ledger.uploads(video_id=OTHER_VIDEO) == [failed]
    assert ledger.uploads(ids=[failed.id, theirs.id]) == [failed]
    assert ledger.uploads(ids=[]) == []
    assert ledger.uploads(path="a") == [first]
    assert ledger.uploads(limit=1) == [first]
    assert ledger.uploads(state=State.FAILED, path="a") == []


def test_uploads_are_iterated_page_by_page(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.ledger_reader.PAGE", 2)
    for number in range(5):
        enqueue(ledger, f"{number}.mp4")
    assert list(ledger.iter_uploads()) == ledger.uploads()
    pages = ledger.iter_uploads()
    early = [upload.path for upload in islice(pages, 2)]
    enqueue(ledger, "late.mp4")
    assert early + [upload.path for upload in pages] == [f"{n}.mp4" for n in range(5)] + ["late.mp4"]


def test_live_uploads_are_those_in_the_states_wanted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.ledger_reader.PAGE", 1)
    in_every_state(ledger)
    wanted = {State.PENDING, State.REJECTED, State.FAILED}
    assert {upload.state for upload in ledger.iter_in_states(wanted)} == wanted
    assert list(ledger.iter_in_states(set())) == []


def test_another_path_with_the_same_key_is_found(ledger: Ledger, database: Database) -> None:
    enqueue(Ledger(database, "other"), "theirs", object_key="key")
    mine = enqueue(ledger, "mine", object_key="key")
    assert ledger.key_conflict(mine) is None
    elder = enqueue(ledger, "elder", object_key="key")
    enqueue(ledger, "younger", object_key="key")
    enqueue(ledger, "other", object_key="other key")
    assert ledger.key_conflict(mine) == elder
    assert ledger.key_conflict(elder) == mine


def test_what_waits_at_the_catalog_gate_holds_no_key(ledger: Ledger) -> None:
    enqueue(ledger, "stray", object_key="key", awaits_row=True)
    mine = enqueue(ledger, "mine", object_key="key")
    assert ledger.key_conflict(mine) is None


def test_an_upload_in_progress_is_a_rival_before_older_ones_that_wait(ledger: Ledger) -> None:
    mine, _, active = (enqueue(ledger, path, object_key="key") for path in ("mine", "waits", "active"))
    claimed = ledger.claim_one(active.id, lease=LEASE)
    assert ledger.key_conflict(mine) == claimed


@pytest.mark.parametrize("state", list(State))
def test_only_who_has_or_wants_the_object_is_a_rival(ledger: Ledger, state: State) -> None:
    advance_to(ledger, enqueue(ledger, "rival", object_key="key"), state)
    rival = ledger.key_conflict(enqueue(ledger, "mine", object_key="key"))
    assert (rival is not None) == (state.is_open or state is State.RELEASED)


def test_uploads_are_counted_by_state(ledger: Ledger, database: Database) -> None:
    assert ledger.counts() == dict.fromkeys(State, 0)
    in_every_state(ledger)
    enqueue(ledger, "one more")
    enqueue(Ledger(database, "other"), "not mine")
    assert ledger.counts() == dict.fromkeys(State, 1) | {State.PENDING: 2}


def test_the_oldest_pending_upload_was_discovered_first(ledger: Ledger, clock: Clock) -> None:
    assert ledger.oldest_pending() is None
    advance_to(ledger, enqueue(ledger, "a"), State.VERIFIED)
    oldest = enqueue(ledger, "b")
    clock.advance(seconds=1)
    enqueue(ledger, "c")
    assert ledger.oldest_pending() == oldest


def test_the_last_errors_are_those_that_happened_last(ledger: Ledger) -> None:
    for path in ("a", "b", "c", "d"):
        enqueue(ledger, path)
    for path in ("c", "a", "b"):
        upload = only(ledger.uploads(path=path))
        ledger.postpone(upload, delay=timedelta(0), error=f"{path} failed", error_code="no")
    assert [upload.last_error for upload in ledger.last_errors(2)] == ["b failed", "a failed"]
    enqueue(ledger, "b")
    assert [upload.path for upload in ledger.last_errors(9)] == ["a", "c"]


def test_a_daemon_reports_about_itself(ledger: Ledger, database: Database, clock: Clock) -> None:
    assert ledger.instance_report() is None
    started = clock.now
    ledger.heartbeat({"status": "scanning"})
    later = clock.advance(seconds=30)
    ledger.heartbeat({"status": "idle", "paused": {"upload": None}, "files": [1, 2.5, True]})
    report = LedgerReader(database, "main").instance_report()
    assert report == InstanceReport(
        instance="main",
        pid=os.getpid(),
        started_at=started,
        heartbeat_at=later,
        report={"status": "idle", "paused": {"upload": None}, "files": [1, 2.5, True]},
    )
    assert LedgerReader(database, "other").instance_report() is None


def test_a_daemon_that_starts_again_says_since_when(ledger: Ledger, database: Database, clock: Clock) -> None:
    ledger.heartbeat({})
    restarted = clock.advance(hours=1)
    Ledger(database, "main", clock=clock).heartbeat({})
    report = ledger.instance_report()
    assert report is not None
    assert report.started_at == restarted


def counted(database: Database) -> dict[tuple[str, str], int]:
    """The uploads of each instance and state, counted one by one."""
    uploads = database.tables.uploads
    with database.operation("count"):
        query: Any = uploads.select(uploads.instance, uploads.state).tuples()
        rows = list(query)
    return {key: rows.count(key) for key in set(rows)}


def kept(reader: LedgerReader) -> dict[tuple[str, str], int]:
    """The numbers of `counts_by_instance` without the zeros."""
    found = reader.counts_by_instance()
    return {(name, state): number for name, of in found.items() for state, number in of.items() if number}


def test_the_numbers_that_are_kept_are_those_of_the_rows(ledger: Ledger, database: Database) -> None:
    in_every_state(ledger)
    in_every_state(Ledger(database, "other"))
    uploads = database.tables.uploads
    assert kept(ledger) == counted(database)
    ledger.add_up_counts()
    assert kept(ledger) == counted(database)
    with database.transaction("by hand"):
        moved = (uploads.state == State.PENDING) & (uploads.instance == ledger.instance)
        uploads.update(instance="third").where(moved).execute()
        uploads.delete().where(uploads.state == State.FAILED).execute()
    assert kept(ledger) == counted(database)
    ledger.add_up_counts()
    assert kept(ledger) == counted(database)
    assert ledger.counts() == {state: int(state not in {State.PENDING, State.FAILED}) for state in State}


def test_the_rows_of_the_counts_do_not_grow_with_the_uploads(ledger: Ledger, database: Database) -> None:
    rows = database.tables.state_counts
    for number in range(30):
        advance_to(ledger, enqueue(ledger, f"{number}.mp4"), State.RELEASED)
    ledger.add_up_counts()
    with database.operation("count"):
        assert rows.select().count() <= len(State)
    ledger.add_up_counts()
    assert ledger.counts()[State.RELEASED] == 30


def test_a_transaction_that_is_rolled_back_is_not_counted(ledger: Ledger, database: Database) -> None:
    enqueue(ledger, "kept.mp4")
    with suppress(ZeroDivisionError), database.transaction("rolled back"):
        enqueue(ledger, "lost.mp4")
        raise ZeroDivisionError
    assert ledger.counts()[State.PENDING] == 1
    ledger.add_up_counts()
    assert ledger.counts()[State.PENDING] == 1


def test_what_others_have_not_committed_is_waited_for_by_none_and_counted_afterwards(
    address: DatabaseAddress, database: Database, ledger: Ledger
) -> None:
    if database.dialect is Dialect.SQLITE:
        pytest.skip("SQLite has one writer at a time")
    enqueue(ledger, "first.mp4")
    other = address.open()
    with other.session(), other.transaction("slow"):
        enqueue(Ledger(other, ledger.instance), "slow.mp4")
        ledger.add_up_counts()
        ledger.claim(State.PENDING, 1, lease=LEASE, horizon=LEASE)
        assert ledger.counts()[State.PENDING] == 1
    other.close()
    assert ledger.counts()[State.PENDING] == 2
    ledger.add_up_counts()
    assert kept(ledger) == counted(database)


def test_uploads_are_iterated_newest_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.ledger_reader.PAGE", 2)
    for number in range(5):
        enqueue(ledger, f"{number}.mp4")
    assert list(ledger.iter_uploads(newest_first=True)) == ledger.uploads()[::-1]


def test_the_outcomes_of_the_last_hour_and_day_are_kept_while_their_rows_are_added_up(
    address: DatabaseAddress, database: Database
) -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    ledger = Ledger(database, "outcomes", clock=lambda: now)
    advance_to(ledger, enqueue(ledger, "old.mp4"), State.FAILED)
    now += timedelta(hours=26)
    advance_to(ledger, enqueue(ledger, "yesterday.mp4"), State.REJECTED)
    now += timedelta(hours=3)
    for number in range(3):
        advance_to(ledger, enqueue(ledger, f"{number}.mp4"), State.RELEASED)
    advance_to(ledger, enqueue(ledger, "failed.mp4"), State.FAILED)
    for _ in range(2):
        hour, day = ledger.outcomes(timedelta(hours=1)), ledger.outcomes(timedelta(days=1))
        assert (hour.published, hour.failed, hour.rejected) == (3, 1, 0)
        assert hour.success_rate == 0.75
        assert (day.published, day.failed, day.rejected) == (3, 1, 1)
        ledger.add_up_counts()
    now += timedelta(days=2)
    assert ledger.outcomes(timedelta(days=1)).success_rate is None
    ledger.add_up_counts()
    assert ledger.counts()[State.RELEASED] == 3


def test_the_bytes_and_the_age_of_what_waits_are_known(ledger: Ledger, database: Database) -> None:
    waiting = enqueue(ledger, "waits.mp4")
    advance_to(ledger, enqueue(ledger, "done.mp4"), State.PUBLISHED)
    for _ in range(2):
        assert ledger.sizes()[State.PENDING] == waiting.identity.size
        assert ledger.sizes()[State.VERIFIED] == 0
        ledger.add_up_counts()
    assert ledger.waiting_since().keys() == {State.PENDING, State.PUBLISHED}
    assert ledger.waiting_since()[State.PENDING] == waiting.discovered_at
