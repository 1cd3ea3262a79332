"""The table of faults: what is added up, what is written, what is read back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.outcomes import BEGIN, END, Outcome, Outcomes, as_table, found_in, put_into

CUT = Outcome("connection cut", 3, 5, seconds=1.25, stops="S3 (all of it)")
FLOOD = Outcome("flood", 20_000, 20_000, seconds=60.0)
ODD = Outcome("odd row", 1, 2, waited=0.5)


def test_a_fault_that_is_injected_again_is_one_row_with_the_sums_and_the_longest_time() -> None:
    outcomes = Outcomes()
    outcomes.add_properties([CUT.as_property(), ("seconds", 3), FLOOD.as_property()])
    outcomes.add(Outcome("connection cut", 1, 2, lost=1, wrong=2, doubled=3, seconds=0.5))
    assert outcomes.in_order(["flood", "connection cut"]) == [
        FLOOD,
        Outcome("connection cut", 4, 7, 1, 2, 3, 1.25, stops="S3 (all of it)"),
    ]
    assert ODD.plus(Outcome("odd row", 1, 1, waited=0.7)).waited == 0.7
    assert ODD.plus(Outcome("odd row", 1, 1)).waited == 0.5
    assert outcomes.missing(["flood", "clock"]) == ["clock"]


def test_an_outcome_is_good_only_if_the_fault_came_and_did_no_harm() -> None:
    assert CUT.is_good
    bad = (
        Outcome("x", 0, 1),
        Outcome("x", 1, 0),
        Outcome("x", 1, 1, lost=1),
        Outcome("x", 1, 1, wrong=1),
        Outcome("x", 1, 1, doubled=1),
    )
    assert [outcome for outcome in bad if outcome.is_good] == []


def test_the_table_replaces_the_one_before_and_is_read_back_as_it_was_written() -> None:
    before = f"# Faults\n\n{BEGIN}\nsomething old\n{END}\n\nMore.\n"
    after = put_into(before, as_table([CUT, FLOOD, ODD]))
    assert after.startswith(f"# Faults\n\n{BEGIN}\n| fault |")
    assert after.endswith(f"|\n{END}\n\nMore.\n")
    assert found_in(after) == [replace(CUT, seconds=1.2), FLOOD, ODD]
    assert put_into(after, as_table([CUT, FLOOD, ODD])) == after


def test_a_text_without_a_place_for_the_table_or_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no lines"):
        put_into("# Faults\n", as_table([CUT]))
    with pytest.raises(ValueError, match="there is no table"):
        found_in(f"{BEGIN}\n{END}\n")
    with pytest.raises(ValueError, match="no row of the table: nonsense"):
        found_in("\n".join([BEGIN, *as_table([CUT]), "nonsense", END]))
