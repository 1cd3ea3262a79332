"""The command as a process: what it prints, and its exit code."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from db import Ledger, sqlite_url
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.support.secret_search import ensure_untold
from tests.support.source_tree import ROOT
from tests.support.terminal import Terminal, on_terminal
from watcher.app.factories import open_ledger_database
from watcher.cli import main
from watcher.settings import Settings

SECONDS = 50

GOOD = f"{VIDEO_ID}/good_720p.mp4"
CUT = f"{VIDEO_ID}/cut_480p.mp4"
"""A complete file and a truncated one, as `used_command` has them."""
KEY = f"videos/{GOOD}"


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int) -> str:
        """Require this exit code and one sentence on standard error only; returns the sentence."""
        assert (self.code, self.out) == (code, ""), self
        (sentence,) = self.err.splitlines()
        assert sentence.startswith("video-uploader: ")
        return sentence.removeprefix("video-uploader: ")

    def json(self, code: int = 0) -> Any:
        """Require this exit code and no errors; returns the printed JSON."""
        assert (self.code, self.err) == (code, ""), self
        return json.loads(self.out)


@dataclass(frozen=True)
class Command:
    """The command in a directory of its own, with an S3 server at a URL."""

    place: str
    s3_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment beyond that of every test."""
    interpreter: str = sys.executable

    def __call__(self, *arguments: str, answer: str | None = None, **changes: str | None) -> Ran:
        """Run it to its end; `answer` is its standard input, `changes` its environment (None unsets)."""
        with self.popen(*arguments, **changes) as process:
            try:
                out, err = process.communicate(answer, timeout=SECONDS)
            finally:
                process.kill()
        assert "Traceback" not in err, err
        ensure_untold(out, err)
        return Ran(process.returncode, out, err)

    def here(self, *arguments: str, **changes: str) -> Ran:
        """Run it in this process, which is faster; not for `run`, which installs signal handlers."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self._environment({"LOG_LEVEL": "ERROR", **changes}), clear=True),
            patch.object(sys, "argv", ["video-uploader", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
            _restored_logging(),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        assert isinstance(ended.value.code, int)
        ensure_untold(out.getvalue(), err.getvalue())
        return Ran(ended.value.code, out.getvalue(), err.getvalue())

    def popen(self, *arguments: str, **changes: str | None) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            [self.interpreter, "-m", "watcher", *arguments],
            env=self._environment(changes),
            cwd=self.place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )

    def on_terminal(self, *arguments: str, **changes: str) -> AbstractContextManager[Terminal]:
        """Start it as a person does, who can be asked."""
        return on_terminal(arguments, self._environment(changes), self.place)

    @property
    def completed(self) -> str:
        """The watched directory."""
        return os.path.join(self.place, "completed")

    def write(self, path: str, content: bytes) -> str:
        """Write a file below the watched directory; returns its absolute path."""
        full = os.path.join(self.completed, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
        return full

    def row(self, path: str) -> dict[str, Any]:
        """The upload of a path, as `list --json` prints it."""
        rows = self("list", "--json").json()
        return next(row for row in rows if row["path"] == path)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger that the command uses."""
        given = self._environment({})
        values: dict[str, Any] = {
            name: given[name] for name in given if name.lower() in Settings.model_fields
        }
        settings = Settings(**values)
        with closing(open_ledger_database(settings)) as database:
            yield Ledger(database, settings.instance)

    def _environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        os.makedirs(self.completed, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ROOT,
            "COMPLETED_DIR": self.completed,
            "STATE_DIRECTORY": os.path.join(self.place, "state"),
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_REGION": REGION,
            "AWS_S3_BUCKET": BUCKET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "METRICS_ADDRESS": "",
        }
        changed = {**environment, **self.settings, **changes}
        return {name: value for name, value in changed.items() if value is not None}


def strict_command(place: str, s3_url: str) -> Command:
    """The command on an SQLite ledger, for which every Python warning is an error."""
    settings = {
        "HOME": place,
        "PYTHONWARNINGS": "error",
        "DATABASE_URL": sqlite_url(os.path.join(place, "state", "ledger.sqlite3")),
        "INSTANCE_ID": "test",
        "RELEASE_AFTER_SECONDS": "86400",
        "DISK_PRESSURE_PERCENT": "100",
    }
    os.makedirs(os.path.join(place, "completed"), exist_ok=True)
    return Command(place, s3_url, settings)


@contextmanager
def _restored_logging() -> Iterator[None]:
    """Undo the command's logging configuration; the S3 server in this process does not log meanwhile."""
    root, configured = logging.getLogger(), structlog.get_config()
    server = logging.getLogger("werkzeug")
    handlers, level = root.handlers[:], root.level
    server.disabled = True
    try:
        yield
    finally:
        server.disabled = False
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**configured)
