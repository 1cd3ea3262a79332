"""The outbox keeps what is to be told until it was, and gives it to one process at a time."""

from contextlib import closing
from datetime import timedelta

import pytest

from db import Database, Ledger, Outbox, State, Upload
from tests.support.databases import Clock, DatabaseAddress, advance_to, claim, enqueue, only

LEASE = timedelta(minutes=1)


@pytest.fixture
def outbox(database: Database, clock: Clock) -> Outbox:
    return Outbox(database, "main", clock=clock)


def add(outbox: Outbox, subject: str, channel: str = "webhook", **later: float) -> None:
    now = outbox.now()
    outbox.add(channel, subject, f'"{subject}"', at=now, due_at=now + timedelta(**later))


def taken(outbox: Outbox, limit: int = 9, channel: str = "webhook") -> list[str]:
    return [one.subject for one in outbox.take(channel, limit, lease=LEASE)]


def test_what_is_due_is_taken_once_until_its_claim_has_ended(outbox: Outbox, clock: Clock) -> None:
    """A process that was killed in between has not delivered it: it is due again."""
    for subject in "abc":
        add(outbox, subject)
    add(outbox, "later", seconds=90)
    add(outbox, "other", channel="on_published")
    assert taken(outbox, 2) == ["a", "b"]
    assert taken(outbox) == ["c"]
    assert taken(outbox) == []
    clock.advance(seconds=61)
    again = outbox.take("webhook", 9, lease=LEASE)
    assert [(one.subject, one.payload, one.attempts) for one in again] == [
        ("a", '"a"', 2),
        ("b", '"b"', 2),
        ("c", '"c"', 2),
    ]
    assert outbox.counts() == {"webhook": 4, "on_published": 1}


def test_what_was_delivered_is_deleted_and_what_failed_waits(outbox: Outbox, clock: Clock) -> None:
    for subject in "abc":
        add(outbox, subject)
    a, b, c = outbox.take("webhook", 9, lease=LEASE)
    outbox.finish([a], failed=b, retry_in=timedelta(seconds=30), untried=[c])
    assert [(one.subject, one.attempts) for one in outbox.take("webhook", 9, lease=LEASE)] == [("c", 1)]
    clock.advance(seconds=31)
    assert [(one.subject, one.attempts) for one in outbox.take("webhook", 9, lease=LEASE)] == [("b", 2)]


def test_what_waits_on_its_own_is_made_due_at_once(outbox: Outbox) -> None:
    add(outbox, "a", days=1)
    add(outbox, "b", channel="on_published", days=1)
    outbox.make_due("webhook")
    assert taken(outbox) == ["a"]
    assert taken(outbox, channel="on_published") == []


def test_only_what_has_a_receiver_is_kept(outbox: Outbox, database: Database) -> None:
    add(outbox, "a")
    add(outbox, "b", channel="on_published")
    add(Outbox(database, "another instance"), "c")
    assert outbox.discard(other_than=["on_published"]) == 1
    assert outbox.counts() == {"on_published": 1}
    assert outbox.discard(other_than=[]) == 1
    assert Outbox(database, "another instance").counts() == {"webhook": 1}


def test_a_subject_is_withdrawn_once(outbox: Outbox) -> None:
    for _ in range(3):
        add(outbox, "video", channel="video")
    assert outbox.withdraw("video", "video")
    assert not outbox.withdraw("video", "video")


class Recorder:
    """Queues every state that an upload comes into."""

    def __init__(self, outbox: Outbox, *, fails: bool = False) -> None:
        self.outbox = outbox
        self.fails = fails
        self.woken = 0

    def record(self, upload: Upload) -> bool:
        self.outbox.add("webhook", upload.state, "", at=upload.changed_at, due_at=upload.changed_at)
        if self.fails:
            raise ValueError("after it was queued")
        return upload.state is State.FAILED

    def wake(self) -> None:
        self.woken += 1


def test_an_event_is_committed_with_the_state_that_it_tells_of(
    ledger: Ledger, outbox: Outbox, clock: Clock, address: DatabaseAddress
) -> None:
    """It is there for a process that opens the database next, and not without the state."""
    ledger.observer = recorder = Recorder(outbox, fails=True)
    enqueue(ledger)
    upload = only(claim(ledger))
    with pytest.raises(ValueError, match="after"):
        ledger.advance(upload, State.FAILED, error="no", error_code="x")
    assert ledger.uploads()[0].state is State.PENDING
    assert outbox.counts() == {}
    recorder.fails = False
    ledger.advance(upload, State.FAILED, error="no", error_code="x")
    assert recorder.woken == 1
    with closing(address.open()) as reopened:
        assert taken(Outbox(reopened, "main", clock=clock)) == ["failed"]


def test_states_without_an_event_wake_nothing(ledger: Ledger, outbox: Outbox) -> None:
    ledger.observer = recorder = Recorder(outbox)
    enqueue(ledger)
    advance_to(ledger, only(claim(ledger)), State.PUBLISHED)
    assert recorder.woken == 0
