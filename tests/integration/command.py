"""The command as a person runs it: another process, what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.workshop import BUCKET

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

    def __call__(self, *arguments: str, **changes: str) -> Ran:
        """Run it to its end, with changes to its environment."""
        completed = os.path.join(self.place, "completed")
        os.makedirs(completed, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
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
        ended = subprocess.run(
            [sys.executable, "-m", "watcher", *arguments],
            env=environment | changes,
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        return Ran(ended.returncode, ended.stdout, ended.stderr)
