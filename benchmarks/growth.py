"""How time and CPU grow: by size and number of files, directories, rows, concurrency and round trips."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import process, svg
from benchmarks.files import make_files, path_of, video_id, write_video
from benchmarks.ledger_costs import FIRST_PAGE, claim_milliseconds, fill_rows, on_sqlite
from benchmarks.pairs import exponent, spread
from benchmarks.process import Cost
from benchmarks.results import Result, Table
from benchmarks.scale import KIB, MIB, Bench, size_text
from benchmarks.sink_server import running_sink
from benchmarks.uploader import PUBLISHED, Uploader, require_received, upload_arriving, uploader_for
from tests.support.bulk_ledger import fill_ledger

SIZES: Final = tuple(64 * KIB * 4**power for power in range(10))
"""64 KiB to 16 GiB."""
COUNTS: Final = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
DIRECTORIES: Final = (100, 1000, 10_000, 100_000)
ROWS: Final = (1000, 10_000, 100_000, 1_000_000)
CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64)
ROUND_TRIPS_MS: Final = (1, 3, 10, 30, 100)
SLOW_LINE_MS: Final = 30.0
LAST: Final = 3
"""What does not grow weighs less in the exponent of the last points."""
FEW: Final = 400
"""The files of each point of the series over concurrency and round trips."""


@dataclass
class Series:
    """Figures by x; every point has the same names of figures."""

    points: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)
    stopped: str = ""
    """Why larger points were not measured."""

    def of(self, name: str) -> list[tuple[float, float]]:
        """The points of one figure that a logarithm can show."""
        return [(x, figures[name]) for x, figures in self.points if figures[name] > 0]


def grow(
    bench: Bench,
    steps: Sequence[float],
    measure: Callable[[float], Mapping[str, float]],
    show: Callable[[float], str],
) -> Series:
    """Measure one point after the other, until the next one would take too long."""
    series, began = Series(), time.monotonic()
    taken: list[tuple[float, float]] = []
    for x in steps:
        if (seconds := expected(taken, x)) > bench.scale.point_seconds:
            series.stopped = f"Not measured from {show(x)} on, which would take about {seconds:.0f} s."
            break
        if time.monotonic() - began > bench.scale.growth_seconds:
            series.stopped = f"Not measured from {show(x)} on: the points before took long enough."
            break
        started = time.monotonic()
        series.points.append((x, measure(x)))
        taken.append((x, time.monotonic() - started))
    return series


def expected(taken: Sequence[tuple[float, float]], x: float) -> float:
    """The seconds of the next point: those of the last one, and more in a straight line of the last two."""
    if len(taken) < 2:
        return taken[0][1] if taken else 0.0
    (x1, before), (x2, last) = taken[-2:]
    return last + max(last - before, 0.0) / (x2 - x1) * (x - x2)


def size(bench: Bench) -> Result:
    """One file after the other into one daemon, each larger than the last."""
    peak = 0.0
    with running_sink() as sink:
        uploader = uploader_for(sink, bench.new("daemon"))
        os.makedirs(uploader.completed)
        with uploader.daemon() as daemon:
            sizes = iter(range(len(SIZES)))

            def measure(size: float) -> Mapping[str, float]:
                nonlocal peak
                number = next(sizes)
                staged = os.path.join(uploader.directory, "staged.mp4")
                write_video(staged, int(size), number)
                target = os.path.join(uploader.completed, path_of(number))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                daemon.read_log(0.5)
                cpu = process.cpu_seconds(daemon.pid)
                started = time.perf_counter()
                os.rename(staged, target)
                daemon.wait_for(PUBLISHED, number + 1)
                wall = time.perf_counter() - started
                peak = max(peak, process.peak_rss([daemon.pid]) / MIB)
                os.unlink(target)
                return {
                    "seconds": wall,
                    "CPU seconds": process.cpu_seconds(daemon.pid) - cpu,
                    "peak MiB": peak,
                }

            series = grow(bench, SIZES, measure, size_text)
    shown = ("seconds", "CPU seconds")
    result = _report(
        "growth-size", "One file into an idle daemon, by its size", "size", series, size_text, shown
    )
    result.figures["growth-size.rss"] = peak
    return result


def count(bench: Bench) -> Result:
    """Files of 16 KiB into an idle daemon."""
    with running_sink() as sink:

        def measure(number: float) -> Mapping[str, float]:
            files = make_files(bench.new("files"), int(number), 16 * KIB)
            cost = upload_arriving(uploader_for(sink, bench.new("daemon")), files, keeps=False)
            require_received(sink, files)
            return _of(cost) | {"files/s": number / cost.wall}

        series = grow(bench, COUNTS, measure, _number)
    return _report(
        "growth-count",
        "Files of 16 KiB, by their number",
        "files",
        series,
        _number,
        ("seconds", "CPU seconds"),
    )


def directories(bench: Bench) -> Result:
    """The start of a daemon that watches many directories, until it has published a first file."""
    with running_sink() as sink:

        def measure(number: float) -> Mapping[str, float]:
            uploader = uploader_for(sink, bench.new("daemon"))
            for video in range(int(number)):
                os.makedirs(os.path.join(uploader.completed, video_id(video)))
            write_video(os.path.join(uploader.completed, path_of(0)), 64 * KIB, 0)
            started = time.perf_counter()
            with uploader.daemon() as daemon:
                daemon.wait_for(PUBLISHED, 1)
                wall = time.perf_counter() - started
                daemon.read_log(2)
                return {
                    "seconds": wall,
                    "CPU seconds": process.cpu_seconds(daemon.pid),
                    "peak MiB": process.peak_rss([daemon.pid]) / MIB,
                }

        series = grow(bench, DIRECTORIES, measure, _number)
    title = "Start until the first file is published, by directories"
    return _report("growth-directories", title, "directories", series, _number, ("seconds", "CPU seconds"))


def rows(bench: Bench) -> Result:
    """A claim, `status` and `list` in a growing ledger."""

    def measure(number: float) -> Mapping[str, float]:
        with on_sqlite(bench) as database:
            fill_ledger(database, int(number))
            claim = spread(claim_milliseconds(database, bench.scale.claims)).median / 1000
        uploader = Uploader(bench.made("commands"), "http://127.0.0.1:9")
        os.makedirs(uploader.completed)
        fill_rows(uploader, int(number))
        return {
            "claim, seconds": claim,
            "`status`, seconds": uploader.time_command("status")[0],
            "`list`, seconds to the first page": uploader.time_command("list", lines=FIRST_PAGE)[0],
        }

    series = grow(bench, ROWS, measure, _number)
    names = ("claim, seconds", "`status`, seconds", "`list`, seconds to the first page")
    return _report(
        "growth-rows", "A claim and commands, by rows of the ledger", "rows", series, _number, names
    )


def concurrency(bench: Bench) -> Result:
    """Small files over a line with round trips of 30 ms, by UPLOAD_CONCURRENCY."""
    number = min(FEW, bench.scale.small_files)
    with running_sink() as sink:
        sink.set_line(rtt_ms=SLOW_LINE_MS)
        files = make_files(bench.new("files"), number, 64 * KIB)

        def measure(concurrency: float) -> Mapping[str, float]:
            uploader = uploader_for(sink, bench.new("daemon"), UPLOAD_CONCURRENCY=str(int(concurrency)))
            cost = upload_arriving(uploader, files)
            require_received(sink, files)
            return _of(cost) | {"files/s": number / cost.wall}

        series = grow(bench, CONCURRENCIES, measure, _number)
    title = f"{number} × 64 KiB with {SLOW_LINE_MS:.0f} ms round trips, by UPLOAD_CONCURRENCY"
    return _report(
        "growth-concurrency", title, "UPLOAD_CONCURRENCY", series, _number, ("seconds", "CPU seconds")
    )


def round_trips(bench: Bench) -> Result:
    """Small files over lines with longer and longer round trips."""
    number = min(FEW, bench.scale.small_files)
    with running_sink() as sink:
        files = make_files(bench.new("files"), number, 64 * KIB)

        def measure(milliseconds: float) -> Mapping[str, float]:
            sink.set_line(rtt_ms=milliseconds)
            cost = upload_arriving(uploader_for(sink, bench.new("daemon")), files)
            require_received(sink, files)
            return _of(cost) | {"files/s": number / cost.wall}

        series = grow(bench, ROUND_TRIPS_MS, measure, _milliseconds)
    title = f"{number} × 64 KiB, by round-trip time"
    return _report("growth-rtt", title, "round trip", series, _milliseconds, ("seconds", "CPU seconds"))


def _of(cost: Cost) -> dict[str, float]:
    return {"seconds": cost.wall, "CPU seconds": cost.cpu, "peak MiB": cost.peak_rss / MIB}


def _report(
    part: str, title: str, x_name: str, series: Series, show: Callable[[float], str], plotted: Sequence[str]
) -> Result:
    """The table of a series, and its plot in a file beside the results."""
    names = list(series.points[0][1])
    table = Table(title, (x_name, *names), plot=f"{part}.svg")
    for x, figures in series.points:
        table.rows.append((show(x), *(f"{figures[name]:.3g}" for name in names)))
    fits = {name: (exponent(series.of(name)), exponent(series.of(name)[-LAST:])) for name in plotted}
    table.notes += [
        f"{name}: fitted exponent {overall:.2f} over all points, {last:.2f} over the last {LAST}."
        for name, (overall, last) in fits.items()
        if overall is not None and last is not None
    ]
    if series.stopped:
        table.notes.append(series.stopped)
    lines = {name: series.of(name) for name in plotted if series.of(name)}
    drawn = svg.plot(title, x_name, "seconds", lines, show)
    return Result([table], {}, {"points": series.points, "exponents": fits}, {table.plot: drawn})


def _number(number: float) -> str:
    return f"{number:,.0f}"


def _milliseconds(number: float) -> str:
    return f"{number:g} ms"
