"""The tables of the documents that are made from the code; ``python -m`` this module writes them.

What an event means stands in its document alone, where it is kept; the rest of its row is found in the code.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from tests.support.source_tree import PACKAGES, ROOT, modules, parsed
from watcher.settings.model import Settings
from watcher.settings.report import format_default
from watcher.telemetry.metrics import CATALOG_GAUGES, DIRECTORY_GAUGES, LedgerGauges, Metrics

SETTINGS, EVENTS, METRICS = (Path(ROOT, "docs", name) for name in ("settings.md", "events.md", "metrics.md"))
DERIVED = {"COMPLETED_DIR": "required"}
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
OF_LIBRARIES = ("library_message", "any", "`library`, `message`")
"""What `watcher.telemetry.logging` makes of the lines of libraries."""
UNSAID = frozenset({"exc_info"})
"""Arguments of a log call that are no fields."""


def settings_table(_: str = "") -> Iterator[tuple[str, ...]]:
    """A line a setting, in the order of their declarations."""
    yield "name", "default", "meaning"
    for field, info in Settings.model_fields.items():
        name = field.upper()
        default = DERIVED.get(name) or (f"`{shown}`" if (shown := format_default(field)) else "")
        yield f"`{name}`", default, info.description or ""


def metrics_table(_: str = "") -> Iterator[tuple[str, ...]]:
    """A line a metric, those of the ledger first."""
    yield "metric", "type", "meaning"
    for family in all_ledger_gauges().collect():
        yield _metric(family.name, family.type, family._labelnames, family.documentation)
    for metric in Metrics().registry._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            kind = str(metric._type)
            suffix = "_total" if kind == "counter" else ""
            yield _metric(metric._name + suffix, kind, metric._labelnames, metric._documentation)
    meaning = "CPU seconds, memory, open files and start time of the process, as Prometheus names them."
    yield "`process_*`", "gauge, counter", meaning


def all_ledger_gauges() -> LedgerGauges:
    """Gauges of which every one has a value."""
    return LedgerGauges(
        counts=dict,
        settling=int,
        paused=dict,
        catalog=lambda: dict.fromkeys(CATALOG_GAUGES, 0),
        directories=lambda: dict.fromkeys(DIRECTORY_GAUGES, 0),
        line=lambda: 64_000.0,
    )


def _metric(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> tuple[str, str, str]:
    return f"`{name}{{{','.join(labels)}}}`" if labels else f"`{name}`", kind, meaning


class LogCall(NamedTuple):
    """A call that logs one of `events`; `fields` are those that it names, and `…` for others."""

    place: str
    events: tuple[str, ...]
    levels: frozenset[str]
    fields: tuple[str, ...]


def log_calls() -> Iterator[LogCall]:
    """The calls that log. Raises ValueError for an event that is not named by a constant."""
    for module in modules(*PACKAGES):
        loggers = _loggers_of(module)
        for call in ast.walk(parsed(module)):
            if isinstance(call, ast.Call) and (levels := _levels_of(call.func, loggers)):
                place = f"{module}, line {call.lineno}"
                if not call.args:
                    raise ValueError(f"{place}: a log call without an event")
                fields = [keyword.arg or _unpacked(keyword.value) for keyword in call.keywords]
                named = tuple(field for field in fields if field and field not in UNSAID)
                yield LogCall(place, tuple(_possible_values(call.args[0], place)), levels, named)


def events_table(text: str) -> Iterator[tuple[str, ...]]:
    """A line an event, by name; its meaning is that of the document's text."""
    meanings = {cells[0]: cells[-1] for cells in cells_of(text)}
    yield "event", "level", "fields", "meaning"
    levels, fields = defaultdict[str, set[str]](set), defaultdict[str, dict[str, None]](dict)
    for call in log_calls():
        for event in call.events:
            levels[event] |= call.levels
            fields[event] |= dict.fromkeys(call.fields)
    rows = [
        (
            event,
            ", ".join(level for level in LEVELS if level in levels[event]),
            ", ".join(f"`{field}`" for field in sorted(fields[event], key=lambda field: field == "…")),
        )
        for event in levels
    ]
    for event, level, named in sorted([*rows, OF_LIBRARIES]):
        yield f"`{event}`", level, named.replace("`…`", "…"), meanings.get(f"`{event}`", "")


def cells_of(text: str) -> Iterator[list[str]]:
    """The cells of the rows of the tables in a text that begin with a name."""
    for row in re.findall(r"^\| (`.*) \|$", text, flags=re.MULTILINE):
        yield re.split(r"(?<!\\) \| ", row)


def _loggers_of(module: str) -> Mapping[str, frozenset[str]]:
    """The names of structlog's loggers in a module, with no levels, and of their methods, with theirs."""
    names = dict.fromkeys(("log", "_log", "logger"), frozenset[str]())
    methods: dict[str, frozenset[str]] = {}
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Assign):
            levels = {level for part in ast.walk(node.value) for level in _levels_of(part, names)}
            for target in node.targets:
                if levels and isinstance(target, ast.Name):
                    methods[target.id] = frozenset(levels)
    return names | methods


def _levels_of(function: ast.AST, loggers: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The levels at which a call of this logs; none if it does not log."""
    match function:
        case ast.Attribute(value=ast.Name(id=name), attr=level) if name in loggers and level in LEVELS:
            return frozenset({"error" if level == "exception" else level})
        case ast.Name(id=name):
            return loggers.get(name, frozenset())
    return frozenset()


def _unpacked(value: ast.expr) -> str:
    """`…` for fields that a call does not name, other than those of every line about an upload."""
    return "" if ast.unparse(value).startswith("row_context(") else "…"


def _possible_values(node: ast.expr, place: str) -> list[str]:
    match node:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp():
            return [*_possible_values(node.body, place), *_possible_values(node.orelse, place)]
    raise ValueError(f"{place}: an event is named by a constant, so that it can be found and documented")


TABLES: Mapping[Path, Callable[[str], Iterator[tuple[str, ...]]]] = {
    SETTINGS: settings_table,
    EVENTS: events_table,
    METRICS: metrics_table,
}
"""What makes the table of each document, from its present text."""


def marks(document: Path) -> tuple[str, str]:
    """The lines between which a document's table stands."""
    return f"<!-- {document.stem}: begin -->\n", f"<!-- {document.stem}: end -->"


def with_table(document: Path, text: str) -> str:
    """The text of the document with its table between its marks."""
    begin, end = marks(document)
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    heading, *rows = TABLES[document](text)
    lines = [heading, ("---",) * len(heading), *rows]
    table = "".join(f"| {' | '.join(_escaped(cell) for cell in line)} |\n" for line in lines)
    return f"{before}{begin}{table}{end}{after}"


def _escaped(cell: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", cell)


if __name__ == "__main__":
    for document in TABLES:
        document.write_text(with_table(document, document.read_text(encoding="utf-8")), encoding="utf-8")
