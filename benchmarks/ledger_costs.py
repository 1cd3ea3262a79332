"""What a large ledger costs: its queries on both databases, commands and a scrape, the bytes of a row."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from benchmarks.pairs import percentile, spread
from benchmarks.process import CommandFailedError, cpu_seconds
from benchmarks.results import Result, Table
from benchmarks.scale import Bench
from benchmarks.sink_server import running_sink
from benchmarks.uploader import Uploader, uploader_for
from db import Database, Ledger, State, Upload, migrate, open_database, sqlite_url
from tests.support.bulk_ledger import BACKOFF, INSTANCE, RETENTION, RowCounts, fill_ledger
from tests.support.ports import free_address
from tests.support.postgres import PostgresUnavailableError, running_postgres
from tests.support.query_plans import Plan, explain
from watcher.app.wiring import RELEASE_BATCH
from watcher.stages.receipts import FOLDED_AT_ONCE

LEASE: Final = timedelta(minutes=1)
FIRST_PAGE: Final = 20
"""The lines of `list` that are waited for: its head and some uploads."""
SCRAPES: Final = 20
COMMANDS: Final = 3
"""How often each command runs on the large ledger."""


@dataclass(frozen=True, slots=True)
class Case:
    """An operation to measure, and what follows it without being measured."""

    name: str
    run: Callable[[], Any]
    index: frozenset[str] = frozenset()
    """The indexes that must answer its SELECTs; not checked if empty."""
    cleanup: Callable[[Any], object] = lambda _: None
    is_once: bool = False


def rows(bench: Bench) -> Result:
    """1,000,000 rows: claims and other queries on both databases; commands and a scrape on SQLite.

    Raises CommandFailedError if a query is not answered by the index that was made for it.
    """
    result = Result()
    problems: list[str] = []
    try:
        for name, opened in (("SQLite", on_sqlite), ("PostgreSQL", on_postgresql)):
            with opened(bench) as database:
                problems += _queries(bench, name, database, result)
    except PostgresUnavailableError as error:
        result.tables[-1].notes.append(f"PostgreSQL was not measured: {error}")
    _commands(bench, result)
    if problems:
        raise CommandFailedError("\n".join(problems))
    return result


def cases(database: Database, ledger: Ledger, counts: RowCounts) -> Iterator[Case]:
    """The daemon's operations on its ledger, in an order in which they can be measured."""

    def due_again(after: timedelta) -> Callable[[Sequence[Upload]], None]:
        return lambda uploads: end_claims(database, uploads, ledger.now() + after)

    def claim(state: State, limit: int, horizon: timedelta) -> Callable[[], list[Upload]]:
        return lambda: ledger.claim(state, limit, lease=LEASE, horizon=horizon)

    def next_due(state: State, horizon: timedelta) -> Callable[[], object]:
        return lambda: ledger.next_due(state, horizon=horizon)

    due = frozenset({"uploads_due"})
    # What an operator has given its turn by hand is looked up before the rest.
    in_turn = due | {"uploads_due_first"}
    yield Case("commit one small row, for comparison", committing(database, ledger))
    for limit in (1, RELEASE_BATCH):
        yield Case(
            f"claim {limit} of {counts.due:,} due",
            claim(State.PENDING, limit, BACKOFF),
            in_turn,
            cleanup=due_again(timedelta(0)),
        )
    yield Case(
        f"claim 1 small of {counts.due:,} due",
        lambda: ledger.claim(State.PENDING, 1, lease=LEASE, horizon=BACKOFF, small_only=True),
        frozenset({"uploads_due_small", "uploads_due_first"}),
        cleanup=due_again(timedelta(0)),
    )
    yield Case(
        f"claim {RELEASE_BATCH}, none of {counts.published:,} is due",
        claim(State.PUBLISHED, RELEASE_BATCH, RETENTION),
        due,
    )
    yield Case(
        f"claim {RELEASE_BATCH} due beyond the horizon",
        claim(State.PUBLISHED, RELEASE_BATCH, timedelta(minutes=1)),
        due,
        cleanup=due_again(RETENTION / 2),
    )
    yield Case("next_due, some are", next_due(State.PENDING, BACKOFF), due)
    yield Case("next_due, none is", next_due(State.PUBLISHED, RETENTION), due)
    held = ledger.claim(State.PENDING, RELEASE_BATCH, lease=LEASE, horizon=BACKOFF)
    yield Case(f"renew {RELEASE_BATCH} claims", lambda: ledger.renew_claims(held, LEASE))
    yield Case("count what is at the gate", ledger.count_awaiting_row)
    since = frozenset({"uploads_awaiting_since"})
    yield Case("find the oldest at the gate", ledger.awaiting_row_since, since)
    yield Case("end an earlier run's claims, at startup", ledger.release_all_claims, is_once=True)


