"""How commands print; file names in their output cannot control a terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated, Any
from unicodedata import combining, east_asian_width

import typer

from watcher.telemetry import printable, redact
from watcher.telemetry.formatting import bounded
from watcher.telemetry.journal import is_journal, prioritized

MAX_ERROR = 3000
"""Characters of an error: a name that it repeats can have many more."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option of every command that can print JSON."""


def echo(text: str) -> None:
    """Print a line, with control characters escaped."""
    print(printable(text))


def echo_error(text: str) -> None:
    """Print a line to standard error, with control characters escaped, without secrets, and bounded.

    In systemd's journal it is an error.
    """
    line = bounded(printable(redact(text)), MAX_ERROR)
    print(prioritized(line, logging.ERROR) if is_journal() else line, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as one JSON document in ASCII."""
    print(json.dumps(value, indent=2))


def print_json_array(values: Iterable[Any]) -> None:
    """Print values as one JSON array, one at a time, so that memory does not grow with their number."""
    separator = "["
    for value in values:
        print(separator, json.dumps(value), sep="\n", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; cells are folded only to fit a terminal."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(_width, column)) for column in zip(headings, *cells, strict=True)]
        for row in (headings, *cells):
            padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
            print("  ".join(padded))
        return
    # Imported here, because it takes longer than most commands.
    rich_table, rich_text = import_module("rich.table"), import_module("rich.text")
    table = rich_table.Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*map(rich_text.Text, row))
    import_module("rich.console").Console(file=sys.stdout).print(table)


def _width(text: str) -> int:
    """The cells of a terminal that a text takes (UAX #11; a combining character takes none)."""
    return sum(2 if east_asian_width(character) in "WF" else not combining(character) for character in text)
