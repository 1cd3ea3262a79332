"""Our daemon and `run --once` beside other programs, on the same files and the same sink."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import psycopg

from benchmarks import rivals, toolbox
from benchmarks.files import FileSet, make_files, path_of
from benchmarks.ledger_costs import bytes_a_row
from benchmarks.pairs import interleaved, ratios, spread
from benchmarks.process import Cost
from benchmarks.results import Result, Table
from benchmarks.scale import KIB, MIB, Bench, size_text
from benchmarks.sink_server import Sink, running_sink
from benchmarks.uploader import (
    BUCKET,
    RELEASED,
    Uploader,
    require_received,
    upload_arriving,
    upload_present,
    uploader_for,
)
from tests.compressor.database import create_schema
from tests.conformance.servers import running_server
from tests.conformance.tool_venv import ServerUnavailableError
from tests.support.postgres import PostgresServer, PostgresUnavailableError, running_postgres

RTT_MS: Final = 30.0
CONCURRENCIES: Final = (1, 4, 16, 64)
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
    title = f"{scale.large_files} × {size_text(scale.large_size)}"
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
    """5,000 × 64 KiB until the last local copy is deleted, and the size of the ledger then."""
    count, size = bench.scale.small_files, 64 * KIB
    result = Result()
    sizes = []
    with running_sink() as sink:

        def run() -> Run:
            files = make_files(bench.new("released"), count, size)
            uploader = uploader_for(sink, bench.new("daemon"), RELEASE_AFTER_SECONDS="0")
            found = _counted(
                sink, files, lambda: upload_arriving(uploader, files, until=RELEASED, keeps=False)
            )
            sizes.append(bytes_a_row(uploader.ledger_path, count))
            return found

        runs = interleaved({"daemon, with release": run}, bench.scale.repeats)
    title = f"{count:,} × 64 KiB, until the last local copy is deleted"
    _report(result, title, runs, count, size)
    result.tables[0].notes.append(
        f"A released row takes {spread(sizes).median:.0f} bytes of the ledger, events included, as a receipt."
    )
    result.figures["release.files"] = spread(_files_a_second(runs["daemon, with release"], count)).median
    result.figures["row.bytes"] = spread(sizes).median
    return result


def memory(bench: Bench) -> Result:
    """The daemon's peak of memory with many files of several parts at once, by UPLOAD_CONCURRENCY."""
    count, size = 16 * bench.scale.large_files, bench.scale.large_size // 16
    files = make_files(bench.new("files"), count, size)
    result = Result()
    table = Table(
        f"{count} × {size_text(size)}, by UPLOAD_CONCURRENCY",
        ("UPLOAD_CONCURRENCY", "MB/s", "CPU s/GiB", "peak MiB"),
    )
    result.tables.append(table)
    with running_sink() as sink:
        for concurrency in CONCURRENCIES:
            uploader = uploader_for(sink, bench.new("daemon"), UPLOAD_CONCURRENCY=str(concurrency))
            cost = upload_arriving(uploader, files)
            require_received(sink, files)
            speed, cpu = files.bytes / 1e6 / cost.wall, cost.cpu / (files.bytes / 2**30)
            table.rows.append((str(concurrency), f"{speed:.0f}", f"{cpu:.2f}", f"{cost.peak_rss / MIB:.0f}"))
            result.raw[str(concurrency)] = asdict(cost)
    files.remove()
    result.figures["memory.rss"] = max(cost["peak_rss"] for cost in result.raw.values()) / MIB
    return result


def postgres(bench: Bench) -> Result:
    """5,000 × 64 KiB with the ledger on PostgreSQL and the compressor's rows ready, beside SQLite."""
    count, size = bench.scale.small_files, 64 * KIB
    files = make_files(bench.new("files"), count, size)
    result = Result()
    with running_sink() as sink, _postgres_server() as server:

        def on_sqlite() -> Run:
            uploader = uploader_for(sink, bench.new("daemon"))
            return _counted(sink, files, lambda: upload_arriving(uploader, files))

        def on_postgresql() -> Run:
            with server.fresh_database() as url:
                _add_ready_rows(url, count)
                uploader = uploader_for(sink, bench.new("daemon"), DATABASE_URL=url, CATALOG="compressor")
                return _counted(sink, files, lambda: upload_arriving(uploader, files))

        clients = {"PostgreSQL, `CATALOG=compressor`": on_postgresql, "SQLite": on_sqlite}
        runs = interleaved(clients, bench.scale.repeats)
    files.remove()
    _report(result, f"{count:,} × 64 KiB, PostgreSQL with ready rows beside SQLite", runs, count, size)
    server_rates, file_rates = (_files_a_second(found, count) for found in runs.values())
    result.figures["postgres/sqlite"] = spread(ratios(server_rates, file_rates)).median
    return result


