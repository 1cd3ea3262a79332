"""The README's table of faults has a row for each that there is, and each did no harm."""

from pathlib import Path

from tests.faults.catalogue import FAULTS
from tests.faults.outcomes import found_in

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_tells_what_came_of_every_fault() -> None:
    assert [row.fault for row in found_in(README.read_text())] == list(FAULTS)


def test_nothing_came_of_any_fault() -> None:
    assert [row for row in found_in(README.read_text()) if not row.is_good] == []
