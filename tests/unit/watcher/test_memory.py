"""Tests of what keeps glibc from holding memory for nothing; they run in processes of their own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from watcher.app.memory import ARENAS

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc"
)

COUNT_HEAPS = """
import ctypes, sys, threading
from watcher.app import memory

if sys.argv[1] == "limited":
    memory.limit_heaps()
started, end = threading.Barrier(9), threading.Event()

def allocate():
    held = bytearray(50_000)
    started.wait()
    end.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
started.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fflush(ctypes.c_void_p(file))
end.set()
"""


def heaps(how: str) -> int:
    """How many heaps a process has whose eight threads allocate at the same time."""
    command = [sys.executable, "-c", COUNT_HEAPS, how]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("<heap nr=")


def test_all_threads_share_few_heaps() -> None:
    assert heaps("limited") <= ARENAS
    assert heaps("unlimited") > ARENAS


FREE_BELOW_WHAT_IS_KEPT = """
from watcher.app import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

blocks = [b"x" * 10_000 for _ in range(3000)]
kept = blocks.pop()
blocks.clear()
before = resident()
memory.give_back()
print(before - resident())
"""


def test_what_the_start_has_freed_is_given_back() -> None:
    """glibc alone gives back only what is free above everything that is kept."""
    command = [sys.executable, "-c", FREE_BELOW_WHAT_IS_KEPT]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) > 20_000_000
