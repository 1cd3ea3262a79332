"""Text for a terminal: escaped names, readable sizes and times."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.telemetry.formatting import (
    bounded,
    human_duration,
    human_size,
    human_time,
    printable,
    quoted,
)


@given(st.text(st.characters()))
def test_whatever_is_printed_has_no_control_character_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("été 日本 🎬.mp4", "été 日本 🎬.mp4"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("bad\udcffbyte", "bad\\udcffbyte"),
        ("turned\u202earound", "turned\\u202earound"),
    ],
)
def test_what_a_terminal_could_obey_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()), st.integers(3, 300))
def test_a_bounded_text_keeps_its_beginning_and_its_end(text: str, most: int) -> None:
    shown = bounded(text, most)
    assert len(shown) <= max(most, 0)
    assert shown == text or (text.startswith(shown.split("…")[0]) and "…" in shown)


@given(st.text(st.characters()))
def test_a_quoted_value_is_printable_and_short(text: str) -> None:
    assert quoted(text).isprintable()
    assert len(quoted(text)) <= 2 + 100 * len("\\U0010ffff")


@pytest.mark.parametrize(
    ("size", "formatted"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3 * 1024**5, "3072.0 TiB"),
    ],
)
def test_sizes_are_in_binary_units(size: int, formatted: str) -> None:
    assert human_size(size) == formatted


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (12_000, "3 h 20 min"),
        (90_061, "1 d 1 h"),
        (86_405, "1 d 5 s"),
    ],
)
def test_durations_are_in_their_two_largest_units(seconds: float, formatted: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == formatted


def test_times_are_in_utc_to_the_second_or_a_dash() -> None:
    assert human_time(datetime(2026, 1, 2, 3, 4, 5, 999, UTC)) == "2026-01-02 03:04:05Z"
    assert human_time(None) == "-"
