"""What operators ask of the daemons is kept in the ledger, and decides what is claimed."""

from __future__ import annotations

import threading
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


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED, State.GONE])
def test_the_next_quality_is_the_first_once_the_smallest_has_stopped(ledger: Ledger, state: State) -> None:
    """A large one as well as a small one; and the smallest is the first again when it is back."""
    for number in (1, 2):
        add(ledger, number, "144p")
    large = add(ledger, 2, "2160p", size=SMALL_BYTES + 1)
    add(ledger, 3, "144p")
    for quality in ("original", "720p", "1080p"):
        add(ledger, 1, quality)
    for number in (1, 2):
        advance_to(ledger, only(ledger.uploads(path=f"{video(number)}/144p.mp4")), state)
    assert only(ledger.uploads(ids=[large.id])).turn == Turn.FIRST
    stopped = only(ledger.uploads(path=f"{video(1)}/144p.mp4"))
    assert claimed(ledger, 2) == ["3/144p", "1/720p"]
    ledger.reopen(stopped.id, reason="for a test")
    assert only(ledger.uploads(ids=[stopped.id])).turn == Turn.FIRST_SMALL
    assert claimed(ledger, 2) == ["1/144p", "2/2160p"]


def test_nothing_is_the_first_of_a_video_of_which_something_is_uploaded(ledger: Ledger) -> None:
    """Also when that has become a receipt; what an operator has prioritized stays so."""
    for number in (1, 2):
        advance_to(ledger, add(ledger, number, "360p"), State.RELEASED)
    ledger.receipts.fold(1)
    for number in (1, 2, 3):
        smallest, next_one = add(ledger, number, "144p"), add(ledger, number, "720p")
        Steering(ledger).prioritize([next_one] if number == 3 else [])
        advance_to(ledger, smallest, State.FAILED)
        turn = only(ledger.uploads(ids=[next_one.id])).turn
        assert turn == (Turn.BY_HAND if number == 3 else Turn.LATER)


def test_what_is_held_or_forgotten_leaves_its_turn_to_the_next(ledger: Ledger) -> None:
    steering = Steering(ledger)
    smallest = add(ledger, 1, "144p")
    others = [add(ledger, 1, quality) for quality in ("1080p", "720p", "360p")]

    def turns() -> list[int]:
        return [only(ledger.uploads(ids=[one.id])).turn for one in others]

    steering.hold(smallest.path)
    assert turns() == [Turn.LATER, Turn.LATER, Turn.FIRST_SMALL]
    steering.forget(others[2].path)
    del others[2]
    assert turns() == [Turn.LATER, Turn.FIRST_SMALL]
    steering.unhold(smallest.path)
    assert turns() == [Turn.LATER, Turn.LATER]
    assert only(ledger.uploads(ids=[smallest.id])).turn == Turn.FIRST_SMALL


def test_a_hold_that_ends_while_a_claim_is_looked_at_delays_nothing(address: DatabaseAddress) -> None:
    """Whichever of the two is first: the stage has seen the hold, and an operator ends it at that moment."""
    with closing(address.open()) as database, closing(address.open()) as elsewhere:
        migrate(database)
        ledger = Ledger(database, "main")
        steering, operator = Steering(ledger), Steering(Ledger(elsewhere, "main"))
        for number in (1, 2):
            add(ledger, number, "144p")
        first, second = claim(ledger, limit=2)
        for upload in (first, second):
            operator.hold(upload.path)
        assert steering.is_held(first.path)
        operator.unhold(first.path)
        assert not steering.defer_if_held(first)
        ledger.require_claim(first)

        ended = threading.Event()

        def end_hold() -> None:
            operator.unhold(second.path)
            ended.set()

        ending = threading.Thread(target=end_hold)
        with database.transaction("decide about a claim"):
            assert steering.defer_if_held(second)
            ending.start()
            # It waits for this transaction; on SQLite for its lock.
            assert not ended.wait(0.2)
        ending.join()
        (freed,) = claim(ledger)
        assert (freed.id, freed.error_code) == (second.id, None)


def test_a_hold_that_comes_with_a_claim_leaves_that_attempt(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = add(ledger, 1, "144p")
    monkeypatch.setattr(ledger, "is_claimed", lambda _: bool(claim(ledger)) and False)
    found = Steering(ledger).hold(upload.path)
    assert found is not None
    assert (found.claimed_by, found.error_code) == ("main", None)
    assert Steering(ledger).is_held(upload.path)


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
