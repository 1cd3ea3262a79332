import pytest

from storage.transfer.buffer_pool import BufferPool, Slot
from storage.transfer.part_layout import MIB, SMALLEST_PART


@pytest.fixture
def granted() -> list[Slot]:
    return []


def finish(slot: Slot) -> None:
    slot.give_back_memory()
    slot.give_back()


def test_no_more_bodies_are_under_way_than_allowed_and_who_asks_first_is_served_first(
    granted: list[Slot],
) -> None:
    slots = BufferPool(2, 100 * MIB)
    for length in (1, 2, 3, 4):
        slots.ask(length, granted.append)
    assert [slot.length for slot in granted] == [1, 2]
    finish(granted[1])
    finish(granted[0])
    assert [slot.length for slot in granted] == [1, 2, 3, 4]


def test_the_bytes_under_way_stay_within_the_budget(granted: list[Slot]) -> None:
    slots = BufferPool(10, 20)
    for length in (8, 8, 8):
        slots.ask(length, granted.append)
    assert len(granted) == 2
    finish(granted[0])
    assert len(granted) == 3


def test_a_body_larger_than_the_budget_goes_alone(granted: list[Slot]) -> None:
    slots = BufferPool(10, 20)
    for length in (1, 100, 1):
        slots.ask(length, granted.append)
    assert [slot.length for slot in granted] == [1]
    finish(granted[0])
    assert [slot.length for slot in granted] == [1, 100]
    finish(granted[1])
    assert len(granted) == 3


def test_memory_that_was_read_serves_the_next_body_while_the_first_is_under_way(
    granted: list[Slot],
) -> None:
    slots = BufferPool(8, 8 * SMALLEST_PART)
    for _ in range(8):
        slots.ask(SMALLEST_PART, granted.append)
    assert len(granted) == 3
    granted[0].buffer[:3] = b"abc"
    granted[0].give_back_memory()
    granted[0].give_back_memory()
    assert len(granted) == 4
    assert bytes(granted[3].buffer[:3]) == b"abc"


def test_memory_that_was_not_given_back_is_never_used_again(granted: list[Slot]) -> None:
    slots = BufferPool(1, SMALLEST_PART)
    slots.ask(SMALLEST_PART, granted.append)
    granted[0].buffer[:3] = b"abc"
    granted[0].give_back()
    slots.ask(SMALLEST_PART, granted.append)
    assert bytes(granted[1].buffer[:3]) == bytes(3)
    granted[0].give_back_memory()
    finish(granted[1])
    slots.ask(SMALLEST_PART, granted.append)
    assert granted[2].buffer.obj is granted[1].buffer.obj


def test_who_has_left_the_queue_is_not_served_and_does_not_hold_up_others(granted: list[Slot]) -> None:
    slots = BufferPool(2, 20)
    slots.ask(15, granted.append)
    reservation = slots.ask(10, granted.append)
    slots.ask(5, granted.append)
    assert len(granted) == 1
    slots.withdraw(reservation)
    assert [slot.length for slot in granted] == [15, 5]
    slots.withdraw(reservation)


def test_a_request_to_slow_down_halves_the_number_once_for_all_that_were_under_way_together() -> None:
    slots = BufferPool(6, 100)
    generation = slots.generation
    assert slots.slow_down(generation)
    assert not slots.slow_down(generation)
    assert slots.limit == 3
    assert slots.slow_down(slots.generation)
    assert slots.limit == 1
    assert not slots.slow_down(slots.generation)
    assert slots.limit == 1


def test_as_many_successes_as_are_allowed_at_once_allow_one_more(granted: list[Slot]) -> None:
    slots = BufferPool(3, 100)
    slots.slow_down(slots.generation)
    limits = []
    for _ in range(5):
        slots.succeeded()
        limits.append(slots.limit)
    assert limits == [2, 2, 3, 3, 3]


def test_a_lower_limit_holds_for_what_is_asked_from_now_on(granted: list[Slot]) -> None:
    slots = BufferPool(2, 100)
    slots.ask(1, granted.append)
    slots.ask(1, granted.append)
    slots.slow_down(slots.generation)
    slots.ask(1, granted.append)
    finish(granted[0])
    assert len(granted) == 2
    finish(granted[1])
    assert len(granted) == 3
