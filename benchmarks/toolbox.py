"""What benchmarks need beyond this project, kept in `.bench-venv`: the sink, its certificate, the rivals."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from typing import Final

HERE: Final = os.path.dirname(os.path.abspath(__file__))
ROOT: Final = os.path.dirname(HERE)
PLACE: Final = os.path.join(ROOT, ".bench-venv")
BUILD_SECONDS: Final = 900


class UnavailableError(Exception):
    """Something that a benchmark needs cannot be had on this machine; the text says why."""


def build_sink() -> str:
    """Compile the sink unless it is newer than its sources; returns its path.

    Raises `UnavailableError` where there is no compiler or no OpenSSL, CalledProcessError for an error in
    the sources.
    """
    directory = os.path.join(PLACE, "sink")
    program = os.path.join(directory, "sink")
    sources = sorted(glob(os.path.join(HERE, "sink", "*.[ch]")))
    if os.path.exists(program) and os.stat(program).st_mtime > max(
        os.stat(path).st_mtime for path in sources
    ):
        return program
    if shutil.which("gcc") is None:
        raise UnavailableError("there is no gcc, which compiles the sink: install Debian's gcc and libc6-dev")
    try:
        run("gcc", "-fsyntax-only", "-include", "openssl/ssl.h", "-x", "c", os.devnull)
    except UnavailableError as error:
        raise UnavailableError(
            f"OpenSSL's headers are missing: install Debian's libssl-dev: {error}"
        ) from error
    os.makedirs(directory, exist_ok=True)
    made = f"{program}.{os.getpid()}"
    units = [path for path in sources if path.endswith(".c")]
    libraries = ("-lssl", "-lcrypto", "-lpthread")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", *units, "-o", made, *libraries], check=True)
    os.replace(made, program)
    return program


def make_certificate() -> tuple[str, str]:
    """The paths of a self-signed certificate for 127.0.0.1 and of its key. Raises `UnavailableError`."""
    directory = os.path.join(PLACE, "tls")
    if not os.path.exists(directory):
        os.makedirs(PLACE, exist_ok=True)
        # Others may make one at the same time: certificate and key appear together, and the first ones stay.
        with tempfile.TemporaryDirectory(prefix="tls-", dir=PLACE) as parent:
            made = os.path.join(parent, "tls")
            os.mkdir(made)
            run(
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-days", "3650", "-subj", "/CN=localhost", "-keyout", os.path.join(made, "key.pem")),
                *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
                *("-out", os.path.join(made, "certificate.pem")),
            )
            with suppress(OSError):
                os.rename(made, directory)
    return os.path.join(directory, "certificate.pem"), os.path.join(directory, "key.pem")


def install_rivals() -> None:
    """Install the rivals that `requirements.txt` pins, unless they are there. Raises `UnavailableError`."""
    requirements, stamp = os.path.join(HERE, "requirements.txt"), os.path.join(PLACE, "installed")
    with open(requirements, "rb") as file:
        wanted = hashlib.sha256(file.read()).hexdigest()
    if os.path.exists(stamp):
        with open(stamp, encoding="utf-8") as file:
            if file.read() == wanted:
                return
    run(sys.executable, "-m", "venv", PLACE)
    run(program("python"), "-m", "pip", "install", "--quiet", "-r", requirements)
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(wanted)


def program(name: str) -> str:
    """The path of a program of the rivals. s5cmd's is not the script in front of it, which is Python."""
    if name == "s5cmd":
        for path in glob(os.path.join(PLACE, "lib", "python*", "site-packages", "s5cmd", "bin", "s5cmd")):
            return path
    return os.path.join(PLACE, "bin", name)


@contextmanager
def work_directory() -> Iterator[str]:
    """A directory below `.bench-venv` that is deleted at the end."""
    os.makedirs(PLACE, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=PLACE, ignore_cleanup_errors=True) as directory:
        yield directory


def run(*command: str) -> str:
    """Run a command to its end and return what it printed. Raises `UnavailableError` where it fails."""
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
        raise UnavailableError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stdout[-2000:].strip()}")
    return done.stdout
