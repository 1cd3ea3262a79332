"""An upload waits at the catalog gate without a time limit and is admitted for exactly one row."""

from __future__ import annotations

from datetime import timedelta

import pytest

from db import Admission, CatalogRow, ClaimLostError, Ledger, State, Upload
from tests.support.databases import HORIZON, VIDEO_ID, Clock, advance_to, claim, enqueue, only

ROW_ID = "1b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
LATER_ID = "2b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"


def waiting(ledger: Ledger, path: str = "v/a_720p.mp4") -> Upload:
    """A new upload at the gate."""
    return enqueue(ledger, path, awaits_row=True)


def by(clock: Clock, row_id: str = ROW_ID) -> Admission:
    return Admission(
        catalog_row_id=row_id,
        catalog_row_at=clock.now,
        filename="a.mp4",
        quality="original",
        object_key="videos/a_original.mp4",
    )


def row(clock: Clock, row_id: str = LATER_ID) -> CatalogRow:
    return CatalogRow(row_id, VIDEO_ID, "720p", "https://u", "ready", 1, clock.now, clock.now)


def test_what_waits_at_the_gate_cannot_be_claimed_however_long_it_waits(ledger: Ledger, clock: Clock) -> None:
    upload = waiting(ledger)
    clock.advance(days=365)
    assert claim(ledger) == []
    assert ledger.next_due(State.PENDING, horizon=HORIZON) is None
    assert ledger.current(upload.path) == upload
    assert ledger.count_awaiting_row() == 1


def test_a_row_lets_it_through_and_decides_its_names(ledger: Ledger, clock: Clock) -> None:
    upload = waiting(ledger)
    clock.advance(seconds=5)
    admitted = ledger.admit(upload, by(clock))
    assert (admitted.filename, admitted.quality, admitted.object_key) == (
        "a.mp4",
        "original",
        "videos/a_original.mp4",
    )
    assert (admitted.catalog_row_id, admitted.catalog_row_at) == (ROW_ID, clock.now)
    assert (admitted.awaits_row, admitted.due_at) == (False, clock.now)
    assert only(claim(ledger)).id == upload.id
    assert ledger.count_awaiting_row() == 0


def test_of_two_that_let_it_through_one_is_too_late(ledger: Ledger, clock: Clock) -> None:
    """Two daemons on a shared directory work on the same gate."""
    upload = waiting(ledger)
    ledger.admit(upload, by(clock))
    with pytest.raises(ClaimLostError):
        ledger.admit(upload, by(clock, LATER_ID))


def test_a_claimed_upload_can_be_sent_back_to_the_gate(ledger: Ledger, clock: Clock) -> None:
    """It is no failure, and there is one event while the code is the same."""
    upload = enqueue(ledger)
    claimed = only(claim(ledger))
    clock.advance(seconds=3)
    back = ledger.await_row(claimed, reason="The row is processing.", code="row-processing")
    assert (back.awaits_row, back.due_at, back.claimed_by) == (True, clock.now, None)
    assert (back.attempts, back.last_error, back.error_code) == (0, None, "row-processing")
    again = only(claim_after(ledger, back))
    ledger.await_row(again, reason="The row is processing.", code="row-processing")
    assert [event.event for event in ledger.events(upload.id)] == ["discovered", "waiting"]
    with pytest.raises(ClaimLostError):
        ledger.await_row(claimed, reason="late", code="late")


def claim_after(ledger: Ledger, upload: Upload) -> list[Upload]:
    """Take an upload from the gate and claim what is due."""
    ledger.leave_gate(upload)
    return claim(ledger)


def test_who_leaves_the_pending_state_leaves_the_gate(ledger: Ledger) -> None:
    rejected = ledger.advance(waiting(ledger), State.REJECTED, error="no", error_code="encode-failed")
    assert not rejected.awaits_row
    assert not ledger.reopen(rejected.id, reason="by hand").awaits_row
    superseded = waiting(ledger, "v/b")
    enqueue(ledger, "v/b")
    assert ledger.count_awaiting_row() == 0
    assert not only(ledger.uploads(ids=[superseded.id])).awaits_row


def test_those_that_wait_are_counted_by_age(ledger: Ledger, clock: Clock) -> None:
    began = clock.now
    first = waiting(ledger, "v/a")
    clock.advance(hours=1)
    second = waiting(ledger, "v/b")
    assert ledger.count_awaiting_row() == 2
    assert ledger.count_awaiting_row(longer_than=timedelta(minutes=30)) == 1
    assert ledger.awaiting_row_since() == began
    ledger.admit(first, by(clock))
    ledger.admit(second, by(clock))
    assert (ledger.count_awaiting_row(), ledger.awaiting_row_since()) == (0, None)


def test_the_same_content_can_stand_for_a_newer_row_but_not_for_an_older_one(
    ledger: Ledger, clock: Clock
) -> None:
    upload = ledger.admit(waiting(ledger), by(clock))
    later = row(clock)
    ledger.note_newer_row(upload, later)
    assert only(ledger.uploads(ids=[upload.id])).catalog_row_id == ROW_ID
    clock.advance(seconds=1)
    ledger.note_newer_row(upload, row(clock))
    vouched = only(ledger.uploads(ids=[upload.id]))
    assert (vouched.catalog_row_id, vouched.catalog_row_at) == (LATER_ID, clock.now)
    ledger.note_newer_row(vouched, later)
    assert only(ledger.uploads(ids=[upload.id])) == vouched


def test_an_object_that_was_deleted_on_purpose_is_a_proof_no_more_unless_it_is_a_receipt(
    ledger: Ledger,
) -> None:
    gone = advance_to(ledger, advance_to(ledger, enqueue(ledger, "v/a"), State.VERIFIED), State.GONE)
    ledger.mark_object_deleted(gone, "deleted videos/a")
    assert only(ledger.uploads(ids=[gone.id])).verified_at is None
    released = advance_to(ledger, enqueue(ledger, "v/b"), State.RELEASED)
    ledger.mark_object_deleted(released, "deleted videos/b")
    assert only(ledger.uploads(ids=[released.id])) == released
    assert ledger.events(released.id)[-1].event == "object-deleted"