def end_claims(database: Database, uploads: Sequence[Upload], due_at: datetime) -> None:
    """End the claims of uploads and make them due at `due_at`, in one statement."""
    rows = database.tables.uploads
    ended = {"claimed_by": None, "claimed_until": None, "claim": rows.claim + 1, "due_at": due_at}
    with database.transaction("end claims"):
        rows.update(ended).where(rows.id.in_([upload.id for upload in uploads])).execute()


def committing(database: Database, ledger: Ledger) -> Callable[[], None]:
    """A minimal transaction, whose time is the disk's share of every claim."""
    ledger.heartbeat({})
    instances = database.tables.instances

    def commit() -> None:
        with database.transaction("commit one small row"):
            instances.update(pid=instances.pid + 1).execute()

    return commit


def timed(case: Case, times: int) -> list[float]:
    """The milliseconds that each run of a case took."""
    taken = []
    for _ in range(1 if case.is_once else times):
        started = time.perf_counter()
        result = case.run()
        taken.append((time.perf_counter() - started) * 1000)
        case.cleanup(result)
    return taken


def plan_problem(case: Case, plans: Sequence[Plan]) -> str | None:
    """A description of the first plan that does not use the wanted index; None if all do."""
    for plan in plans:
        if plan.statement.startswith("SELECT") and not (
            plan.access_paths and plan.access_paths <= case.index
        ):
            return "is not answered by its index:\n" + "\n".join((plan.statement, *plan.steps))
    return None


@contextmanager
def on_sqlite(bench: Bench) -> Iterator[Database]:
    """A SQLite file in a directory of its own."""
    url = sqlite_url(os.path.join(bench.made("sqlite"), "ledger.sqlite3"))
    with closing(open_database(url)) as database:
        yield database


@contextmanager
def on_postgresql(_: Bench) -> Iterator[Database]:
    """A PostgreSQL server in a temporary directory. Raises PostgresUnavailableError."""
    with (
        running_postgres() as server,
        server.fresh_schema() as schema,
        closing(open_database(server.url, schema=schema)) as database,
    ):
        yield database


def claim_milliseconds(database: Database, times: int) -> list[float]:
    """How long each claim of one due upload takes."""
    ledger = Ledger(database, INSTANCE)
    with database.session():
        case = Case(
            "claim",
            lambda: ledger.claim(State.PENDING, 1, lease=LEASE, horizon=BACKOFF),
            cleanup=lambda uploads: end_claims(database, uploads, ledger.now()),
        )
        return timed(case, times)


def bytes_a_row(ledger_path: str, rows: int) -> float:
    """The bytes of an SQLite ledger that belong to each of its uploads: all but those of an empty ledger.

    Folds what the daemon had no time to fold. Neither free pages count, which are used again, nor the rows
    of our own catalog.
    """
    directory = os.path.dirname(ledger_path)
    empty = os.path.join(directory, "empty.sqlite3")
    sizes = []
    for path in (ledger_path, empty):
        with closing(open_database(sqlite_url(path))) as database:
            migrate(database)
            ledger = Ledger(database, INSTANCE)
            while ledger.receipts.fold(FOLDED_AT_ONCE):
                pass
            ledger.add_up_counts()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE video_qualities")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        sizes.append((pages - free) * size)
    return float(sizes[0] - sizes[1]) / rows


