"""Servers from PyPI, each in a virtual environment of its own: `python -m tests.conformance.tool_venv`.

Each is built once and then kept, in `.NAME-venv` in the project's root or in `CONFORMANCE_NAME_VENV`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from tests.conformance.suite_options import is_required

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD_SECONDS = 900


class ServerUnavailableError(Exception):
    """A server cannot be installed or started here; the text says why."""


@dataclass(frozen=True)
class ToolVenv:
    """The environment of a server, with what its `NAME-requirements.txt` beside this module pins."""

    name: str

    @property
    def path(self) -> str:
        """Where it is."""
        root = os.path.dirname(os.path.dirname(HERE))
        given = os.environ.get(f"CONFORMANCE_{self.name.upper()}_VENV")
        return given or os.path.join(root, f".{self.name}-venv")

    def command(self, name: str) -> str:
        """The path of a command in it. Raises `ServerUnavailableError` where it was not built."""
        if _read(self._stamp) != self._wanted:
            reason = _read(self._failure) or "`make conformance` builds it"
            raise ServerUnavailableError(f"{self.name} is not installed in {self.path}: {reason}")
        return self._command(name)

    def build(self) -> None:
        """Install the server unless it is there already. Raises `ServerUnavailableError`."""
        if _read(self._stamp) == self._wanted:
            return
        try:
            _run(sys.executable, "-m", "venv", "--clear", self.path)
            _run(self._command("python"), "-m", "pip", "install", "--quiet", "-r", self._requirements)
        except ServerUnavailableError as error:
            os.makedirs(self.path, exist_ok=True)
            _write(self._failure, str(error))
            raise
        _write(self._stamp, self._wanted)

    @property
    def _requirements(self) -> str:
        return os.path.join(HERE, f"{self.name}-requirements.txt")

    @property
    def _wanted(self) -> str:
        with open(self._requirements, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    @property
    def _stamp(self) -> str:
        return os.path.join(self.path, "installed")

    @property
    def _failure(self) -> str:
        return os.path.join(self.path, "failed")

    def _command(self, name: str) -> str:
        return os.path.join(self.path, "bin", name)


LOCALSTACK: Final = ToolVenv("localstack")
RCLONE: Final = ToolVenv("rclone")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServerUnavailableError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        raise ServerUnavailableError(f"{' '.join(command)}: {done.stdout[-2000:].strip()}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main() -> int:
    """Build all; where one cannot be built, say why, and fail only if it is required."""
    status = 0
    for venv in (LOCALSTACK, RCLONE):
        try:
            venv.build()
        except ServerUnavailableError as error:
            print(f"{venv.name} cannot be installed here: {error}", file=sys.stderr)
            status |= is_required(venv.name)
    return status


if __name__ == "__main__":
    sys.exit(main())
