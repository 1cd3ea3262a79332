"""What the wheel and the sdist bring along for the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.support import manual
from tests.support.source_tree import ROOT


def test_wheel_and_sdist_bring_along_what_is_installed_beside_the_program(tmp_path: Path) -> None:
    """`systemd/` is in both as it is in the tree, and the wheel can be made of the sdist."""
    tools = str(tmp_path / "tools")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--target", tools, "setuptools>=77"], check=True, timeout=120)

    def build(kind: str, tree: Path) -> Path:
        program = f"import setuptools.build_meta as made; print(made.build_{kind}({str(tmp_path)!r}))"
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": tools},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return tmp_path / ran.stdout.splitlines()[-1]

    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=ignored)
    with tarfile.open(build("sdist", tmp_path / "tree")) as packed:
        in_sdist = {name.partition("/")[2] for name in packed.getnames()}
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked)) as zipped:
        in_wheel = set(zipped.namelist())
    source = Path(ROOT, "systemd")
    expected = {
        f"watcher/share/systemd/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()
    }
    completions = os.listdir(os.path.join(ROOT, "watcher", "share", "completions"))
    expected |= {manual.PATH, *(f"watcher/share/completions/{name}" for name in completions)}
    assert expected - in_sdist == set()
    assert expected - in_wheel == set()
