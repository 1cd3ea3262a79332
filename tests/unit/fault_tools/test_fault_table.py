"""The documented table of faults has a row for each that there is, and each did no harm."""

from pathlib import Path

from tests.faults.catalogue import FAULTS
from tests.faults.outcomes import found_in

DOCUMENT = Path(__file__).parents[3] / "docs/reliability.md"


def test_the_document_tells_of_every_fault_that_it_did_no_harm() -> None:
    rows = found_in(DOCUMENT.read_text())
    assert [row.fault for row in rows] == list(FAULTS)
    assert [row for row in rows if not row.is_good] == []
