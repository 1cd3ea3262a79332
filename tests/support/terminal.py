"""The command on a real terminal, as a person has it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

SECONDS = 40.0
TAIL = 8192
"""Bytes that are searched: some frames of what is drawn, however long it is drawn."""
COLUMNS, LINES = 80, 24


@dataclass
class Terminal:
    """A process on a terminal of 80 columns and 24 lines, and what it has shown so far."""

    process: subprocess.Popen[bytes]
    fd: int
    shown: bytes = field(default=b"")

    def read_until(self, pattern: bytes) -> None:
        """Wait until the pattern is shown; what was read before is not searched again."""
        deadline, seen = time.monotonic() + SECONDS, b""
        while not re.search(pattern, seen[-TAIL:], re.DOTALL):
            left = deadline - time.monotonic()
            read = self._read() if left > 0 and select.select([self.fd], [], [], left)[0] else b""
            assert read, (pattern, self.shown)
            seen += read

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.fd, keys)

    def end(self) -> int:
        """Read what it still shows; returns its exit code."""
        while select.select([self.fd], [], [], SECONDS)[0] and self._read():
            pass
        return self.process.wait(SECONDS)

    def _read(self) -> bytes:
        try:
            read = os.read(self.fd, 65536)
        except OSError:  # EIO: the last process has closed its side (pty(7)).
            read = b""
        self.shown += read
        return read


@contextmanager
def on_terminal(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: str, *, reads_keys: bool = True
) -> Iterator[Terminal]:
    """Run the command on a terminal, with its standard input unless it reads no keys; kill it afterwards."""
    fd, side = pty.openpty()
    size = {"TERM": "xterm", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    with subprocess.Popen(
        [sys.executable, "-m", "watcher", *arguments],
        env={**size, **environment},
        cwd=cwd,
        stdin=side if reads_keys else subprocess.DEVNULL,
        stdout=side,
        stderr=side,
    ) as process:
        os.close(side)
        try:
            yield Terminal(process, fd)
        finally:
            process.kill()
            os.close(fd)
