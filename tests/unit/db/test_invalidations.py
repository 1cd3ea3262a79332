"""Invalidations are kept until they are sent; replaced objects are recognized by their checksums."""

from contextlib import closing
from datetime import timedelta

import pytest

from db import Database, Invalidations, Ledger, State
from tests.support.databases import (
    CHECKSUM,
    STATE_FACTS,
    Clock,
    DatabaseAddress,
    advance_to,
    claim,
    enqueue,
    only,
)

OTHER_CHECKSUM = "AAAAAAAAAAE="
KEY = "videos/v/my_video_720p.mp4"


@pytest.fixture
def invalidations(database: Database, clock: Clock) -> Invalidations:
    return Invalidations(database, "main", clock=clock)


def waiting_keys(invalidations: Invalidations, limit: int = 100) -> list[str]:
    return [invalidation.object_key for invalidation in invalidations.unsent(limit)]


def test_what_was_asked_for_waits_in_order_until_it_was_sent(
    invalidations: Invalidations, clock: Clock
) -> None:
    for key in ("b", "a é%?", "c"):
        invalidations.request(key)
    assert waiting_keys(invalidations) == ["b", "a é%?", "c"]
    assert waiting_keys(invalidations, limit=2) == ["b", "a é%?"]
    assert [found.object_key for found in invalidations.unsent(1, other_than=["b", "x"])] == ["a é%?"]
    assert {invalidation.requested_at for invalidation in invalidations.unsent(9)} == {clock.now}
    invalidations.mark_sent(invalidations.unsent(2))
    assert waiting_keys(invalidations) == ["c"]


def test_the_last_sending_is_remembered_by_the_clock_of_claims(
    invalidations: Invalidations, clock: Clock
) -> None:
    assert invalidations.last_sent_at() is None
    sent = []
    for key in ("a", "b"):
        invalidations.request(key)
        sent.append(clock.advance(minutes=2))
        invalidations.mark_sent(invalidations.unsent(1))
        assert invalidations.last_sent_at() == sent[-1]
    assert sent[1] - sent[0] == timedelta(minutes=2)


def test_what_was_sent_before_the_last_time_is_forgotten(
    invalidations: Invalidations, database: Database
) -> None:
    for key in ("a", "b", "c"):
        invalidations.request(key)
        invalidations.mark_sent(invalidations.unsent(1))
    with database.operation("count rows") as connected:
        table = database.tables.invalidations
        assert connected.execute(table.select(table.object_key)).fetchall() == [("c",)]


def test_a_key_asked_for_again_while_it_is_on_its_way_is_sent_again(invalidations: Invalidations) -> None:
    invalidations.request("a")
    on_its_way = invalidations.unsent(9)
    invalidations.request("a")
    invalidations.mark_sent(on_its_way)
    assert waiting_keys(invalidations) == ["a"]


def test_a_request_is_part_of_the_transaction_it_is_made_in(
    invalidations: Invalidations, database: Database
) -> None:
    def fail() -> None:
        with database.transaction():
            invalidations.request("a")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert waiting_keys(invalidations) == []


def test_every_instance_has_its_own(invalidations: Invalidations, database: Database, clock: Clock) -> None:
    other = Invalidations(database, "other", clock=clock)
    other.request("a")
    assert waiting_keys(invalidations) == []
    invalidations.mark_sent(other.unsent(9))
    assert waiting_keys(other) == ["a"]
    other.mark_sent(other.unsent(9))
    assert invalidations.last_sent_at() is None


def test_they_outlive_the_process(
    invalidations: Invalidations, address: DatabaseAddress, clock: Clock
) -> None:
    invalidations.request("sent")
    invalidations.mark_sent(invalidations.unsent(9))
    invalidations.request("waiting")
    with closing(address.open()) as reopened:
        later = Invalidations(reopened, "main", clock=clock)
        assert waiting_keys(later) == ["waiting"]
        assert later.last_sent_at() == clock.now


def verified(ledger: Ledger, checksum: str = CHECKSUM, path: str = "v/my_video_720p.mp4") -> None:
    """Add an upload that was verified with this checksum."""
    upload = enqueue(ledger, path, object_key=KEY)
    ledger.advance(upload, State.VERIFIED, **{**STATE_FACTS[State.VERIFIED], "checksum": checksum})


def replaces(ledger: Ledger, checksum: str = OTHER_CHECKSUM) -> bool:
    upload = enqueue(ledger, object_key=KEY)
    return ledger.replaces_other_content(ledger.record(upload, checksum=checksum))


def test_a_first_upload_replaces_nothing(ledger: Ledger) -> None:
    assert not replaces(ledger)


def test_other_content_replaces_what_was_verified(ledger: Ledger) -> None:
    verified(ledger)
    assert replaces(ledger)


def test_the_same_content_replaces_nothing(ledger: Ledger) -> None:
    verified(ledger)
    assert not replaces(ledger, CHECKSUM)


@pytest.mark.parametrize("state", [State.PENDING, State.REJECTED, State.FAILED, State.GONE])
def test_what_was_never_verified_is_not_replaced(ledger: Ledger, state: State) -> None:
    upload = enqueue(ledger, object_key=KEY)
    advance_to(ledger, ledger.record(upload, checksum=CHECKSUM), state)
    assert not replaces(ledger)


@pytest.mark.parametrize("state", [State.VERIFIED, State.PUBLISHED, State.RELEASED])
def test_an_object_is_replaced_however_far_its_row_came(ledger: Ledger, state: State) -> None:
    advance_to(ledger, enqueue(ledger, object_key=KEY), state)
    assert replaces(ledger)


def test_an_object_that_was_lost_after_it_was_verified_may_still_be_in_caches(ledger: Ledger) -> None:
    verified(ledger)
    (row,) = claim(ledger, State.VERIFIED)
    lost = ledger.advance(row, State.PENDING)
    assert lost.verified_at is None
    assert replaces(ledger)


def test_another_key_is_another_object(ledger: Ledger) -> None:
    advance_to(ledger, enqueue(ledger, object_key=f"{KEY}.other"), State.VERIFIED)
    assert not replaces(ledger)


def test_another_instances_object_is_not_ours_to_know(ledger: Ledger, clock: Clock) -> None:
    other = Ledger(ledger.database, "other", clock=clock)
    verified(other)
    assert not replaces(ledger)


def test_what_came_later_was_not_replaced(ledger: Ledger) -> None:
    """Only earlier uploads count."""
    first = ledger.record(enqueue(ledger, object_key=KEY), checksum=OTHER_CHECKSUM)
    verified(ledger)
    assert not ledger.replaces_other_content(only(ledger.uploads(ids=[first.id])))
