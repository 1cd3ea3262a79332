"""What the benchmarks compute of their measurements, and how they report it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from threading import Thread
from xml.etree import ElementTree as ET

import pytest

from benchmarks import report, svg
from benchmarks.__main__ import PARTS
from benchmarks.files import make_files
from benchmarks.growth import expected, grow
from benchmarks.machine import busy_share
from benchmarks.pairs import exponent, interleaved, percentile, ratios, spread
from benchmarks.process import cpu_seconds, measured, tree
from benchmarks.results import Result, Table, load, save
from benchmarks.scale import MIB, QUICK, Bench
from watcher import containers


def test_every_round_begins_with_another_client() -> None:
    """No client always follows the same other one, and each runs once a round."""
    order: list[str] = []

    def client(name: str) -> int:
        order.append(name)
        return len(order)

    figures = interleaved({name: lambda name=name: client(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert figures == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_ratio_is_that_of_one_round() -> None:
    """What slows a whole round down does not change its ratio."""
    assert ratios([10, 1], [5, 0.5]) == [2, 2]


def test_a_spread_shows_the_range_of_several_figures() -> None:
    """One figure has no range."""
    assert spread([3.0, 1.0, 2.0]).text() == "2.0 (1.0\N{EN DASH}3.0)"
    assert spread([3.0]).text(0) == "3"


@pytest.mark.parametrize(("share", "figure"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_figures(share: float, figure: int) -> None:
    """By the nearest rank, in any order."""
    assert percentile(list(range(100, 0, -1)), share) == figure


def test_the_exponent_is_that_of_a_power() -> None:
    """A factor does not matter; one point has no exponent."""
    assert exponent([(x, 3 * x**1.5) for x in (1, 10, 100)]) == pytest.approx(1.5)
    assert exponent([(5, 1), (5, 2)]) is None


def test_a_series_ends_before_a_point_that_takes_too_long(tmp_path: os.PathLike[str]) -> None:
    """The series says where it ends; no time makes it end before its first point."""
    bench = Bench(replace(QUICK, point_seconds=0.0), os.fspath(tmp_path))
    series = grow(bench, (1, 2), lambda x: {"seconds": x}, str)
    assert series.points == [(1, {"seconds": 1})]
    assert series.stopped.startswith("Not measured from 2 on")


def test_the_time_of_a_point_is_that_of_the_last_two_in_a_straight_line() -> None:
    """A part that does not grow is not multiplied, and one that shrinks is not expected to shrink further."""
    assert expected([], 1) == 0
    assert expected([(1, 5)], 100) == 5
    assert expected([(1, 5), (10, 14)], 100) == 104
    assert expected([(1, 5), (10, 4)], 100) == 4


def test_a_command_costs_what_its_children_cost(tmp_path: os.PathLike[str]) -> None:
    """CPU and memory of a child of the command count; the memory of the test itself does not."""
    child = f"x = b'x' * {64 * MIB}; sum(range(3_000_000)); import time; time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    log = os.path.join(tmp_path, "log")
    cost = measured([sys.executable, "-c", parent], dict(os.environ), log=log, cwd=os.fspath(tmp_path))
    assert cost.cpu > 0.03
    assert 64 * MIB < cost.peak_rss < 200 * MIB
    assert cost.wall > 0.3


def test_the_cpu_of_a_process_is_that_of_all_its_threads() -> None:
    """A thread that has ended counts, and what other processes do does not."""
    before, ours = cpu_seconds(os.getpid()), time.process_time()
    thread = Thread(target=lambda: sum(range(2_000_000)))
    thread.start()
    thread.join()
    assert cpu_seconds(os.getpid()) - before == pytest.approx(time.process_time() - ours, abs=0.01)
    assert cpu_seconds(os.getpid()) - before > 0.005


def test_a_tree_has_children_of_children() -> None:
    """All descendants are found while they live."""
    script = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        try:
            assert {parent.pid, grandchild} <= set(tree(os.getpid()))
        finally:
            os.kill(grandchild, 9)


def test_the_busy_share_is_a_share() -> None:
    """However busy the machine is."""
    assert 0 <= busy_share(0.05) <= 1


@pytest.mark.parametrize("size", [64, 1000, 3 * MIB])
def test_the_files_are_complete_and_differ(tmp_path: os.PathLike[str], size: int) -> None:
    """The daemon takes each for a finished video of its own."""
    files = make_files(os.path.join(tmp_path, "files"), 5, size)
    contents = set()
    for path in files.paths():
        with open(os.path.join(files.root, path), "rb") as file:
            assert containers.inspect(file.fileno(), size, ".mp4") is None
            file.seek(0)
            contents.add(file.read())
    assert {len(content) for content in contents} == {size}
    assert len(contents) == 5
    into = os.path.join(tmp_path, "into")
    files.move_into(into)
    assert os.path.exists(os.path.join(into, next(files.paths())))
    files.move_back(into)
    assert os.listdir(into) == []


def test_results_are_kept(tmp_path: os.PathLike[str]) -> None:
    """What was saved of a part is loaded again; a part that never ran has nothing."""
    directory = os.fspath(tmp_path)
    result = Result([Table("a", ("x",), [("1",)])], {"a": 1.0}, {"raw": [1]}, {"a.svg": "<svg/>"})
    save("part", result, {"date": "today"}, directory)
    kept = load("part", directory)
    assert kept == (Result([Table("a", ["x"], [["1"]])], {"a": 1.0}, {"raw": [1]}), {"date": "today"})
    assert os.path.exists(os.path.join(directory, "a.svg"))
    assert load("other", directory) is None


def test_a_table_is_written_between_its_markers() -> None:
    """What is outside of the markers stays, and a page without them is an error."""
    page = "before\n<!-- x: written by make bench -->\nold\n<!-- end of x -->\nafter\n"
    written = report.between_markers(page, "x", "new \\1")
    assert written == "before\n<!-- x: written by make bench -->\n\nnew \\1\n\n<!-- end of x -->\nafter\n"
    with pytest.raises(ValueError, match="markers of y"):
        report.between_markers(page, "y", "")


def test_a_target_is_met_or_missed() -> None:
    """Each target is compared in its own direction; what was not measured is neither met nor missed."""
    least = next(target for target in report.TARGETS if target.is_least)
    most = next(target for target in report.TARGETS if not target.is_least)
    result = Result(figures={least.figure: least.limit, most.figure: most.limit * 2})
    rows = report.target_table([(result, {"busy_before": 0.0, "is_full": True})]).rows
    verdicts = {(row[0], row[1]): row[4] for row in rows}
    assert verdicts[least.work, least.measure] == "met"
    assert verdicts[most.work, most.measure] == "**missed**"
    assert list(verdicts.values()).count("") == len(rows) - 2


def test_a_figure_of_a_busy_machine_or_of_less_work_says_so() -> None:
    """Such a figure is neither quoted nor compared without its reason."""
    target = report.TARGETS[0]
    about = {"busy_before": 0.5, "is_full": False}
    rows = report.target_table([(Result(figures={target.figure: target.limit}), about)]).rows
    assert rows[0][4] == "met (busy machine, less work)"


def test_the_page_has_the_markers_of_every_part() -> None:
    """`make bench` finds the place of every part and of the targets in docs/performance.md."""
    with open(report.PAGE, encoding="utf-8") as file:
        page = file.read()
    for part in ("targets", *PARTS):
        report.between_markers(page, part, "")


def test_a_plot_is_an_svg_with_every_series() -> None:
    """A plot is well-formed, names each series with its exponent, and has a point for each figure."""
    drawn = svg.plot("a & b", "x", "y", {"time": [(1, 0.5), (100, 50)], "CPU": [(1, 1), (100, 10)]}, str)
    root = ET.fromstring(drawn)
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert {"a & b", "time: exponent 1.00", "CPU: exponent 0.50"} <= set(texts)
    assert sum(element.tag.endswith("circle") for element in root.iter()) == 4
