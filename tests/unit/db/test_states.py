"""The transitions between states are those of the design."""

import pytest

from db import TRANSITIONS, State

DRAWN = {
    "pending": {"verified", "rejected", "failed", "gone", "superseded"},
    "verified": {"published", "pending", "gone", "superseded"},
    "published": {"released", "pending", "superseded"},
    "released": set(),
    "rejected": {"pending", "superseded"},
    "failed": {"pending", "superseded"},
    "gone": {"pending", "superseded"},
    "superseded": set(),
}


def test_the_transitions_are_those_of_the_design() -> None:
    assert {state: set(following) for state, following in TRANSITIONS.items()} == DRAWN


@pytest.mark.parametrize("late", [State.PUBLISHED, State.RELEASED])
def test_only_the_state_before_leads_to_a_late_one(late: State) -> None:
    before = {State.PUBLISHED: State.VERIFIED, State.RELEASED: State.PUBLISHED}[late]
    assert [state for state in State if late in TRANSITIONS[state]] == [before]


def test_the_map_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.PENDING] = frozenset()  # type: ignore[index]  # that is the point


def test_every_state_is_open_or_stopped_or_ended() -> None:
    assert [state for state in State if state.is_open] == ["pending", "verified", "published"]
    assert [state for state in State if state.is_stopped] == ["rejected", "failed", "gone"]
    assert [state for state in State if not state.is_live] == ["released", "superseded"]
