"""The report: tables on the terminal, and in `docs/performance.md` between markers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import results, toolbox
from benchmarks.machine import QUIET_SHARE
from benchmarks.results import Result, Table

PAGE: Final = os.path.join(toolbox.ROOT, "docs", "performance.md")


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must be: at least or at most a limit."""

    work: str
    measure: str
    figure: str
    limit: float
    unit: str = ""
    is_least: bool = False
    digits: int = 2

    def is_met(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value >= self.limit if self.is_least else value <= self.limit

    def wanted(self) -> str:
        """The limit as text."""
        return f"{'≥' if self.is_least else '≤'} {self.limit:g}{self.unit}"


def _least(work: str, measure: str, figure: str, limit: float, unit: str = "", digits: int = 2) -> Target:
    return Target(work, measure, figure, limit, unit, is_least=True, digits=digits)


_LARGE, _SMALL, _RTT = "4 × 1 GiB", "5,000 × 64 KiB", "5,000 × 64 KiB, 30 ms round trips"
_IDLE, _ROWS = "idle, 10,000 directories", "1,000,000 rows"
TARGETS: Final = (
    _least(_LARGE, "throughput / s5cmd, daemon", "large.daemon/s5cmd", 1.3),
    _least(_LARGE, "throughput / s5cmd, `run --once`", "large.once/s5cmd", 1.2),
    Target(_LARGE, "CPU / s5cmd", "large.daemon.cpu/s5cmd", 0.6),
    Target(_LARGE, "peak memory", "large.daemon.rss", 160, " MiB", digits=0),
    Target("64 × 64 MiB, UPLOAD_CONCURRENCY up to 64", "peak memory", "memory.rss", 160, " MiB", digits=0),
    Target("one file of up to 16 GiB", "peak memory", "growth-size.rss", 160, " MiB", digits=0),
    _least("2,000 × 1 MiB", "files/s / s5cmd", "medium.daemon/s5cmd", 0.7),
    _least(_SMALL, "files/s / aws-cli", "small.daemon/aws-cli", 1.5),
    _least(_SMALL, "files/s / s5cmd", "small.daemon/s5cmd", 0.35),
    Target(_SMALL, "CPU a file", "small.daemon.cpu_ms", 2, " ms"),
    _least(_SMALL, "with release, files/s", "release.files", 300, digits=0),
    _least(_RTT, "files/s / s5cmd", "rtt.daemon/s5cmd", 0.35),
    _least("5,000 × 64 KiB on PostgreSQL, rows ready", "files/s / SQLite", "postgres/sqlite", 0.7),
    Target("1 MiB into an idle daemon", "last close → published, p50", "latency.p50", 15, " ms", digits=1),
    Target("1 MiB into an idle daemon", "last close → published, p99", "latency.p99", 40, " ms", digits=1),
    Target(_IDLE, "CPU", "idle.cpu", 0.1, " %"),
    Target(_IDLE, "wake-ups a second", "idle.wake_ups", 2),
    Target(_IDLE, "memory", "idle.rss", 90, " MiB", digits=0),
    Target("start with 200,000 released rows", "first new file uploaded", "start.seconds", 3, " s"),
    Target(_ROWS, "claim, SQLite", "rows.claim.sqlite", 5, " ms"),
    Target(_ROWS, "claim, PostgreSQL", "rows.claim.postgresql", 5, " ms"),
    Target(_ROWS, "`status`", "rows.status", 0.4, " s"),
    Target(_ROWS, "`list`, first page", "rows.list", 0.4, " s"),
    Target(_ROWS, "scrape", "rows.scrape", 20, " ms", digits=1),
    Target(_ROWS, "`explain`", "rows.explain", 0.4, " s"),
    Target("command start", "`--help`", "commands.help", 150, " ms", digits=0),
    Target("command start", "`--version`", "commands.version", 150, " ms", digits=0),
    Target("a released row on disk", "bytes, events included", "row.bytes", 400, digits=0),
)
"""What the figures should be, on two processors with TLS; see `docs/performance.md`."""


def target_table(kept: Sequence[tuple[Result, Mapping[str, Any]]]) -> Table:
    """The targets beside what was measured, with what speaks against a figure."""
    figures = {name: value for result, _ in kept for name, value in result.figures.items()}
    doubts = {name: _doubts(about) for result, about in kept for name in result.figures}
    table = Table("Targets", ("work", "measure", "target", "measured", ""))
    for target in TARGETS:
        value = figures.get(target.figure)
        measured = "not measured" if value is None else f"{value:,.{target.digits}f}{target.unit}"
        verdict = "" if value is None else "met" if target.is_met(value) else "**missed**"
        if doubt := doubts.get(target.figure):
            verdict += f" ({doubt})"
        table.rows.append((target.work, target.measure, target.wanted(), measured, verdict))
    return table


def _doubts(about: Mapping[str, Any]) -> str:
    """Why figures are not those of the work that the targets name, on a quiet machine; empty if they are."""
    busy = "busy machine" if about["busy_before"] > QUIET_SHARE else ""
    smaller = "" if about["is_full"] else "less work"
    return ", ".join(filter(None, (busy, smaller)))


def show(console: Console, result: Result) -> None:
    """Print the tables of a part."""
    for table in result.tables:
        shown = RichTable(title=table.title, title_justify="left", caption_justify="left")
        for number, name in enumerate(table.head):
            shown.add_column(name, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*row)
        shown.caption = "\n".join(table.notes) or None
        console.print(shown, markup=False)


def show_targets(console: Console, parts: Sequence[str]) -> None:
    """Print the targets beside the figures of all parts that have results."""
    show(console, Result([target_table([kept for part in parts if (kept := results.load(part))])]))


def write(parts: Sequence[str]) -> None:
    """Write the tables of all parts that have results into `docs/performance.md`, between their markers."""
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    found = [(part, kept) for part in parts if (kept := results.load(part))]
    page = between_markers(
        page, "targets", markdown(target_table([kept for _, kept in found]), heading=False)
    )
    for part, (result, about) in found:
        text = "\n\n".join([*map(markdown, result.tables), _about(about)])
        page = between_markers(page, part, text)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page)


def between_markers(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of a name. Raises ValueError if it has none."""
    begin, end = f"<!-- {name}: written by make bench -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no markers of {name}")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def markdown(table: Table, *, heading: bool = True) -> str:
    """A table in Markdown, with its plot and notes."""
    lines = [f"**{table.title}**", ""] if heading else []
    lines += [f"| {' | '.join(table.head)} |", f"| --- |{' ---: |' * (len(table.head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    if table.plot:
        lines += ["", f"![{table.title}](../benchmarks/results/{table.plot})"]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines)


def _about(about: Mapping[str, Any]) -> str:
    rivals = ", ".join(f"{name} {about[name]}" for name in ("s5cmd", "rclone", "aws") if about.get(name))
    processors = f"{about['processors']} × {about['processor']}, {about['memory_gib']:.0f} GiB"
    versions = f"Python {about['python']}, SQLite {about['sqlite']}, awscrt {about['awscrt']}, {rivals}"
    return (
        f"{about['date'][:10]}, commit {about['commit'] or 'unknown'}; {processors}, Linux {about['kernel']};"
        f" {versions}; rounds: {about['repeats']}, share of the small files: {about['share']:.0%};"
        f" {about['seconds']} s, processors in use before: {about['busy_before']:.0%}."
        f"{f' **Not to be relied on: {doubt}.**' if (doubt := _doubts(about)) else ''}"
    )
