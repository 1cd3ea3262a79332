"""What operators ask of the daemons is kept in the ledger, and decides what is claimed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from db import (
    HELD,
    SMALL_BYTES,
    ClaimLostError,
    Database,
    Ledger,
    State,
    Steering,
    Turn,
    Upload,
    migrate,
)
from tests.support.databases import (
    HORIZON,
    IDENTITY,
    LEASE,
    Clock,
    DatabaseAddress,
    advance_to,
    claim,
    enqueue,
    only,
)

PATIENCE = timedelta(minutes=15)


def video(number: int) -> str:
    return f"0b8e3f60-9d5c-4c1a-8f8e-{number:012}"


def add(ledger: Ledger, number: int, quality: str, *, size: int = 1_000) -> Upload:
    """A rendition of a video, each with other content."""
    return enqueue(
        ledger,
        f"{video(number)}/{quality}.mp4",
        video_id=video(number),
        quality=quality,
        identity=replace(IDENTITY, inode=number * 100 + len(quality) * 7 + size % 97, size=size),
    )


def claimed(ledger: Ledger, limit: int, *, playable: bool = True, small_only: bool = False) -> list[str]:
    """The paths that a claim of the upload stage takes, without their directories' common beginning."""
    uploads = ledger.claim(
        State.PENDING,
        limit,
        lease=timedelta(hours=1),
        horizon=HORIZON,
        playable_for=PATIENCE if playable else None,
        small_only=small_only,
    )
    return [upload.path[35:].removesuffix(".mp4") for upload in uploads]


@pytest.fixture
def clocked(database: Database) -> tuple[Ledger, Clock]:
    clock = Clock()
    return Ledger(database, "main", clock=clock), clock


def test_the_smallest_quality_of_each_video_goes_first(ledger: Ledger) -> None:
    """Whatever the order in which they are found; `original` is the largest."""
    for number in (1, 2):
        for quality in ("original", "1080p", "360p", "720p"):
            add(ledger, number, quality)
    assert claimed(ledger, 2) == ["1/360p", "2/360p"]
    assert claimed(ledger, 2) == ["1/original", "1/1080p"]


def test_a_small_first_rendition_precedes_a_large_one(ledger: Ledger) -> None:
    add(ledger, 3, "original")
    add(ledger, 1, "360p", size=SMALL_BYTES + 1)
    add(ledger, 1, "720p")
    add(ledger, 2, "1080p")
    assert claimed(ledger, 2) == ["3/original", "2/1080p"]
    assert claimed(ledger, 1) == ["1/360p"]


def test_a_video_of_which_something_is_uploaded_waits_behind_others(ledger: Ledger) -> None:
    """Also when what was uploaded has become a receipt."""
    first = add(ledger, 1, "360p")
    advance_to(ledger, first, State.RELEASED)
    advance_to(ledger, add(ledger, 9, "360p"), State.REJECTED)
    ledger.receipts.fold(10)
    later = add(ledger, 1, "144p")
    add(ledger, 9, "720p")
    assert later.turn == Turn.LATER
    assert claimed(ledger, 1) == ["9/720p"]


def test_what_has_waited_long_has_half_of_the_places(clocked: tuple[Ledger, Clock]) -> None:
    """In the order of `oldest`, however many videos are new; a claim of one takes turns."""
    ledger, clock = clocked
    add(ledger, 1, "360p")
    for quality in ("720p", "1080p", "1440p", "2160p"):
        add(ledger, 1, quality)
    assert claimed(ledger, 1) == ["1/360p"]
    clock.advance(minutes=16)
    for number in range(2, 8):
        add(ledger, number, "144p")
    assert sorted(claimed(ledger, 1) + claimed(ledger, 1)) == ["1/720p", "2/144p"]
    assert sorted(claimed(ledger, 4)) == ["1/1080p", "1/1440p", "3/144p", "4/144p"]


def test_the_oldest_go_first_where_that_is_asked_for(ledger: Ledger) -> None:
    for quality in ("1080p", "720p", "360p"):
        add(ledger, 1, quality)
    assert claimed(ledger, 2, playable=False) == ["1/1080p", "1/720p"]


def test_what_is_due_later_and_what_is_large_is_left_out_of_a_claim(ledger: Ledger) -> None:
    large = add(ledger, 1, "144p", size=SMALL_BYTES + 1)
    failing = add(ledger, 2, "144p")
    for number in (3, 4, 5):
        add(ledger, number, "144p")
    ledger.postpone(failing, delay=timedelta(minutes=5), error="It failed.", error_code="x")
    Steering(ledger).prioritize([large])
    assert claimed(ledger, 2, small_only=True) == ["3/144p", "4/144p"]
    assert claimed(ledger, 9) == ["1/144p", "5/144p"]


@pytest.mark.parametrize("playable", [True, False])
def test_what_is_prioritized_precedes_everything_else(ledger: Ledger, playable: bool) -> None:
    """Even what waited after an error; uploads of other instances, too. What is claimed stays as it is."""
    steering = Steering(ledger)
    for number in (1, 2, 3):
        add(ledger, number, "144p")
    wanted = add(ledger, 1, "2160p")
    wanted = ledger.postpone(wanted, delay=timedelta(minutes=5), error="It failed.", error_code="x")
    elsewhere = add(Ledger(ledger.database, "other"), 1, "original")
    (working,) = claim(ledger, limit=1)
    before = steering.orders().woken_at
    changed = steering.prioritize([working, wanted, elsewhere])
    assert [upload.id for upload in changed] == [wanted.id, elsewhere.id]
    assert steering.orders().woken_at != before
    assert claimed(ledger, 1, playable=playable) == ["1/2160p"]
    assert ledger.events(wanted.id)[-1].event == "prioritized"