def _queries(bench: Bench, name: str, database: Database, result: Result) -> list[str]:
    """Fill a database and measure every case on it; returns the queries without their indexes."""
    counts = fill_ledger(database, bench.scale.rows)
    ledger = Ledger(database, INSTANCE)
    table = Table(
        f"{name}: {counts.rows:,} uploads, {counts.due:,} due, {counts.held:,} held by another",
        ("operation", "times", "median ms", "p95 ms", "largest ms"),
    )
    result.tables.append(table)
    problems = []
    with database.session():
        for case in cases(database, ledger, counts):
            if case.index:
                plans = explain(database, partial(timed, case, 1))
                if problem := plan_problem(case, plans):
                    problems.append(f"{name}: {case.name} {problem}")
            taken = timed(case, bench.scale.claims)
            shown = (statistics.median(taken), percentile(taken, 0.95), max(taken))
            table.rows.append((case.name, str(len(taken)), *(f"{number:.2f}" for number in shown)))
            result.raw[f"{name}: {case.name}"] = taken
            if case.name.startswith("claim 1 of"):
                result.figures[f"rows.claim.{name.lower()}"] = statistics.median(taken)
    return problems


def _commands(bench: Bench, result: Result) -> None:
    """Measure commands and scrapes with a ledger of released rows, beside a daemon."""
    count = bench.scale.rows
    address = free_address()
    with running_sink() as sink:
        uploader = uploader_for(sink, bench.new("daemon"), METRICS_ADDRESS=address)
        path = fill_rows(uploader, count)
        table = Table(
            f"SQLite: {count:,} released uploads, beside a daemon",
            ("operation", "times", "median", "largest", "CPU"),
        )
        result.tables.append(table)
        with uploader.daemon() as daemon:
            daemon.read_log(5 if count >= 10**6 else 1)
            called: dict[str, Callable[[], tuple[float, float]]] = {
                "status": lambda: uploader.time_command("status"),
                "list": lambda: uploader.time_command("list", lines=FIRST_PAGE),
                "explain": lambda: uploader.time_command("explain", path),
                "scrape": lambda: scrape(address, daemon.pid),
            }
            for name, call in called.items():
                measured = [call() for _ in range(SCRAPES if name == "scrape" else COMMANDS)]
                factor, unit = (1000, "ms") if name == "scrape" else (1, "s")
                taken, cpu = (spread([pair[i] * factor for pair in measured]) for i in (0, 1))
                shown = {"scrape": "a scrape", "list": f"`list`, until {FIRST_PAGE} lines are there"}.get(
                    name, f"`{name}`"
                )
                table.rows.append(
                    (
                        shown,
                        str(taken.count),
                        f"{taken.median:.2f} {unit}",
                        f"{taken.high:.2f} {unit}",
                        f"{cpu.median:.2f} {unit}",
                    )
                )
                result.figures[f"rows.{name}"] = taken.median
                result.raw[name] = measured


def fill_rows(uploader: Uploader, count: int) -> str:
    """Give an uploader a ledger of released uploads; returns the path of one of them."""
    os.makedirs(os.path.dirname(uploader.ledger_path), exist_ok=True)
    with closing(open_database(sqlite_url(uploader.ledger_path))) as database:
        fill_ledger(database, count, all_released=True)
        with database.operation("find a path") as connected:
            found = connected.execute_sql(f"SELECT path FROM uploads WHERE id = {count // 2}").fetchone()
    return str(found[0])


def scrape(address: str, pid: int) -> tuple[float, float]:
    """Seconds that a scrape of a daemon's metrics takes, and those of the daemon's CPU meanwhile."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    cpu, started = cpu_seconds(pid), time.perf_counter()
    with opener.open(f"http://{address}/metrics", timeout=60) as answer:
        answer.read()
    return time.perf_counter() - started, cpu_seconds(pid) - cpu


def commands(bench: Bench) -> Result:
    """How long commands take that do little."""
    result = Result()
    table = Table("Commands that do little", ("command", "times", "ms", "CPU ms"))
    result.tables.append(table)
    with running_sink() as sink:
        uploader = uploader_for(sink, bench.new("daemon"))
        os.makedirs(uploader.completed)
        uploader.run_once()
        for arguments in (("--help",), ("--version",), ("status",), ("list",)):
            measured = [uploader.time_command(*arguments) for _ in range(bench.scale.commands)]
            taken, cpu = (spread([pair[i] * 1000 for pair in measured]) for i in (0, 1))
            table.rows.append((f"`{' '.join(arguments)}`", str(taken.count), taken.text(0), cpu.text(0)))
            result.figures[f"commands.{arguments[0].lstrip('-')}"] = taken.median
            result.raw[" ".join(arguments)] = measured
    return result
