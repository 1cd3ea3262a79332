"""Columns return the values that were stored, the same on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from db import Database, Identity, Ledger, State
from tests.support.databases import VIDEO_ID, Clock, enqueue

UNSIGNED_64 = st.integers(min_value=0, max_value=2**64 - 1)
SIGNED_64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)

on_one_database = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@on_one_database
@given(st.builds(Identity, UNSIGNED_64, UNSIGNED_64, st.integers(0, 2**63 - 1), SIGNED_64))
@example(Identity(2**64 - 1, 2**63, 0, -1))
def test_an_identity_comes_back_as_it_was(ledger: Ledger, identity: Identity) -> None:
    ledger.advance(upload := enqueue(ledger, identity=identity), State.SUPERSEDED)
    assert upload.identity == identity


@on_one_database
@given(st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - given a zone
def test_a_time_comes_back_as_it_was(ledger: Ledger, clock: Clock, time: datetime) -> None:
    clock.now = time
    assert enqueue(ledger).discovered_at == time


def test_a_time_of_another_zone_comes_back_in_utc(ledger: Ledger, clock: Clock) -> None:
    clock.now = datetime(2024, 5, 17, 12, 0, tzinfo=timezone(timedelta(hours=-3)))
    discovered = enqueue(ledger).discovered_at
    assert discovered == clock.now
    assert discovered.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    uploads = database.tables.uploads
    with pytest.raises(ValueError, match="time zone"), database.operation("write a naive time"):
        uploads.update(due_at=datetime(2024, 5, 17)).execute()  # noqa: DTZ001 - that is the point


def test_a_video_id_is_kept_in_its_canonical_form(ledger: Ledger, database: Database) -> None:
    upload = enqueue(ledger, video_id=VIDEO_ID.upper())
    assert upload.video_id == VIDEO_ID
    assert ledger.uploads(video_id=VIDEO_ID.upper()) == [upload]
    schema = f"{database.schema}." if database.schema else ""
    with database.operation("look at the raw column") as connected:
        (stored,) = connected.execute_sql(f"SELECT video_id FROM {schema}uploads").fetchone()
    assert str(stored) == VIDEO_ID


def test_a_text_that_is_no_uuid_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="UUID"):
        enqueue(ledger, video_id="my_video")
