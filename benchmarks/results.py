"""What a part of the benchmarks has found: tables and figures, kept as JSON until they are reported."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

DIRECTORY: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


@dataclass
class Table:
    """A table with a title; cells are text."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plot: str = ""
    """The file name of a plot beside the results."""


@dataclass
class Result:
    """Tables to print, figures for the targets by their names, and every single measurement."""

    tables: list[Table] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)
    """SVG by file name; kept as files of their own."""


def save(part: str, result: Result, about: Mapping[str, Any], directory: str = DIRECTORY) -> None:
    """Keep the result of a part, with what is known about its machine."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, f"{part}.json"), "w", encoding="utf-8") as file:
        kept = {name: value for name, value in asdict(result).items() if name != "plots"}
        json.dump({"about": dict(about), **kept}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    for name, drawn in result.plots.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(drawn)


def load(part: str, directory: str = DIRECTORY) -> tuple[Result, dict[str, Any]] | None:
    """The result of a part as it was kept last, and what is known about it; None if there is none."""
    try:
        with open(os.path.join(directory, f"{part}.json"), encoding="utf-8") as file:
            kept = json.load(file)
    except FileNotFoundError:
        return None
    tables = [Table(**table) for table in kept["tables"]]
    return Result(tables, kept["figures"], kept["raw"]), kept["about"]
