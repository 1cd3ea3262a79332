"""The archives of this tree, made once, and a bare Python that has one of them installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT

BUILD_SECONDS = 300
IGNORED = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "tests", "benchmarks")


def told(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints; it must succeed."""
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, (command, ran.stdout[-1000:], ran.stderr[-2000:])
    return ran.stdout


@dataclass(frozen=True)
class Release:
    """The archives, by their kind, and the wheels of what they need."""

    wheel: Path
    sdist: Path
    wheels: Path
    tree: Path
    place: Path

    def installed(self, kind: str) -> list[str]:
        """Install an archive where nothing else is; returns the program's command."""
        target = self.place / f"installed-{kind}"
        if kind == "deb":
            told("dpkg-deb", "-x", self.deb(), target)
            program = target / "opt/video-uploader/bin"
            return [str(program / "python3"), str(program / "video-uploader")]
        told(sys.executable, "-m", "venv", target)
        archive = {"wheel": self.wheel, "sdist": self.sdist}[kind]
        offline = ("--no-index", "--no-compile", f"--find-links={self.wheels}")
        told(target / "bin/pip", "install", "-q", *offline, archive)
        return [str(target / "bin/video-uploader")]

    def deb(self) -> Path:
        """The Debian package; the test is skipped where none can be made or run."""
        if made := list((self.place / "deb").glob("*.deb")):
            return made[0]
        if shutil.which("dpkg-deb") is None:
            pytest.skip("dpkg-deb is not installed")
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        if not os.path.exists(f"/usr/bin/python{minor}"):
            pytest.skip(f"the package would need Debian's Python {minor}, which is not /usr/bin/python3")
        return Path(
            told(
                self.tree / "packaging/build-deb", sys.executable, self.place / "deb", self.wheels
            ).splitlines()[-1]
        )


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The sdist of a copy of the tree, and the wheel of the unpacked sdist."""
    place = tmp_path_factory.mktemp("release")
    tree, wheels = place / "tree", place / "wheels"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=IGNORED)
    told(sys.executable, "-m", "pip", "wheel", "-q", "-w", wheels, "setuptools>=77")
    told(sys.executable, "-m", "pip", "install", "-q", "--target", place / "tools", *wheels.iterdir())
    build = f"import setuptools.build_meta as made; print(made.build_sdist({str(place)!r}))"
    name = told(sys.executable, "-c", build, cwd=tree, PYTHONPATH=str(place / "tools")).splitlines()[-1]
    shutil.unpack_archive(place / name, place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    constraints = os.path.join(ROOT, "constraints.txt")
    told(sys.executable, "-m", "pip", "wheel", "-q", "-w", wheels, "-c", constraints, unpacked)
    (wheel,) = wheels.glob("video_uploader-*.whl")
    return Release(wheel, place / name, wheels, tree, place)