@contextmanager
def _postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server. Raises `UnavailableError`."""
    try:
        with running_postgres() as started:
            yield started
    except PostgresUnavailableError as error:
        raise toolbox.UnavailableError(str(error)) from error


def _add_ready_rows(url: str, count: int) -> None:
    """Make the compressor's tables, with a ready row for each file of a set."""
    create_schema(url)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        videos = sorted({path_of(number).partition("/")[0] for number in range(count)})
        cursor.executemany(
            "INSERT INTO videos (id, status) VALUES (%s, 'processing')", [[video] for video in videos]
        )
        with cursor.copy("COPY video_qualities (video_id, quality, url, status) FROM STDIN") as copying:
            for number in range(count):
                path = path_of(number)
                quality = path.rpartition("_")[2].removesuffix(".mp4")
                copying.write_row(
                    (path.partition("/")[0], quality, f"https://example.com/videos/{path}", "ready")
                )


def localstack(bench: Bench) -> Result:
    """Small and large files once against LocalStack, a server that was not made for benchmarks."""
    scale, result = bench.scale, Result()
    table = Table("LocalStack, plain HTTP, one round", ("work", "client", "files/s", "MB/s", "CPU s"))
    result.tables.append(table)
    try:
        with running_server("localstack") as endpoint:
            request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
            server = Sink(endpoint, "")
            for count, size in (
                (scale.small_files // 25, 64 * KIB),
                (scale.large_files, scale.large_size // 8),
            ):
                files = make_files(bench.new("files"), count, size)
                for client in ("daemon", *rivals.RIVALS):
                    if client == "daemon":
                        cost = upload_arriving(_for_localstack(bench, endpoint, size), files)
                    else:
                        cost = rivals.copy(client, server, files, bench.made("rivals"))
                    rate, speed = count / cost.wall, files.bytes / 1e6 / cost.wall
                    work = f"{count:,} × {size_text(size)}"
                    table.rows.append((work, client, f"{rate:.1f}", f"{speed:.0f}", f"{cost.cpu:.1f}"))
                    result.raw[f"{work}, {client}"] = asdict(cost)
                files.remove()
    except ServerUnavailableError as error:
        raise toolbox.UnavailableError(str(error)) from error
    return result


def sink_alone(bench: Bench) -> Result:
    """How much the sink can take: its CPU for what s5cmd sends."""
    result = Result()
    table = Table("What one of the sink's two threads can take", ("sent by s5cmd", "over", "at most"))
    result.tables.append(table)
    scale, place = bench.scale, bench.made("rivals")
    for count, size, unit in (
        (scale.small_files, 64 * KIB, "files/s"),
        (scale.large_files, scale.large_size, "MB/s"),
    ):
        files = make_files(bench.new("files"), count, size)
        for scheme in ("TLS", "plain HTTP"):
            with running_sink(tls=scheme == "TLS") as sink:
                run = _counted(sink, files, partial(rivals.copy, "s5cmd", sink, files, place))
            most = (count if unit == "files/s" else files.bytes / 1e6) / run.sink_cpu
            work = f"{count:,} × {size_text(size)}"
            table.rows.append((work, scheme, f"{most:,.0f} {unit}"))
            result.raw[f"{work}, {scheme}"] = asdict(run)
        files.remove()
    return result


def _for_localstack(bench: Bench, endpoint: str, size: int) -> Uploader:
    """An uploader whose keys no other set of files has: this server forgets nothing."""
    directory = bench.made("daemon")
    return Uploader(directory, endpoint, settings={"AWS_S3_VIDEOS_PREFIX": f"of-{size}"})


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
        result.figures[f"{part}.{key}.cpu_ms"] = spread(
            [run.cost.cpu / count * 1000 for run in runs[ours]]
        ).median
        result.figures[f"{part}.{key}.rss"] = max(run.cost.peak_rss for run in runs[ours]) / MIB
    return result


def _clients(
    bench: Bench, sink: Sink, files: FileSet, place: str, chosen: Sequence[str]
) -> Mapping[str, Callable[[], Run]]:
    def daemon() -> Run:
        uploader = uploader_for(sink, bench.new("daemon"))
        return _counted(sink, files, lambda: upload_arriving(uploader, files))

    def once() -> Run:
        uploader = uploader_for(sink, bench.new("once"))
        return _counted(sink, files, lambda: upload_present(uploader, files))

    def rival(name: str) -> Callable[[], Run]:
        return lambda: _counted(sink, files, lambda: rivals.copy(name, sink, files, place))

    return {DAEMON: daemon, ONCE: once, **{name: rival(name) for name in chosen}}


def _counted(sink: Sink, files: FileSet, action: Callable[[], Cost]) -> Run:
    sink.reset()
    before = sink.stats()
    cost = action()
    require_received(sink, files)
    after = sink.stats()
    return Run(
        cost,
        after["cpu_seconds"] - before["cpu_seconds"],
        sum(after["requests"].values()),
        after["connections"] - before["connections"] - 2,
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
                f"speed: {first.partition(',')[0]} ÷ this",
                "CPU s/GiB" if is_large else "CPU ms a file",
                f"CPU: {first.partition(',')[0]} ÷ this",
                "peak MiB",
                "requests",
                "connections",
                "CPU of the sink, of one processor",
            ),
        )
    )
    for name, found in runs.items():
        rates = _files_a_second(found, count)
        cpu = [run.cost.cpu for run in found]
        per_unit = [
            seconds / (count * size / 2**30) if is_large else seconds / count * 1000 for seconds in cpu
        ]
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