def test_an_upload_loses_its_turn_once_it_is_uploaded(ledger: Ledger) -> None:
    """Or its copy would be released without regard to the retention."""
    steering = Steering(ledger)
    upload = add(ledger, 1, "144p")
    steering.prioritize([upload])
    verified = advance_to(ledger, only(ledger.uploads(ids=[upload.id])), State.PUBLISHED)
    assert verified.turn == Turn.LATER


def test_a_release_by_hand_ends_the_retention_and_outlasts_a_restart(ledger: Ledger) -> None:
    upload = advance_to(ledger, add(ledger, 1, "144p"), State.PUBLISHED)
    kept = advance_to(ledger, add(ledger, 2, "144p"), State.PUBLISHED)
    ledger.reschedule_published(timedelta(hours=5))
    assert Steering(ledger).release_now([upload, add(ledger, 3, "144p")]) == [upload]
    assert ledger.reschedule_published(timedelta(hours=5)) == 1
    (due,) = ledger.claim(State.PUBLISHED, 10, lease=LEASE, horizon=timedelta(hours=9))
    assert (due.id, due.turn) == (upload.id, Turn.BY_HAND)
    assert only(ledger.uploads(ids=[kept.id])).turn == Turn.LATER


def test_a_pause_is_seen_by_every_daemon(address: DatabaseAddress) -> None:
    with closing(address.open()) as database, closing(address.open()) as elsewhere:
        migrate(database)
        steering, other = Steering(Ledger(database, "main")), Steering(Ledger(elsewhere, "other"))
        assert other.orders().pause is None
        assert steering.pause("the line is needed") is None
        seen = other.orders().pause
        assert seen is not None
        assert seen.reason == "the line is needed"
        assert steering.pause("again") == seen
        assert other.resume() is not None
        assert steering.orders().pause is None
        assert steering.resume() is None


def test_a_hold_is_of_a_path_and_says_so_on_its_upload(ledger: Ledger) -> None:
    steering = Steering(ledger)
    upload = add(ledger, 1, "144p")
    assert not steering.is_held(upload.path)
    assert steering.hold("v/not_there_yet_720p.mp4") is None
    held = steering.hold(upload.path)
    assert held is not None
    assert held.error_code == HELD
    assert steering.hold(upload.path) is not None
    assert list(steering.held_paths()) == [upload.path, "v/not_there_yet_720p.mp4"]
    assert steering.is_held(upload.path)
    assert Steering(Ledger(ledger.database, "other")).held_paths() == {}
    assert claim(ledger) == []
    assert steering.unhold(upload.path)
    assert not steering.unhold(upload.path)
    (freed,) = claim(ledger)
    assert (freed.id, freed.error_code) == (upload.id, None)


def test_a_hold_leaves_an_upload_that_is_under_way(ledger: Ledger) -> None:
    upload = add(ledger, 1, "144p")
    (working,) = claim(ledger)
    Steering(ledger).hold(upload.path)
    assert ledger.advance(working, State.REJECTED).state is State.REJECTED


def test_what_is_left_is_counted_by_what_becomes_of_it(ledger: Ledger) -> None:
    steering = Steering(ledger)
    for number in (1, 2):
        add(ledger, number, "144p")
    steering.hold(add(ledger, 3, "144p").path)
    enqueue(ledger, "v/gate_720p.mp4", awaits_row=True)
    advance_to(ledger, add(ledger, 4, "144p"), State.VERIFIED)
    advance_to(ledger, add(ledger, 5, "144p"), State.FAILED)
    advance_to(ledger, add(ledger, 6, "144p"), State.PUBLISHED)
    left = steering.left()
    assert left == (2, 1, 1, 1, 1)
    assert left.moving == 3


def test_a_forgotten_file_leaves_nothing(ledger: Ledger) -> None:
    """Its newest upload, an earlier one that is a receipt, and their events; the counts agree."""
    steering = Steering(ledger)
    other = add(ledger, 2, "144p")
    path = add(ledger, 1, "144p").path
    advance_to(ledger, only(ledger.uploads(path=path)), State.RELEASED)
    add(ledger, 3, "144p")
    ledger.receipts.fold(10)
    enqueue(ledger, path)
    old, new = ledger.uploads(path=path)
    assert steering.forget(path) == 2
    assert ledger.uploads(path=path) == []
    assert ledger.current(path) is None
    assert ledger.events(old.id) + ledger.events(new.id) == []
    assert {state for state, number in ledger.counts().items() if number} == {State.PENDING}
    assert ledger.counts()[State.PENDING] == 2
    assert ledger.current(other.path) == other


def test_what_is_claimed_is_not_forgotten(ledger: Ledger) -> None:
    upload = add(ledger, 1, "144p")
    (working,) = claim(ledger)
    with pytest.raises(ClaimLostError):
        Steering(ledger).forget(upload.path)
    ledger.require_claim(working)


def test_no_number_of_a_receipt_is_given_again_after_the_newest_row_is_forgotten(ledger: Ledger) -> None:
    """SQLite numbers new rows from the newest of the table; a receipt of another instance counts, too."""
    other = Ledger(ledger.database, "other")
    receipt = advance_to(other, add(other, 1, "144p"), State.RELEASED)
    newest = add(ledger, 2, "144p")
    other.receipts.fold(10)
    Steering(ledger).forget(newest.path)
    assert add(ledger, 3, "144p").id > receipt.id
    assert only(other.uploads()).path == receipt.path
    assert (other.counts()[State.RELEASED], ledger.counts()[State.PENDING]) == (1, 1)
