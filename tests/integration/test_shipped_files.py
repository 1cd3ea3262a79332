"""What is installed beside the program: the man page and the shells' completions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support import manual
from tests.support.cli_process import Command
from tests.support.source_tree import ROOT

SHARE = os.path.join(ROOT, "watcher", "share")


def test_the_man_page_is_what_the_commands_say() -> None:
    """`python -m tests.support.manual > watcher/share/video-uploader.1` makes it anew."""
    with open(os.path.join(ROOT, manual.PATH), encoding="utf-8") as file:
        assert file.read() == manual.man_page()


def test_the_man_page_has_no_mistake_that_groff_knows() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    ran = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8", os.path.join(ROOT, manual.PATH)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stderr == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("typed", "word", "offered"),
    [
        ("video-uploader sta", 1, "status"),
        ("video-uploader systemd unin", 2, "uninstall"),
        ("video-uploader list --sta", 2, "--state"),
        ("video-uploader list --state pub", 3, "published"),
    ],
)
def test_bash_completes_commands_options_and_values(
    offline_command: Command, place: str, typed: str, word: int, offered: str
) -> None:
    os.makedirs(f"{place}/bin")
    with open(f"{place}/bin/video-uploader", "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {sys.executable} -m watcher "$@"\n')
    os.chmod(f"{place}/bin/video-uploader", 0o755)
    script = (
        f". {SHARE}/completions/video-uploader.bash\nCOMP_WORDS=({typed})\nCOMP_CWORD={word}\n"
        '_video_uploader_completion video-uploader\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    ran = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{place}/bin:{os.environ['PATH']}", "PYTHONPATH": ROOT, "HOME": place},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout.split() == [offered]
