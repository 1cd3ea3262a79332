"""Our daemon and `run --once` beside other programs, on the same files and the same sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from benchmarks import rivals
from benchmarks.files import FileSet, make_files
from benchmarks.pairs import interleaved, ratios, spread
from benchmarks.process import Cost
from benchmarks.results import Result, Table
from benchmarks.scale import GIB, KIB, MIB, Bench
from benchmarks.sink_server import Sink, running_sink
from benchmarks.uploader import RELEASED, upload_arriving, upload_present, uploader_for

RTT_MS: Final = 30.0
DAEMON: Final = "daemon, files arriving"
ONCE: Final = "`run --once`"


@dataclass(frozen=True, slots=True)
class Run:
    """The cost of one run of a client, and what it cost the sink in seconds of CPU."""

    cost: Cost
    sink_cpu: float
    requests: int
    connections: int


def large(bench: Bench) -> Result:
    """4 × 1 GiB."""
    scale = bench.scale
    title = f"{scale.large_files} × {_size(scale.large_size)}"
    return _beside_rivals(bench, "large", title, scale.large_files, scale.large_size)


def medium(bench: Bench) -> Result:
    """2,000 × 1 MiB."""
    count = bench.scale.medium_files
    return _beside_rivals(bench, "medium", f"{count:,} × 1 MiB", count, MIB)


def small(bench: Bench) -> Result:
    """5,000 × 64 KiB."""
    count = bench.scale.small_files
    return _beside_rivals(bench, "small", f"{count:,} × 64 KiB", count, 64 * KIB)


def rtt(bench: Bench) -> Result:
    """5,000 × 64 KiB with 30 ms round trips."""
    count = bench.scale.small_files
    title = f"{count:,} × 64 KiB, {RTT_MS:.0f} ms round trips"
    return _beside_rivals(bench, "rtt", title, count, 64 * KIB, rtt_ms=RTT_MS, chosen=("s5cmd",))


def release(bench: Bench) -> Result:
    """5,000 × 64 KiB until the last local copy is deleted."""
    count, size = bench.scale.small_files, 64 * KIB
    result = Result()
    with running_sink() as sink:

        def run() -> Run:
            files = make_files(bench.new("released"), count, size)
            uploader = uploader_for(sink, bench.new("daemon"), RELEASE_AFTER_SECONDS="0")
            return _counted(sink, lambda: upload_arriving(uploader, files, until=RELEASED, keeps=False))

        runs = interleaved({"daemon, with release": run}, bench.scale.repeats)
    title = f"{count:,} × 64 KiB, until the last local copy is deleted"
    _report(result, title, runs, count, size)
    result.figures["release.files"] = spread(_files_a_second(runs["daemon, with release"], count)).median
    return result


def sink_alone(bench: Bench) -> Result:
    """How much the sink can take: its CPU for what s5cmd sends."""
    result = Result()
    table = Table("What one of the sink's two threads can take", ("sent by s5cmd", "over", "at most"))
    result.tables.append(table)
    scale, place = bench.scale, bench.made("rivals")
    for count, size, unit in ((scale.small_files, 64 * KIB, "files/s"), (scale.large_files, scale.large_size, "MB/s")):
        files = make_files(bench.new("files"), count, size)
        for scheme in ("TLS", "plain HTTP"):
            with running_sink(tls=scheme == "TLS") as sink:
                run = _counted(sink, partial(rivals.copy, "s5cmd", sink, files, place))
            most = (count if unit == "files/s" else files.bytes / 1e6) / run.sink_cpu
            work = f"{count:,} × {_size(size)}"
            table.rows.append((work, scheme, f"{most:,.0f} {unit}"))
            result.raw[f"{work}, {scheme}"] = asdict(run)
        files.remove()
    return result


def _beside_rivals(
    bench: Bench,
    part: str,
    title: str,
    count: int,
    size: int,
    *,
    rtt_ms: float = 0,
    chosen: Sequence[str] = rivals.RIVALS,
) -> Result:
    files = make_files(bench.new("files"), count, size)
    place = bench.made("rivals")
    result = Result()
    with running_sink() as sink:
        sink.set_line(rtt_ms=rtt_ms)
        clients = _clients(bench, sink, files, place, chosen)
        runs = interleaved(clients, bench.scale.repeats)
    files.remove()
    _report(result, title, runs, count, size)
    rates = {name: _files_a_second(found, count) for name, found in runs.items()}
    for ours, key in ((DAEMON, "daemon"), (ONCE, "once")):
        for rival in chosen:
            result.figures[f"{part}.{key}/{rival}"] = spread(ratios(rates[ours], rates[rival])).median
            cpu = ratios([run.cost.cpu for run in runs[ours]], [run.cost.cpu for run in runs[rival]])
            result.figures[f"{part}.{key}.cpu/{rival}"] = spread(cpu).median
        result.figures[f"{part}.{key}.files"] = spread(rates[ours]).median
        result.figures[f"{part}.{key}.cpu_ms"] = spread([run.cost.cpu / count * 1000 for run in runs[ours]]).median
        result.figures[f"{part}.{key}.rss"] = max(run.cost.peak_rss for run in runs[ours]) / MIB
    return result


def _clients(
    bench: Bench, sink: Sink, files: FileSet, place: str, chosen: Sequence[str]
) -> Mapping[str, Callable[[], Run]]:
    def daemon() -> Run:
        uploader = uploader_for(sink, bench.new("daemon"))
        return _counted(sink, lambda: upload_arriving(uploader, files))

    def once() -> Run:
        uploader = uploader_for(sink, bench.new("once"))
        return _counted(sink, lambda: upload_present(uploader, files))

    def rival(name: str) -> Callable[[], Run]:
        return lambda: _counted(sink, lambda: rivals.copy(name, sink, files, place))

    return {DAEMON: daemon, ONCE: once, **{name: rival(name) for name in chosen}}


def _counted(sink: Sink, action: Callable[[], Cost]) -> Run:
    sink.reset()
    before = sink.stats()
    cost = action()
    after = sink.stats()
    return Run(
        cost,
        after["cpu_seconds"] - before["cpu_seconds"],
        sum(after["requests"].values()),
        after["connections"] - before["connections"] - 1,
    )


def _report(result: Result, title: str, runs: Mapping[str, Sequence[Run]], count: int, size: int) -> None:
    """Add the table of a comparison; ratios are those of the first client to each other one."""
    is_large = size >= 16 * MIB
    first = next(iter(runs))
    result.tables.append(
        table := Table(
            title,
            (
                "client",
                "MB/s" if is_large else "files/s",
                f"{first.partition(',')[0]} is … times as fast",
                "CPU s/GiB" if is_large else "CPU ms a file",
                "its CPU to this one's",
                "peak MiB",
                "requests",
                "connections",
                "CPU of the sink, share of one processor",
            ),
        )
    )
    for name, found in runs.items():
        rates = _files_a_second(found, count)
        cpu = [run.cost.cpu for run in found]
        per_unit = [seconds / (count * size / 2**30) if is_large else seconds / count * 1000 for seconds in cpu]
        table.rows.append(
            (
                name,
                spread([rate * size / 1e6 if is_large else rate for rate in rates]).text(0),
                "" if name == first else spread(ratios(_files_a_second(runs[first], count), rates)).text(2),
                spread(per_unit).text(2),
                "" if name == first else spread(ratios([run.cost.cpu for run in runs[first]], cpu)).text(2),
                f"{max(run.cost.peak_rss for run in found) / MIB:.0f}",
                f"{spread([run.requests for run in found]).median:,.0f}",
                f"{spread([run.connections for run in found]).median:,.0f}",
                spread([run.sink_cpu / run.cost.wall for run in found]).text(2),
            )
        )
    result.raw[title] = {name: [asdict(run) for run in found] for name, found in runs.items()}


def _files_a_second(runs: Sequence[Run], count: int) -> list[float]:
    return [count / run.cost.wall for run in runs]


def _size(size: int) -> str:
    unit, name = next((unit, name) for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= unit)
    return f"{size // unit} {name}"
