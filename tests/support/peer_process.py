"""Another process that acts on a file step by step, as the test orders."""

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_WRITE_LIKE_AN_ENCODER = """
import os, sys
path, flags, content = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
print("starting", flush=True)
descriptor = os.open(path, flags, 0o644)
print("opened", flush=True)
sys.stdin.readline()
os.write(descriptor, content)
os.close(descriptor)
print("closed", flush=True)
"""


class Peer:
    """The other process, which prints a line for each step and waits for orders."""

    def __init__(self, process: "subprocess.Popen[str]", lines: IO[str], orders: IO[str]) -> None:
        self.process = process
        self._lines = lines
        self._orders = orders

    def expect(self, line: str) -> None:
        """Wait for its next line."""
        assert self._lines.readline() == f"{line}\n"

    def says_nothing(self) -> bool:
        """Whether it has nothing to say at this moment."""
        return not select.select([self._lines], [], [], 0)[0]

    def go_on(self) -> None:
        """Order its next step."""
        self._orders.write("\n")
        self._orders.flush()


@contextmanager
def peer(script: str, *arguments: str) -> Iterator[Peer]:
    """Run a Python script until the end of the block, where it is killed if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Peer(process, process.stdout, process.stdin)
        finally:
            process.kill()


@contextmanager
def writer(path: str, flags: int, content: str = "written by a peer") -> Iterator[Peer]:
    """A process that opens a file (it says "opened") and, told to go on, writes and closes it ("closed")."""
    with peer(_WRITE_LIKE_AN_ENCODER, path, str(flags), content) as process:
        process.expect("starting")
        yield process
