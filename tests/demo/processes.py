"""Child processes that end with the block that started them, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.demo.setup import clean_environment

PROJECT = Path(__file__).parents[2]

_STOP_SECONDS = 15
"""The daemon promises ten."""


@contextmanager
def running(
    module: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
    pipes: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m module`` while the block runs; at its end it is asked to stop, if it is still there.

    It writes into the file `log`, except that with `pipes` its input and output are ours. Ctrl-C in the
    terminal does not reach it: it has a session of its own and ends when we end it, with its own children.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            env=clean_environment() if environment is None else dict(environment),
            cwd=directory,
            start_new_session=True,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[str]) -> int:
    """End the process and its children, gently first; returns its exit code."""
    if process.poll() is None:
        # Until it has been waited for, the number of its group is not reused.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


class StartError(Exception):
    """A process that the demo needs did not start."""


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Run an S3 server with an empty bucket while the block runs; yields its endpoint."""
    with running("tests.demo.serve_s3", log=log, pipes=True) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            raise StartError(f"The S3 server did not start; it said:\n{last_lines(log)}")
        yield endpoint


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what a process wrote."""
    return "\n".join(log.read_text(errors="backslashreplace").splitlines()[-count:])
