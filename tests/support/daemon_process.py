"""The real daemon as a process of its own, followed by what it logs."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from db import Ledger, Upload, open_database
from tests.support.secret_search import ensure_untold
from tests.support.source_tree import ROOT
from watcher.settings.model import Settings

EXPECT_SECONDS = 20.0


def environment_of(settings: Settings, **extra: str) -> dict[str, str]:
    """The process environment that gives the settings, and nothing else that could leak in."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    given: dict[str, str] = {}
    for field in settings.model_fields_set:
        value: Any = getattr(settings, field)
        if hasattr(value, "get_secret_value"):
            value = value.get_secret_value()
        given[field.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    # The daemon is the one of this tree, wherever the packages may be installed from.
    tree = {"PYTHONPATH": ROOT}
    return {**kept, **tree, **given, "STATE_DIRECTORY": os.path.dirname(settings.completed_dir), **extra}


class DaemonProcess:
    """A running daemon. `events` holds every line it has logged and that was read so far, `raw` its bytes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.patience_seconds = EXPECT_SECONDS
        self.raw = bytearray()
        self._partial = b""

    def expect(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait until the daemon has logged an event with these fields `count` times; returns the last one."""
        deadline = time.monotonic() + self.patience_seconds
        while True:
            found = [
                line
                for line in self.events
                if line.get("event") == event
                and all(line.get(name) == value for name, value in fields.items())
            ]
            if len(found) >= count:
                return found[count - 1]
            if not self._read(deadline):
                raise AssertionError(f"no {event} {fields} ({count} times) in {self.events}")

    def read(self, seconds: float) -> None:
        """Read what the daemon logs next, for at most so many seconds."""
        self._read(time.monotonic() + seconds)

    def read_more(self) -> bool:
        """Read some more of the log; False if there is no more, or none came in time."""
        return self._read(time.monotonic() + self.patience_seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(timeout)
        while self._read(time.monotonic() + 1):
            continue
        return status

    def _read(self, deadline: float) -> bool:
        """Read some more lines; False at the deadline or the end of the log."""
        log = self.process.stderr
        if log is None:
            return False
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([log], [], [], left)[0]:
            return False
        block = os.read(log.fileno(), 65536)
        self.raw += block
        *lines, self._partial = (self._partial + block).split(b"\n")
        for line in lines:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"event": "(not JSON)", "line": line.decode("utf-8", "replace")})
        return bool(block)


@contextmanager
def running_daemon(
    settings: Settings,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    log: str | None = None,
    through: Sequence[str] = (),
) -> Iterator[DaemonProcess]:
    """Run `video-uploader run` with the settings; whatever is left of it at the end is killed.

    With `log` its log is added to that file, for a daemon that is followed in other ways. `through` is a
    command that runs another one, as setpriv(1) does.
    """
    with ExitStack() as stack:
        stderr = subprocess.PIPE if log is None else stack.enter_context(open(log, "ab")).fileno()
        process = stack.enter_context(
            subprocess.Popen(
                [*through, sys.executable, "-m", "watcher", "run", *arguments],
                env=environment_of(settings, **(environment or {})),
                cwd=os.path.dirname(settings.completed_dir),
                stderr=stderr,
                stdout=subprocess.DEVNULL,
            )
        )
        daemon = DaemonProcess(process)
        try:
            yield daemon
        finally:
            if process.poll() is None:
                process.kill()
        ensure_untold(bytes(daemon.raw))


def command(
    settings: Settings, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the daemon's settings."""
    ran = subprocess.run(
        [sys.executable, "-m", "watcher", *arguments],
        env=environment_of(settings, **(environment or {})),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    ensure_untold(ran.stdout, ran.stderr)
    return ran


def rows(settings: Settings) -> list[Upload]:
    """The ledger's rows, read on a connection of their own."""
    database = open_database(settings.ledger_url, read_only=True)
    try:
        return Ledger(database, settings.instance).uploads()
    finally:
        database.close()


def place_file(settings: Settings, path: str, source: str) -> None:
    """Copy a file to a path below the watched directory, the way the compressor copies an original."""
    target = os.path.join(settings.completed_dir, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy2(source, target)
