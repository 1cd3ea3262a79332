"""The benchmarks: `python -m benchmarks [--quick] [--only PART,…] [--repeats N] [--quiet SECONDS]`.

Each part writes `benchmarks/results/PART.json`; the report is made of what is there, so that parts can be run
one by one. `--quick` keeps nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from rich.console import Console

from benchmarks import comparisons, growth, ledger_costs, machine, report, results, toolbox, waiting
from benchmarks.process import CommandFailedError
from benchmarks.results import Result
from benchmarks.scale import FULL, QUICK, Bench
from db import DatabaseError

PARTS: Final[Mapping[str, Callable[[Bench], Result]]] = MappingProxyType(
    {
        "sink": comparisons.sink_alone,
        "large": comparisons.large,
        "memory": comparisons.memory,
        "medium": comparisons.medium,
        "small": comparisons.small,
        "rtt": comparisons.rtt,
        "release": comparisons.release,
        "postgres": comparisons.postgres,
        "localstack": comparisons.localstack,
        "latency": waiting.latency,
        "idle": waiting.idle,
        "start": waiting.start,
        "rows": ledger_costs.rows,
        "commands": ledger_costs.commands,
        "growth-size": growth.size,
        "growth-count": growth.count,
        "growth-directories": growth.directories,
        "growth-rows": growth.rows,
        "growth-concurrency": growth.concurrency,
        "growth-rtt": growth.round_trips,
    }
)

FAILURES: Final = (CommandFailedError, DatabaseError, OSError, subprocess.SubprocessError)
"""What ends a part, and not the parts after it."""


def main() -> int:
    """Run the parts that are asked for, and report; 1 if one failed."""
    given = _arguments()
    console = Console(highlight=False)
    console.width = max(console.width, 160)
    try:
        toolbox.build_sink()
        toolbox.make_certificate()
        toolbox.install_rivals()
    except toolbox.UnavailableError as error:
        console.print(f"The benchmarks cannot run here: {error}", markup=False, soft_wrap=True)
        return 1
    scale = QUICK if given.quick else FULL
    changes = {"repeats": given.repeats, "rows": given.rows}
    scale = replace(scale, **{name: value for name, value in changes.items() if value}).of_files(given.share)
    is_full = replace(scale, repeats=FULL.repeats) == FULL
    about = {"repeats": scale.repeats, "share": given.share, "is_full": is_full}
    failed = []
    with toolbox.work_directory() as directory:
        kept_in = os.path.join(directory, "results") if given.quick else results.DIRECTORY
        for part in given.only.split(",") if given.only else PARTS:
            console.print(f"{part} …", markup=False)
            busy = machine.wait_until_quiet(0 if given.quick else given.quiet)
            started = time.monotonic()
            place = os.path.join(directory, part)
            try:
                result = PARTS[part](Bench(scale, place))
            except toolbox.UnavailableError as error:
                console.print(f"{part}: skipped: {error}", markup=False, soft_wrap=True)
                continue
            except FAILURES as error:
                console.print(f"{part}: failed: {error}", style="red", markup=False, soft_wrap=True)
                failed.append(part)
                continue
            finally:
                shutil.rmtree(place, ignore_errors=True)
            seconds = round(time.monotonic() - started)
            about |= {**machine.facts(), "busy_before": round(busy, 2), "seconds": seconds}
            results.save(part, result, about, kept_in)
            console.print(f"{part}: {seconds} s; processors in use before: {busy:.0%}", markup=False)
            report.show(console, result)
    if not given.quick:
        report.show_targets(console, list(PARTS))
        report.write(list(PARTS))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a little of everything, in about two minutes")
    parser.add_argument("--only", default="", metavar="PART,…", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, help="how often each client runs")
    parser.add_argument("--rows", type=int, help="the rows of the large ledger")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the small files that are sent")
    parser.add_argument(
        "--quiet", type=float, default=300.0, help="seconds to wait for a quiet machine before each part"
    )
    given = parser.parse_args()
    if unknown := [part for part in given.only.split(",") if part and part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
