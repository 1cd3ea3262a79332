"""The machine that results belong to, and waiting until it is quiet."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from benchmarks import toolbox

QUIET_SHARE: Final = 0.10
"""The share of the processors' time that others may use."""
LOOK_SECONDS: Final = 2.0


def facts() -> dict[str, Any]:
    """The machine, the programs and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "awscrt": version("awscrt"),
        "boto3": version("boto3"),
        "commit": _commit(),
        **_rivals(),
    }


def wait_until_quiet(seconds: float) -> float:
    """Wait for a quiet machine, for at most so many seconds; returns the share of the processors in use.

    The load average is not asked: it remembers for a minute what the benchmark itself has just done.
    """
    deadline = time.monotonic() + seconds
    while True:
        share = busy_share(LOOK_SECONDS if seconds else 0.2)
        if share <= QUIET_SHARE or time.monotonic() >= deadline:
            return share


def busy_share(seconds: float) -> float:
    """The share of the processors' time that is used in the next seconds (see proc_stat(5))."""
    before = _times()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(_times(), before, strict=True)]
    idle = spent[3] + spent[4]
    return 1 - idle / max(sum(spent), 1)


def _times() -> list[int]:
    with open("/proc/stat", encoding="ascii") as file:
        return [int(field) for field in file.readline().split()[1:9]]


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "-C", toolbox.ROOT, "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def _rivals() -> dict[str, str]:
    found = {}
    for name, command in (("s5cmd", "version"), ("rclone", "version"), ("aws", "--version")):
        try:
            first = toolbox.run(toolbox.program(name), command).splitlines()[0]
        except (toolbox.UnavailableError, IndexError):
            continue
        found[name] = first.split()[0 if name != "rclone" else 1].removeprefix("aws-cli/")
    return found
