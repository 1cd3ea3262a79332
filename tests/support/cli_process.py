"""The command as a person runs it: another process, what it prints, and how it exits."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from tests.support.harness import BUCKET
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.support.secret_search import ensure_untold
from tests.support.source_tree import ROOT
from watcher.cli.app import main

SECONDS = 50


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed for programs."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Command:
    """The command in a directory of its own, before an S3 server at a URL."""

    place: str
    s3_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings beyond those of every test."""

    def __call__(self, *arguments: str, **changes: str) -> Ran:
        """Run it to its end, with changes to its environment."""
        with self.popen(*arguments, **changes) as process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert "Traceback" not in err, err
        ensure_untold(out, err)
        return Ran(process.returncode, out, err)

    def here(self, *arguments: str, **changes: str) -> Ran:
        """The same in this process, which is quicker; not for `run`, which takes signals over."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self._environment({"LOG_LEVEL": "ERROR", **changes}), clear=True),
            patch.object(sys, "argv", ["video-uploader", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
            _logging_as_it_was(),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        assert isinstance(ended.value.code, int)
        ensure_untold(out.getvalue(), err.getvalue())
        return Ran(ended.value.code, out.getvalue(), err.getvalue())

    def popen(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            [sys.executable, "-m", "watcher", *arguments],
            env=self._environment(changes),
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        completed = os.path.join(self.place, "completed")
        os.makedirs(completed, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ROOT,
            "COMPLETED_DIR": completed,
            "STATE_DIRECTORY": os.path.join(self.place, "state"),
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_REGION": REGION,
            "AWS_S3_BUCKET": BUCKET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "METRICS_ADDRESS": "",
        }
        return {**environment, **self.settings, **changes}


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """What a command makes of logging ends with it; the S3 server in this process keeps out of it."""
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
