"""The outcome of each fault as a row of a table, and that table in docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

COLUMNS = (
    *("fault", "injected", "files at stake", "lost", "wrong", "uploaded twice"),
    *("seconds to recover", "others waited"),
)
HEADER = (f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}")
BEGIN, END = "<!-- make faults: begin -->", "<!-- make faults: end -->"


@dataclass(frozen=True)
class Outcome:
    """One fault's figures.

    `seconds` is from the fault's end, or from the last time that it was injected, until every file at stake
    was where it belongs; `waited` is from the close of another file, during the fault, until it was public.
    Of several runs both are the longest. Nobody waited (None) if nothing else was under way, or could be,
    because what `stops` names had stopped.
    """

    fault: str
    injected: int
    at_stake: int
    lost: int = 0
    wrong: int = 0
    doubled: int = 0
    seconds: float = 0.0
    waited: float | None = None
    stops: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the fault was injected, something was at stake, and no harm was done."""
        return min(self.injected, self.at_stake) > 0 and not (self.lost or self.wrong or self.doubled)

    def plus(self, other: Outcome) -> Outcome:
        """Both runs of the same fault as one."""
        return Outcome(
            self.fault,
            self.injected + other.injected,
            self.at_stake + other.at_stake,
            self.lost + other.lost,
            self.wrong + other.wrong,
            self.doubled + other.doubled,
            max(self.seconds, other.seconds),
            max((waited for waited in (self.waited, other.waited) if waited is not None), default=None),
            self.stops,
        )

    def as_property(self) -> tuple[str, dict[str, object]]:
        """What a test's report carries from the process it ran in."""
        return PROPERTY, asdict(self)


PROPERTY = "outcome"


class Outcomes:
    """The outcomes of one test run, a row a fault."""

    def __init__(self) -> None:
        self._by_fault: dict[str, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        """Count one more run of a fault."""
        before = self._by_fault.get(outcome.fault)
        self._by_fault[outcome.fault] = before.plus(outcome) if before else outcome

    def add_properties(self, properties: Iterable[tuple[str, object]]) -> None:
        """Count what a test's report carries."""
        for name, value in properties:
            if name == PROPERTY and isinstance(value, Mapping):
                self.add(Outcome(**value))

    def in_order(self, faults: Iterable[str]) -> list[Outcome]:
        """The outcomes in the order of the faults that are named; those of no other one."""
        return [self._by_fault[fault] for fault in faults if fault in self._by_fault]

    def missing(self, faults: Iterable[str]) -> list[str]:
        """The faults that were not injected."""
        return [fault for fault in faults if fault not in self._by_fault]


def as_table(outcomes: Iterable[Outcome]) -> list[str]:
    """The lines of the table, in Markdown."""
    rows = [
        f"| {row.fault} | {row.injected:,} | {row.at_stake:,} | {row.lost} | {row.wrong} | {row.doubled}"
        f" | {row.seconds:.1f} | {_waited(row)} |"
        for row in outcomes
    ]
    return [*HEADER, *rows]


def _waited(row: Outcome) -> str:
    if row.waited is not None:
        return f"{row.waited:.1f}"
    return f"— ({row.stops})" if row.stops else "—"


def put_into(text: str, table: list[str]) -> str:
    """A text with the table in the place that is marked for it; ValueError if there is none."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        message = f"there are no lines {BEGIN} and {END} to put the table between"
        raise ValueError(message)
    return "\n".join([f"{before}{BEGIN}", *table, f"{END}{after}"])


def found_in(text: str) -> list[Outcome]:
    """The outcomes in a text's table; ValueError if a row is not one."""
    _, _, rest = text.partition(f"{BEGIN}\n")
    lines = rest.partition(END)[0].splitlines()
    if tuple(lines[: len(HEADER)]) != HEADER:
        message = f"there is no table between {BEGIN} and {END}"
        raise ValueError(message)
    return [_read(line) for line in lines[len(HEADER) :]]


def _read(line: str) -> Outcome:
    row = re.fullmatch(
        r"\| (.+?) \| ([\d,]+) \| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+\.\d)"
        r" \| (?:(\d+\.\d)|—(?: \((.+)\))?) \|",
        line,
    )
    if row is None:
        message = f"no row of the table: {line}"
        raise ValueError(message)
    fault, *counts, seconds, waited, stops = row.groups()
    injected, at_stake, lost, wrong, doubled = (int(count.replace(",", "")) for count in counts)
    return Outcome(
        fault,
        injected,
        at_stake,
        lost,
        wrong,
        doubled,
        float(seconds),
        float(waited) if waited else None,
        stops or "",
    )
