"""Each upload's events are kept in order, the first one included, and are bounded in number."""

from contextlib import suppress

from db import Database, Ledger, UploadEvent
from db.upload_queries import EVENTS_KEPT
from tests.support.databases import Clock, enqueue


def test_events_are_kept_in_order_with_their_time(ledger: Ledger, clock: Clock) -> None:
    upload = enqueue(ledger)
    clock.advance(seconds=1)
    ledger.append_event(upload.id, "adopted", "the object was there already")
    assert ledger.events(upload.id)[1:] == [UploadEvent(clock.now, "adopted", "the object was there already")]
    assert ledger.events(upload.id)[1].as_dict() == {
        "at": "2024-05-17T12:00:01.000000Z",
        "event": "adopted",
        "detail": "the object was there already",
    }


def test_the_first_and_the_newest_events_are_kept(database: Database, ledger: Ledger) -> None:
    other = enqueue(ledger, "other.mp4")
    upload = enqueue(ledger)
    with database.transaction():
        for number in range(2 * EVENTS_KEPT):
            ledger.append_event(upload.id, "noted", str(number))
    kept = ledger.events(upload.id)
    assert len(kept) == EVENTS_KEPT == 100
    assert kept[0].event == "discovered"
    newest = range(EVENTS_KEPT + 1, 2 * EVENTS_KEPT)
    assert [event.detail for event in kept[1:]] == [str(number) for number in newest]
    assert len(ledger.events(other.id)) == 1


def test_as_many_events_as_are_kept_are_complete(database: Database, ledger: Ledger) -> None:
    upload = enqueue(ledger)
    with database.transaction():
        for number in range(EVENTS_KEPT - 1):
            ledger.append_event(upload.id, "noted", str(number))
    assert len(ledger.events(upload.id)) == EVENTS_KEPT
    ledger.append_event(upload.id, "noted", "one more")
    assert [event.detail for event in ledger.events(upload.id)[1:3]] == ["1", "2"]


def test_an_event_is_rolled_back_with_its_transaction(database: Database, ledger: Ledger) -> None:
    upload = enqueue(ledger)
    with suppress(LookupError), database.transaction():
        ledger.append_event(upload.id, "noted", "something")
        raise LookupError
    assert [event.event for event in ledger.events(upload.id)] == ["discovered"]
