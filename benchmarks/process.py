"""What processes cost: time, CPU and memory of a command with all that it starts."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SAMPLE_SECONDS: Final = 0.05


class CommandFailedError(Exception):
    """A command that a benchmark measures has failed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of time and CPU (user and system), and bytes of memory at the peak."""

    wall: float
    cpu: float
    peak_rss: int


def tree(pid: int) -> list[int]:
    """A process and all its descendants; those that ended meanwhile are left out."""
    found = [pid]
    for parent in found:
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for task in tasks:
            found += map(int, _read(f"/proc/{parent}/task/{task}/children").split())
    return found


def peak_rss(pids: Iterable[int]) -> int:
    """The sum of the peaks of resident memory of processes, in bytes (`VmHWM`, see proc_pid_status(5)).

    The `ru_maxrss` of getrusage(2) does not serve: it keeps the size of the process that called exec.
    """
    total = 0
    for pid in pids:
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, also of those that have ended, to the nanosecond.

    The number of the clock is that of clock_getcpuclockid(3).
    """
    return time.clock_gettime(~pid << 3 | 2)


def children_cpu_seconds() -> float:
    """User and system time of the children of this process that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def wake_ups(pid: int) -> int:
    """How often the threads of a process have gone to sleep by themselves, which is as often as they woke."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        for line in _read(f"/proc/{pid}/task/{task}/status").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def rss(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(_read(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(command: Sequence[str], environment: Mapping[str, str], *, log: str, cwd: str) -> Cost:
    """Run a command to its end; its output goes to the file `log`. Raises `CommandFailedError`."""
    with open(log, "wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        meter = PeakMeter(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    peak = meter.stop()
    if process.returncode:
        with open(log, encoding="utf-8", errors="replace") as text:
            raise CommandFailedError(
                f"{' '.join(command)} exited with {process.returncode}: {text.read()[-2000:]}"
            )
    return Cost(wall, used.ru_utime + used.ru_stime, peak)


class PeakMeter:
    """Follows the memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The largest sum of peaks of processes that lived at the same time, in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _follow(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, peak_rss(tree(self._pid)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
