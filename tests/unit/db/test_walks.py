"""After any sequence of changes a row is in a legal state, has its proof and has its events."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import (
    TRANSITIONS,
    ClaimLostError,
    DatabaseError,
    ErrorKind,
    IllegalTransitionError,
    Ledger,
    State,
    Upload,
)
from tests.support.databases import STATE_FACTS, Clock, claim, enqueue

pytestmark = pytest.mark.long

PATHS = count()
WORDS = {state.value for state in State}
PROVEN = {State.VERIFIED, State.PUBLISHED, State.RELEASED}

Push = Callable[[Ledger, Upload], object]


def advance(to: State) -> Push:
    return lambda ledger, upload: ledger.advance(upload, to, **STATE_FACTS.get(to, {}))


def advance_without_proof(to: State) -> Push:
    return lambda ledger, upload: ledger.advance(upload, to)


PUSHES: tuple[Push, ...] = (
    *map(advance, State),
    *map(advance, State),
    *map(advance_without_proof, State),
    lambda ledger, upload: claim(ledger, upload.state),
    lambda ledger, upload: ledger.postpone(upload, delay=timedelta(minutes=1), error="no", error_code="no"),
    lambda ledger, upload: ledger.reopen(upload.id, reason="by hand"),
    lambda ledger, _: ledger.release_all_claims(),
    lambda ledger, upload: ledger.make_due([upload.id]),
    lambda ledger, upload: enqueue(ledger, upload.path),
)


def push(ledger: Ledger, upload: Upload, how: Push) -> None:
    """Apply a change; one that is refused changes nothing, which `check` verifies."""
    try:
        how(ledger, upload)
    except IllegalTransitionError:
        pass
    except DatabaseError as refused:
        if refused.kind is not ErrorKind.OBJECT:
            raise


def check(ledger: Ledger, upload: Upload) -> None:
    """The invariants of every row."""
    if upload.state in PROVEN:
        assert None not in {upload.verified_at, upload.checksum}
    if upload.state in PROVEN - {State.VERIFIED}:
        assert None not in {upload.published_at, upload.url}
    assert (upload.state is State.RELEASED) == (upload.released_at is not None)
    assert (upload.claimed_by is None) == (upload.claimed_until is None)
    events = [event.event for event in ledger.events(upload.id)]
    assert events[0] == "discovered"
    states = [State.PENDING, *(State(event) for event in events if event in WORDS)]
    assert states[-1] is upload.state
    for before, after in pairwise(states):
        assert after in TRANSITIONS[before]


def check_that_late_writers_are_fenced(ledger: Ledger, upload: Upload, earlier: list[Upload]) -> None:
    for late in earlier:
        if (late.state, late.claim) != (upload.state, upload.claim):
            for to in TRANSITIONS[late.state]:
                with pytest.raises(ClaimLostError):
                    advance(to)(ledger, late)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walk=st.lists(st.sampled_from(PUSHES), min_size=1, max_size=12))
def test_a_random_walk_never_leaves_the_map(ledger: Ledger, clock: Clock, walk: list[Push]) -> None:
    upload = enqueue(ledger, f"{next(PATHS)}.mp4")
    earlier: list[Upload] = []
    with ledger.database.session():
        for how in walk:
            earlier.append(upload)
            push(ledger, upload, how)
            clock.advance(seconds=40)
            (upload,) = ledger.uploads(ids=[upload.id])
            check(ledger, upload)
        check_that_late_writers_are_fenced(ledger, upload, earlier)
        assert ledger.uploads(ids=[upload.id]) == [upload]
