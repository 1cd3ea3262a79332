"""Servers of the suite as processes that end with the block that started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.conformance.tool_venv import ServerUnavailableError

STOP_SECONDS = 10


class ServerEndedError(ServerUnavailableError):
    """A server ended before it was up; another process may have taken its port."""


@contextmanager
def server_process(
    *command: str,
    directory: str,
    is_up: Callable[[], bool],
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server in a directory, where its log is; the block begins once `is_up` says so.

    Raises `ServerUnavailableError` before the block if it ends or is not up within `seconds`.
    """
    variables = {"PATH": os.environ.get("PATH", os.defpath), "HOME": directory, **(environment or {})}
    log = os.path.join(directory, f"{os.path.basename(command[0])}.out")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env=variables,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # So that whatever it starts can be ended with it.
            start_new_session=True,
        )
    try:
        _wait(process, is_up, time.monotonic() + seconds, log)
        yield
    finally:
        _stop(process)


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether an HTTP server answers, whatever it says."""
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError as error:
        error.close()
        return True
    except (OSError, HTTPException):
        return False


def _wait(process: subprocess.Popen[bytes], is_up: Callable[[], bool], deadline: float, log: str) -> None:
    while not is_up():
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        with open(log, encoding="utf-8", errors="replace") as file:
            said = f"{process.args!r} did not start; it said: {file.read()[-2000:]}"
        raise ServerUnavailableError(said) if process.returncode is None else ServerEndedError(said)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
