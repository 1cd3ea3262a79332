"""How much the benchmarks do, and where."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field, replace
from typing import Final

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30


@dataclass(frozen=True)
class Scale:
    """The sizes of all work. Times are in seconds, sizes in bytes."""

    repeats: int = 5
    large_files: int = 4
    large_size: int = GIB
    medium_files: int = 2000
    small_files: int = 5000
    latency_files: int = 200
    shell_files: int = 20
    idle_directories: int = 10_000
    idle_settling: float = 20.0
    idle_seconds: float = 60.0
    released_rows: int = 200_000
    rows: int = 1_000_000
    claims: int = 100
    commands: int = 15
    point_seconds: float = 60.0
    """A growth series ends before the first point that is expected to take longer."""
    growth_seconds: float = 240.0
    """A growth series ends when it has taken this long."""

    def of_files(self, share: float) -> Scale:
        """The same with a share of the files, but for the large ones."""
        few = {
            name: max(round(getattr(self, name) * share), 1)
            for name in ("medium_files", "small_files", "latency_files", "shell_files")
        }
        return replace(self, **few)


FULL: Final = Scale()
QUICK: Final = Scale(
    repeats=1,
    large_files=2,
    large_size=64 * MIB,
    medium_files=40,
    small_files=100,
    latency_files=10,
    shell_files=2,
    idle_directories=200,
    idle_settling=1.0,
    idle_seconds=2.0,
    released_rows=20_000,
    rows=20_000,
    claims=10,
    commands=2,
    point_seconds=3.0,
    growth_seconds=4.0,
)


@dataclass(frozen=True)
class Bench:
    """What every part is given: the scale, and a directory that is deleted at the end."""

    scale: Scale
    directory: str
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new(self, name: str) -> str:
        """The path of a directory that does not exist yet."""
        return os.path.join(self.directory, f"{name}-{next(self._numbers)}")

    def made(self, name: str) -> str:
        """The path of a new directory."""
        path = self.new(name)
        os.makedirs(path)
        return path


def size_text(size: float) -> str:
    """A size of at least a KiB in the largest unit that fits."""
    unit, name = next(
        (unit, name) for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= unit
    )
    return f"{size / unit:g} {name}"
