"""Slots for bodies in flight: their order, their limits and the reuse of their memory."""

import pytest

from storage.transfer.buffer_pool import BufferPool, Slot
from storage.transfer.part_layout import MIB, MIN_PART_SIZE


@pytest.fixture
def granted() -> list[Slot]:
    return []


def finish(slot: Slot) -> None:
    slot.release_memory()
    slot.release()


def test_no_more_bodies_are_under_way_than_allowed_and_who_asks_first_is_served_first(
    granted: list[Slot],
) -> None:
    pool = BufferPool(2, 100 * MIB)
    for length in (1, 2, 3, 4):
        pool.reserve(length, granted.append)
    assert [slot.length for slot in granted] == [1, 2]
    finish(granted[1])
    finish(granted[0])
    assert [slot.length for slot in granted] == [1, 2, 3, 4]


def test_the_bytes_under_way_stay_within_the_budget(granted: list[Slot]) -> None:
    pool = BufferPool(10, 20)
    for length in (8, 8, 8):
        pool.reserve(length, granted.append)
    assert len(granted) == 2
    finish(granted[0])
    assert len(granted) == 3


def test_a_body_larger_than_the_budget_goes_alone(granted: list[Slot]) -> None:
    pool = BufferPool(10, 20)
    for length in (1, 100, 1):
        pool.reserve(length, granted.append)
    assert [slot.length for slot in granted] == [1]
    finish(granted[0])
    assert [slot.length for slot in granted] == [1, 100]
    finish(granted[1])
    assert len(granted) == 3


def test_memory_that_was_read_serves_the_next_body_while_the_first_is_under_way(
    granted: list[Slot],
) -> None:
    pool = BufferPool(8, 8 * MIN_PART_SIZE)
    for _ in range(8):
        pool.reserve(MIN_PART_SIZE, granted.append)
    assert len(granted) == 1
    granted[0].buffer[:3] = b"abc"
    granted[0].release_memory()
    granted[0].release_memory()
    assert len(granted) == 2
    assert bytes(granted[1].buffer[:3]) == b"abc"


def test_memory_that_was_not_given_back_is_never_used_again(granted: list[Slot]) -> None:
    pool = BufferPool(1, MIN_PART_SIZE)
    pool.reserve(MIN_PART_SIZE, granted.append)
    granted[0].buffer[:3] = b"abc"
    granted[0].release()
    pool.reserve(MIN_PART_SIZE, granted.append)
    assert bytes(granted[1].buffer[:3]) == bytes(3)
    granted[0].release_memory()
    finish(granted[1])
    pool.reserve(MIN_PART_SIZE, granted.append)
    assert granted[2].buffer.obj is granted[1].buffer.obj


def test_who_has_left_the_queue_is_not_served_and_does_not_hold_up_others(granted: list[Slot]) -> None:
    pool = BufferPool(2, 20)
    pool.reserve(15, granted.append)
    reservation = pool.reserve(10, granted.append)
    pool.reserve(5, granted.append)
    assert len(granted) == 1
    pool.cancel(reservation)
    assert [slot.length for slot in granted] == [15, 5]
    pool.cancel(reservation)


def test_a_request_to_slow_down_halves_the_number_once_for_all_that_were_under_way_together() -> None:
    pool = BufferPool(6, 100)
    generation = pool.generation
    assert pool.slow_down(generation)
    assert not pool.slow_down(generation)
    assert pool.limit == 3
    assert pool.slow_down(pool.generation)
    assert pool.limit == 1
    assert not pool.slow_down(pool.generation)
    assert pool.limit == 1


def test_a_request_to_slow_down_halves_what_was_under_way_even_if_more_would_be_allowed(
    granted: list[Slot],
) -> None:
    pool = BufferPool(36, 100)
    for _ in range(4):
        pool.reserve(8, granted.append)
    assert pool.slow_down(pool.generation)
    assert pool.limit == 2


def test_as_many_successes_as_are_allowed_at_once_allow_one_more(granted: list[Slot]) -> None:
    pool = BufferPool(3, 100)
    pool.slow_down(pool.generation)
    limits = []
    for _ in range(5):
        pool.note_success()
        limits.append(pool.limit)
    assert limits == [2, 2, 3, 3, 3]


def test_a_lower_limit_holds_for_what_is_asked_from_now_on(granted: list[Slot]) -> None:
    pool = BufferPool(2, 100)
    pool.reserve(1, granted.append)
    pool.reserve(1, granted.append)
    pool.slow_down(pool.generation)
    pool.reserve(1, granted.append)
    finish(granted[0])
    assert len(granted) == 2
    finish(granted[1])
    assert len(granted) == 3


def test_the_bytes_that_a_slow_line_takes_in_time_limit_what_is_under_way_to_one_body_at_least(
    granted: list[Slot],
) -> None:
    pool = BufferPool(5, 100)
    pool.set_budget(15)
    for length in (8, 8, 20, 8):
        pool.reserve(length, granted.append)
    assert [slot.length for slot in granted] == [8]
    finish(granted[0])
    assert [slot.length for slot in granted] == [8, 8]
    finish(granted[1])
    assert [slot.length for slot in granted] == [8, 8, 20]
    pool.set_budget(30)
    assert [slot.length for slot in granted] == [8, 8, 20, 8]


def test_on_a_line_that_turns_out_slow_all_but_the_first_bodies_are_in_excess(granted: list[Slot]) -> None:
    pool = BufferPool(5, 100)
    for _ in range(4):
        pool.reserve(8, granted.append)
    excess = []
    for budget in (100, 17, 1):
        pool.set_budget(budget)
        excess.append([slot.is_excess for slot in granted])
    assert excess == [4 * [False], [False, False, True, True], [False, True, True, True]]
    finish(granted[0])
    assert [slot.is_excess for slot in granted[1:]] == [False, True, True]
    assert not granted[0].is_excess


def test_who_waits_for_a_slot_may_give_up_and_takes_none_from_the_others() -> None:
    pool = BufferPool(1, 20)
    looks: list[int] = []

    def give_up() -> None:
        looks.append(1)
        raise InterruptedError

    with pool.slot(8, give_up):
        with pytest.raises(InterruptedError), pool.slot(8, give_up):
            pytest.fail("there was no room for a second one")
        assert looks == [1]
    with pool.slot(8, give_up) as slot:
        assert slot.length == 8
    assert looks == [1]


def test_a_slot_that_is_granted_as_the_wait_ends_is_given_back() -> None:
    pool = BufferPool(1, 20)
    first: list[Slot] = []
    pool.reserve(8, first.append)

    def give_up() -> None:
        finish(first[0])
        raise InterruptedError

    with pytest.raises(InterruptedError), pool.slot(8, give_up):
        pytest.fail("the wait had ended")
    with pool.slot(8, give_up):
        pass


def test_a_small_body_takes_no_memory_of_the_size_of_a_part(granted: list[Slot]) -> None:
    """Tens of them are in flight, and their memory is kept for the next ones."""
    pool = BufferPool(8, 8 * MIN_PART_SIZE)
    for _ in range(2):
        for _ in range(8):
            pool.reserve(MIB, granted.append)
        assert {len(bytearray(slot.buffer.obj)) for slot in granted} == {MIB}
        memory = {id(slot.buffer.obj) for slot in granted}
        for slot in granted:
            finish(slot)
        granted.clear()
    pool.reserve(MIB, granted.append)
    assert id(granted[0].buffer.obj) in memory
