"""How the name of an upload is cut to the width of a terminal."""

import pytest

from watcher.telemetry.progress_bars import BESIDE_NAME, elided

PATH = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11/holiday_in_the_mountains_1080p.mp4"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, PATH),
        (40, "…/holiday_in_the_mountains_1080p.mp4"),
        (80 - BESIDE_NAME, "holiday_i…ntains_1080p.mp4"),
    ],
)
def test_the_directory_goes_first_then_the_middle_and_the_quality_stays(width: int, expected: str) -> None:
    shown = elided(PATH, width)
    assert len(shown) <= width
    assert shown.endswith("_1080p.mp4")
    assert shown == expected
