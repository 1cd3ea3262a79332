"""The demo as its users run it: what it says, and what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compressor.sources import make_source
from tests.demo.processes import PROJECT, running
from tests.demo.setup import QUALITIES

pytestmark = pytest.mark.long


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, with `directory` for its temporary files and an environment that could lead it astray."""
    stray = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_PROFILE": "nobody", "KEEP_LOCAL": "true"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=PROJECT,
        env=os.environ | stray | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def wait_for_the_compressor(process: subprocess.Popen[str]) -> None:
    """Wait until everything runs that the demo starts."""
    assert process.stdout is not None
    assert any("A compressor makes" in line for line in iter(process.stdout.readline, ""))


def processes_about(directory: Path) -> list[str]:
    """The command lines of all processes that speak of the directory or stand in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            place = os.readlink(process / "cwd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(directory) in words or place.startswith(str(directory)):
            found.append(words)
    return found


@pytest.mark.timeout(120)
def test_every_rendition_is_confirmed_published_fetched_and_released(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    lines = [line.split() for line in said.splitlines() if "identical" in line]
    assert sorted(line[0] for line in lines) == sorted([*QUALITIES, "original"] * 2)
    assert {line[3] for line in lines} <= {"checksum", "etag"}
    assert all(
        re.fullmatch(r"http://127\.0\.0\.1:\d+/demo/videos/[0-9a-f-]{36}/\S+", line[-1]) for line in lines
    )
    assert "All 10 renditions were confirmed, published and released." in said
    assert list(tmp_path.iterdir()) == []
    assert processes_about(tmp_path) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        wait_for_the_compressor(process)
        process.send_signal(number)
        said, _ = process.communicate()
    assert process.returncode == 130, said
    assert list(tmp_path.iterdir()) == []
    assert processes_about(tmp_path) == []


@pytest.mark.timeout(120)
def test_with_keep_the_directory_stays_and_is_named(tmp_path: Path) -> None:
    with demo(tmp_path, "--keep") as process:
        wait_for_the_compressor(process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    [root] = tmp_path.iterdir()
    assert f"Left for you to look at: {root}" in said
    assert {"completed", "daemon.log", "pending"} <= {path.name for path in root.iterdir()}
    assert processes_about(tmp_path) == []


def test_a_process_of_the_demo_ends_with_its_own_children(tmp_path: Path) -> None:
    make_source(tmp_path / "long.mp4", seconds=10)
    arguments = ["--source", str(tmp_path / "long.mp4"), "--completed-dir", str(tmp_path)]
    with running("tests.compressor", *arguments, "--qualities", "1080p", log=tmp_path / "log"):
        while not any("ffmpeg" in words for words in processes_about(tmp_path)):
            pass
    assert processes_about(tmp_path) == []
