"""Queries by object key, which consider every upload of the key, also of other instances."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from db import Database, Ledger, State, Upload
from tests.support.databases import PUBLIC_URL, Clock, advance_to, enqueue

KEY = "videos/k"
OTHER_CHECKSUM = "AAAAAAAAAAE="
ROW_ID = "1b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"


def sent(ledger: Ledger, path: str, checksum: str, at: timedelta, clock: Clock, etag: str = "e") -> Upload:
    """A pending upload of the key with a checksum, admitted for a row created `at` from now."""
    facts: dict[str, Any] = {"catalog_row_id": ROW_ID, "catalog_row_at": clock.now + at}
    return ledger.record(enqueue(ledger, path, object_key=KEY), checksum=checksum, etag=etag, **facts)


def verify(ledger: Ledger, upload: Upload) -> Upload:
    return ledger.advance(
        upload, State.VERIFIED, checksum=upload.checksum, etag=upload.etag, confirmed_by="checksum"
    )


def test_a_proof_for_the_same_or_a_newer_row_stands_against_other_content(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    elsewhere = Ledger(database, "elsewhere", clock=clock)
    proven = verify(elsewhere, sent(elsewhere, "a", OTHER_CHECKSUM, timedelta(0), clock))
    same = sent(ledger, "b", "AAAAAAAAAAA=", timedelta(0), clock)
    older = sent(ledger, "c", "AAAAAAAAAAA=", timedelta(seconds=-1), clock)
    newer = sent(ledger, "d", "AAAAAAAAAAA=", timedelta(seconds=1), clock)
    assert ledger.other_content_for_row(same) == proven
    assert ledger.other_content_for_row(older) == proven
    assert ledger.other_content_for_row(newer) is None


def test_the_same_content_and_what_was_never_proven_stand_against_nothing(
    ledger: Ledger, clock: Clock
) -> None:
    verify(ledger, sent(ledger, "a", "AAAAAAAAAAA=", timedelta(0), clock))
    sent(ledger, "b", OTHER_CHECKSUM, timedelta(0), clock)
    assert ledger.other_content_for_row(sent(ledger, "c", "AAAAAAAAAAA=", timedelta(0), clock)) is None
    assert ledger.other_content_for_row(enqueue(ledger, "d", object_key=KEY)) is None


def test_a_proof_counts_even_after_its_object_was_lost(ledger: Ledger, clock: Clock) -> None:
    lost = ledger.advance(
        verify(ledger, sent(ledger, "a", OTHER_CHECKSUM, timedelta(0), clock)), State.PENDING
    )
    found = ledger.other_content_for_row(sent(ledger, "b", "AAAAAAAAAAA=", timedelta(0), clock))
    assert found is not None
    assert found.id == lost.id


def test_an_object_is_replaced_by_a_later_upload_and_not_by_an_earlier_one(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    elsewhere = Ledger(database, "elsewhere", clock=clock)
    before = verify(elsewhere, sent(elsewhere, "a", OTHER_CHECKSUM, timedelta(0), clock, "before"))
    ours = verify(ledger, sent(ledger, "b", "AAAAAAAAAAA=", timedelta(0), clock, "ours"))
    after = verify(elsewhere, sent(elsewhere, "c", OTHER_CHECKSUM, timedelta(0), clock, "after"))
    assert ledger.replaced_by(ours, "after") == after
    assert ledger.replaced_by(ours, "before") is None
    assert ledger.replaced_by(ours, "nobody's") is None
    assert ledger.replaced_by(before, "ours") == ours


def test_every_address_that_a_path_was_ever_published_under_is_remembered(ledger: Ledger) -> None:
    advance_to(ledger, enqueue(ledger, "a"), State.PUBLISHED)
    second = advance_to(ledger, enqueue(ledger, "a"), State.VERIFIED)
    ledger.advance(second, State.PUBLISHED, url="https://new.example/a")
    advance_to(ledger, enqueue(ledger, "b"), State.VERIFIED)
    assert ledger.urls_of_path("a") == {PUBLIC_URL, "https://new.example/a"}
    assert ledger.urls_of_path("b") == set()
