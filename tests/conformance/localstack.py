"""LocalStack in a virtual environment of its own: `python -m tests.conformance.localstack` builds it.

It is built once and then kept, in `CONFORMANCE_LOCALSTACK_VENV` or `.localstack-venv` in the project's root.
It runs on the host, without a container, an account or a network, and keeps objects on disk.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from urllib.request import urlopen

from tests.conformance.suite_options import localstack_is_required

HERE = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = os.path.join(HERE, "localstack-requirements.txt")
VENV = os.environ.get("CONFORMANCE_LOCALSTACK_VENV") or os.path.join(
    os.path.dirname(os.path.dirname(HERE)), ".localstack-venv"
)
PYTHON = os.path.join(VENV, "bin", "python")
BUILD_SECONDS = 900
START_SECONDS = 90
STOP_SECONDS = 10
_TRIED_TOO_OFTEN = 3


class LocalStackUnavailableError(Exception):
    """LocalStack cannot be built or started here; the text says why."""


def build() -> None:
    """Install LocalStack unless it is there already. Raises `LocalStackUnavailableError`."""
    if _read(_stamp()) == _wanted():
        return
    try:
        _run(sys.executable, "-m", "venv", "--clear", VENV)
        _run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS)
    except LocalStackUnavailableError as error:
        os.makedirs(VENV, exist_ok=True)
        _write(_failure(), str(error))
        raise
    _write(_stamp(), _wanted())


@contextmanager
def running_localstack() -> Iterator[str]:
    """The endpoint of a LocalStack that runs while the block lasts.

    Raises `LocalStackUnavailableError` before the block where there can be none.
    """
    if _read(_stamp()) != _wanted():
        reason = _read(_failure()) or "`make conformance` builds it"
        raise LocalStackUnavailableError(f"LocalStack is not installed in {VENV}: {reason}")
    with tempfile.TemporaryDirectory(prefix="video-uploader-localstack-") as directory:
        for attempt in range(1, _TRIED_TOO_OFTEN + 1):
            process, url = _start(directory)
            try:
                if _is_up(process, url):
                    yield url
                    return
            finally:
                _stop(process)
            if attempt == _TRIED_TOO_OFTEN or process.returncode == -signal.SIGTERM:
                break
        raise LocalStackUnavailableError(
            f"LocalStack did not start in {START_SECONDS} seconds: {_read(_log(directory))[-2000:]}"
        )


def _start(directory: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start it on a port that is free now; another process may take it before the server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    root, temporary = os.path.join(directory, "root"), os.path.join(directory, "tmp")
    os.makedirs(root, exist_ok=True)
    os.makedirs(temporary, exist_ok=True)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": root,
        "SERVICES": "s3",
        "EAGER_SERVICE_LOADING": "1",
        "STRICT_SERVICE_LOADING": "1",
        "GATEWAY_LISTEN": address,
        "LOCALSTACK_HOST": address,
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
        "FILESYSTEM_ROOT": root,
        "TMPDIR": temporary,
    }
    with open(_log(directory), "wb") as log:
        process = subprocess.Popen(
            [PYTHON, "-m", "localstack.runtime.main"],
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # So that whatever it starts can be ended with it.
            start_new_session=True,
        )
    return process, f"http://{address}"


def _is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urlopen(f"{url}/_localstack/health", timeout=5):
                return True
        except (OSError, HTTPException):
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            return False
    return False


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
        raise LocalStackUnavailableError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        raise LocalStackUnavailableError(f"{' '.join(command)}: {done.stdout[-2000:].strip()}")


def _wanted() -> str:
    with open(REQUIREMENTS, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _stamp() -> str:
    return os.path.join(VENV, "installed")


def _failure() -> str:
    return os.path.join(VENV, "failed")


def _log(directory: str) -> str:
    return os.path.join(directory, "log")


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
    """Build it; where that cannot be done, say why, and fail only if it is required."""
    try:
        build()
    except LocalStackUnavailableError as error:
        print(f"LocalStack cannot be installed here: {error}", file=sys.stderr)
        return 1 if localstack_is_required() else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
