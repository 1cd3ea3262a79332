"""What a claim costs in a ledger of a million uploads: ``python -m benchmarks.claiming [--rows N]``.

Exits 0 only if claiming a batch took less than `MOST_MS` on SQLite and on PostgreSQL, and every question was
answered by the index that was made for it; 1 if not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from db import Database, Ledger, State, Upload, open_database, sqlite_url
from tests.support.bulk_ledger import BACKOFF, INSTANCE, RETENTION, LedgerCounts, fill_ledger
from tests.support.postgres import PostgresUnavailableError, running_postgres
from tests.support.query_plans import Plan, plans_of
from watcher.app.wiring import RELEASE_BATCH

MOST_MS = 5.0
"""What claiming a batch may cost, in the median."""

LEASE = timedelta(minutes=1)
BATCHES = 100
ROUNDS = 5
"""A claim that takes too long is measured again, so often at most: this machine may be busy otherwise."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that is done all day, and what follows it off the clock."""

    what: str
    act: Callable[[], Any]
    index: frozenset[str] = frozenset()
    """What its SELECTs must be answered by; where none is named nothing is asked."""
    is_claim: bool = False
    then: Callable[[Any], object] = lambda _: None
    times: int = BATCHES


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a case took, in milliseconds, and what is wrong with it."""

    case: Case
    milliseconds: Sequence[float]
    problem: str | None = None

    @property
    def median(self) -> float:
        """Half of them took less."""
        return statistics.median(self.milliseconds)

    @property
    def p95(self) -> float:
        """Nineteen of twenty took less."""
        return sorted(self.milliseconds)[len(self.milliseconds) * 95 // 100]


def cases(database: Database, ledger: Ledger, counts: LedgerCounts) -> Iterator[Case]:
    """What the daemon asks its ledger, in the order in which it can be measured."""

    def due_again(after: timedelta) -> Callable[[Sequence[Upload]], None]:
        return lambda uploads: end_claims(database, uploads, ledger.now() + after)

    def claim(state: State, limit: int, horizon: timedelta) -> Callable[[], list[Upload]]:
        return lambda: ledger.claim(state, limit, lease=LEASE, horizon=horizon)

    def next_due(state: State, horizon: timedelta) -> Callable[[], object]:
        return lambda: ledger.next_due(state, horizon=horizon)

    due = frozenset({"uploads_due"})
    yield Case("commit one small row, for comparison", committing(database, ledger))
    for limit in (1, RELEASE_BATCH):
        act = claim(State.PENDING, limit, BACKOFF)
        yield Case(
            f"claim {limit} of {counts.due:,} due", act, due, is_claim=True, then=due_again(timedelta(0))
        )
    yield Case(
        f"claim {RELEASE_BATCH}, none of {counts.published:,} is due",
        claim(State.PUBLISHED, RELEASE_BATCH, RETENTION),
        due,
        is_claim=True,
    )
    yield Case(
        f"claim {RELEASE_BATCH} due beyond the horizon",
        claim(State.PUBLISHED, RELEASE_BATCH, timedelta(minutes=1)),
        due,
        is_claim=True,
        then=due_again(RETENTION / 2),
    )
    yield Case("next_due, some are", next_due(State.PENDING, BACKOFF), due)
    yield Case("next_due, none is", next_due(State.PUBLISHED, RETENTION), due)
    held = ledger.claim(State.PENDING, RELEASE_BATCH, lease=LEASE, horizon=BACKOFF)
    yield Case(f"renew {RELEASE_BATCH} claims", lambda: ledger.renew(held, LEASE))
    gate = frozenset({"uploads_awaiting_row"})
    page = min(500, counts.awaiting_row // 2)
    yield Case(
        f"list {page} of {counts.awaiting_row:,} at the gate", gate_page(ledger, page, 0), gate, times=50
    )
    yield Case("list as many further on", gate_page(ledger, page, counts.rows // 2), gate, times=50)
    yield Case("count what is at the gate", ledger.count_awaiting_row, times=20)
    since = frozenset({"uploads_awaiting_since"})
    yield Case("find the oldest at the gate", ledger.oldest_awaiting_row, since)
    yield Case("free an earlier run's claims, at its start", ledger.release_all_claims, times=1)


def end_claims(database: Database, uploads: Sequence[Upload], due_at: datetime) -> None:
    """Have nobody hold uploads any more, and all be due then: as workers do, but in one statement."""
    rows = database.tables.uploads
    ended = {"claimed_by": None, "claimed_until": None, "claim": rows.claim + 1, "due_at": due_at}
    with database.transaction("end claims"):
        rows.update(ended).where(rows.id.in_([upload.id for upload in uploads])).execute()


def committing(database: Database, ledger: Ledger) -> Callable[[], None]:
    """The least that a transaction can write: what the disk takes of every claim."""
    ledger.heartbeat({})
    instances = database.tables.instances

    def commit() -> None:
        with database.transaction("commit next to nothing"):
            instances.update(pid=instances.pid + 1).execute()

    return commit


def gate_page(ledger: Ledger, limit: int, after: int) -> Callable[[], list[Upload]]:
    """One page of what waits for its catalog row."""
    return lambda: ledger.awaiting_row(limit=limit, after=after)


def measure(case: Case, database: Database) -> Measured:
    """Time a case, and look at its plans."""
    problem = wrong_way(case, plans_of(database, lambda: case.then(case.act()))) if case.index else None
    rounds = [timed(case)]
    while case.is_claim and statistics.median(rounds[-1]) >= MOST_MS and len(rounds) < ROUNDS:
        rounds.append(timed(case))
    best = Measured(case, min(rounds, key=statistics.median), problem)
    if problem is None and case.is_claim and best.median >= MOST_MS:
        problem = f"took {best.median:.1f} ms in the median, not less than {MOST_MS:g} ms"
        return Measured(case, best.milliseconds, problem)
    return best


def timed(case: Case) -> list[float]:
    """How many milliseconds it took each time."""
    taken = []
    for _ in range(case.times):
        started = time.perf_counter()
        result = case.act()
        taken.append((time.perf_counter() - started) * 1000)
        case.then(result)
    return taken


def wrong_way(case: Case, plans: Sequence[Plan]) -> str | None:
    """What is wrong with the way the database takes, if anything is."""
    for plan in plans:
        if plan.statement.startswith("SELECT") and not (plan.reads_by and plan.reads_by <= case.index):
            return "is not answered by its index:\n" + "\n".join((plan.statement, *plan.steps))
    return None


def run(name: str, database: Database, rows: int, console: Console) -> list[str]:
    """Fill one database and measure everything on it; returns what went wrong."""
    started = time.monotonic()
    with console.status(f"{name}: filling a ledger with {rows:,} uploads …"):
        counts = fill_ledger(database, rows)
    seconds = time.monotonic() - started
    ledger = Ledger(database, INSTANCE)
    table = Table(
        title=f"{name}: {counts.rows:,} uploads, {counts.due:,} due, {counts.held:,} held by another",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what", no_wrap=True)
    for heading in ("batches", "median", "p95", "max"):
        table.add_column(heading, justify="right")
    problems = []
    with database.session(), console.status(f"{name}: measuring …"):
        for case in cases(database, ledger, counts):
            measured = measure(case, database)
            times = (measured.median, measured.p95, max(measured.milliseconds))
            table.add_row(case.what, str(case.times), *(f"{number:.2f}" for number in times))
            if measured.problem:
                problems.append(f"{name}: {case.what} {measured.problem}")
    # Whoever reads the times has to know how much else this machine was doing.
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    table.caption = f"Times are in milliseconds. Filled in {seconds:.0f} s. Load {load}."
    console.print(table)
    return problems


@contextmanager
def sqlite() -> Iterator[Database]:
    """A file in a directory of its own, on the disk that TMPDIR is on."""
    with tempfile.TemporaryDirectory(prefix="claiming-") as directory:
        with_file = sqlite_url(os.path.join(directory, "ledger.sqlite3"))
        with closing(open_database(with_file)) as database:
            yield database


@contextmanager
def postgresql() -> Iterator[Database]:
    """A server of its own, on the same disk. Raises PostgresUnavailableError."""
    with (
        running_postgres() as server,
        server.fresh_schema() as schema,
        closing(open_database(server.url, schema=schema)) as database,
    ):
        yield database


def main() -> int:
    """Measure on both databases."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claiming", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many uploads (default: %(default)s)")
    rows = parser.parse_args().rows
    if rows < 20_000:
        parser.error("in fewer than 20,000 rows there is nothing to find")
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    problems: list[str] = []
    try:
        for name, opened in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
            with opened() as database:
                problems += run(name, database, rows, console)
    except PostgresUnavailableError as exc:
        problems.append(str(exc))
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    if problems:
        return 1
    console.print(
        f"Claiming a batch took less than {MOST_MS:g} ms in the median, and every question was answered by "
        "its index, on both databases.",
        style="green",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
