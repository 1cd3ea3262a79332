"""How commands print; file names in their output cannot control a terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from watcher.telemetry import printable, redact
from watcher.telemetry.journal import is_journal, prioritized

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option of every command that can print JSON."""


def echo(text: str) -> None:
    """Print a line, with control characters escaped."""
    print(printable(text))


def echo_error(text: str) -> None:
    """Print a line to standard error, with control characters escaped and without secrets.

    In systemd's journal it is an error.
    """
    line = printable(redact(text))
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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)
