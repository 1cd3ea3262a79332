"""What stands in the settings files, or in the environment, and probably does not mean what it was meant to.

The files are read by python-dotenv. systemd reads an `EnvironmentFile=` by other rules (systemd.exec(5)): a
line that it understands in another way is named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream

from watcher.settings.model import Settings

LIKENESS = 0.88
"""How alike two names are, as `difflib` counts, if one is taken for a misspelling of the other."""

_KNOWN = frozenset(name.upper() for name in Settings.model_fields)
_OF_OTHERS = re.compile("AWS_ENDPOINT_URL_(?!S3$)")
"""Names that are alike and that boto3 reads."""
_DECODED_ESCAPE = re.compile(r"\\[abfnrtv']")


class Doubt(NamedTuple):
    """A setting that may not be what it looks like: its name, where it stands, and why, as a sentence."""

    name: str
    place: str
    """`FILE:LINE`, or "environment"."""
    reason: str

    @property
    def sentence(self) -> str:
        """All of it."""
        return f"{self.name or 'A line'} ({self.place}): {self.reason}"


def doubtful_settings(*env_files: str) -> list[Doubt]:
    """Return what is doubtful in the environment and in settings files. Files that do not exist are skipped.

    Values are never repeated. Raises OSError and UnicodeDecodeError.
    """
    found = [*_of_names(os.environ, "environment")]
    for env_file in env_files:
        if os.path.exists(env_file):
            with open(env_file, encoding="utf-8") as file:
                bindings = list(parse_stream(file))
            for binding in bindings:
                found += _of_line(binding, env_file)
    return found


def _of_line(binding: Binding, env_file: str) -> Iterator[Doubt]:
    lines = binding.original.string
    blank = len(lines) - len(lines.lstrip("\r\n"))
    place = f"{env_file}:{binding.original.line + lines[:blank].count(chr(10))}"
    if binding.error:
        yield Doubt("", place, "The line is not understood, and ignored: write NAME=value.")
    elif binding.key in _KNOWN:
        for reason in _readings(lines.strip(), binding.value):
            yield Doubt(binding.key, place, reason)
    elif binding.key is not None:
        yield from _of_names([binding.key], place)


def _of_names(names: Iterable[str], place: str) -> Iterator[Doubt]:
    for name in names:
        if name in _KNOWN or _OF_OTHERS.match(name):
            continue
        if alike := get_close_matches(name.upper(), _KNOWN, n=1, cutoff=LIKENESS):
            yield Doubt(name, place, f"There is no setting {name}; the one that is most alike is {alike[0]}.")


def _readings(line: str, value: str | None) -> Iterator[str]:
    """Why a line of one of the settings may be read in another way than it is here."""
    if value is None:
        yield "It has no value, and is not set: write NAME=value."
        return
    written = line.partition("=")[2].strip()
    quote = written[:1] if written[:1] in {"'", '"'} else ""
    if line.startswith("export"):
        yield "systemd ignores a line that begins with export: leave the word out."
    if "${" in written:
        yield "The value of the variable after ${ is put in here; systemd leaves it as it is written."
    if not quote and re.search(r"\s#", written):
        yield "The value ends before the #; systemd takes the rest of the line, too: use quotes."
    if not quote and "\\" in written:
        yield "A backslash is kept here; systemd removes it: put the value into double quotes, and double it."
    if quote == '"' and _DECODED_ESCAPE.search(written):
        yield "The backslash makes another character here; systemd keeps it."
    if quote == "'" and "\\" in written:
        yield "A backslash before another one or a quote is removed here; systemd keeps it."
