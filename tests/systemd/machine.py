"""A machine with a real systemd: a small Debian in a container of systemd-nspawn, on this machine's network.

Its root file system is made once, by debootstrap, and kept; each boot has a layer of its own above it, which
is gone afterwards, and control groups of its own, so that several can run at once. Only root can make it and
boot it.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import psutil

from tests.support.postgres import ServerUnavailableError
from tests.support.source_tree import ROOT

BASE = os.path.join(ROOT, ".systemd-root")
"""The root file system; `make clean` removes it."""
PROGRAM = "/opt/video-uploader"
COMPRESSOR = "/srv/compressor"
"""Where the machine has the stand-in compressor and what it imports, `PYTHONPATH` for Debian's Python."""
PACKAGE = "video-uploader"
SOURCES = ("constraints.txt", "pyproject.toml", "watcher", "storage", "db", "systemd", "packaging")
"""What the package is made of."""
PACKAGES = ("dbus", "postgresql", "python3", "python3-venv", "sqlite3", "sudo", "systemd", "systemd-sysv")
CONFIGURED = {
    "/etc/dpkg/dpkg.cfg.d/unsafe-io": "force-unsafe-io",
    "/etc/apt/apt.conf.d/90yes": 'APT::Get::Assume-Yes "true";',
    "/etc/pip.conf": "[install]\nno-index = true\nfind-links = /wheels",
}
"""dpkg does not wait for the disk, apt does not ask, and pip takes what the package was made of."""
BUILD_SECONDS, BOOT_SECONDS, COMMAND_SECONDS, END_SECONDS = 900.0, 120.0, 120.0, 10.0


class SystemdUnavailableError(ServerUnavailableError):
    """No systemd can be booted here."""

    required_by: ClassVar[str] = "SYSTEMD_REQUIRE"


@dataclass(frozen=True)
class Ran:
    """A command that was run in the machine."""

    code: int
    out: str
    err: str


@dataclass
class Machine:
    """A machine that has booted. `init` is its first process, as this machine numbers it."""

    process: subprocess.Popen[bytes]
    """That of systemd-nspawn."""
    init: int
    shared: str
    """A directory that is at the same path in both."""

    def reboot(self) -> None:
        """Shut it down and boot it again; it has booted afterwards."""
        self.run("systemctl", "poweroff")
        self.process.wait(BOOT_SECONDS)
        again = _boot(self.process.args, self.shared)
        self.process, self.init = again.process, again.init

    def run(self, *command: str) -> Ran:
        """Run a command as root, to its end."""
        inside = ["nsenter", "-t", str(self.init), "-a", "env", "-i", "HOME=/root", _PATH, *command]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    def must(self, *command: str) -> str:
        """As `run`, for a command that must succeed; returns what it printed."""
        ran = self.run(*command)
        assert ran.code == 0, (command, ran)
        return ran.out

    def sh(self, script: str) -> str:
        """As `must`, for a script of a document; it runs in `shared`."""
        return self.must("sh", "-euc", f"cd {self.shared}\n{script}")

    def write(self, path: str, text: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file in the machine."""
        kept = os.path.join(self.shared, "written")
        with open(kept, "w", encoding="utf-8") as file:
            file.write(text)
        self.must(
            "install",
            "-D",
            "-m",
            f"{mode:o}",
            "-o",
            owner.split(":", maxsplit=1)[0],
            "-g",
            owner.split(":")[1],
            kept,
            path,
        )
        os.unlink(kept)

    def shows(self, unit: str, name: str) -> str:
        """The value of a property of a unit."""
        return self.must("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def wait_until(self, unit: str, name: str, pattern: str) -> None:
        """Wait until a property of a unit matches a pattern."""
        self.wait_for(lambda: re.search(pattern, self.shows(unit, name)), f"{name} like {pattern}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is met."""
        deadline = time.monotonic() + BOOT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}:\n{self.must('journalctl', '-n', '40')}"
            time.sleep(0.1)

    def journal(self, unit: str, *options: str) -> str:
        """The journal of a unit."""
        return self.must("journalctl", "--no-pager", "-o", "cat", "-u", unit, *options)


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@cache
def ensure_base() -> None:
    """Make the root file system, with the program of this tree. Raises SystemdUnavailableError.

    One process makes it, and others wait.
    """
    if os.geteuid() != 0:
        raise SystemdUnavailableError("only root can boot a container")
    for tool, package in (("debootstrap", "debootstrap"), ("systemd-nspawn", "systemd-container")):
        if shutil.which(tool) is None:
            raise SystemdUnavailableError(f"{tool} is not installed; the Debian package is called {package}")
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_base()


def _make_base() -> None:
    included = ",".join(PACKAGES)
    digest = hashlib.sha256(f"{included} {CONFIGURED}".encode()).hexdigest()
    if not os.path.exists(made := f"{BASE}/.made-{digest[:16]}"):
        shutil.rmtree(BASE, ignore_errors=True)
        _call("debootstrap", "--variant=minbase", f"--include={included}", "bookworm", BASE, _mirror())
        # PostgreSQL is started by the tests that need it.
        _call("chroot", BASE, "systemctl", "--quiet", "disable", "postgresql.service")
        for path, line in CONFIGURED.items():
            with open(f"{BASE}{path}", "w", encoding="ascii") as file:
                file.write(f"{line}\n")
        _call("touch", made)
    _install()


def _mirror() -> str:
    """Where this machine gets its Debian packages from; debootstrap's own choice where that is not found."""
    for path in [*glob.glob("/etc/apt/sources.list.d/*.sources"), "/etc/apt/sources.list"]:
        with suppress(OSError), open(path, encoding="utf-8") as file:
            found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+)", file.read(), re.MULTILINE)
            if found:
                return found[1]
    return ""


def _install() -> None:
    """Build the Debian package of this tree and install it, where that one is not installed yet.

    The wheels of its dependencies are kept as long as these do not change.
    """
    if os.path.exists(stamp := f"{BASE}/.installed-{_digest(ROOT, *SOURCES)}"):
        return
    wheels = f"{BASE}/wheels"
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "-w", wheels)
    if os.path.exists(kept := f"{BASE}/.wheels-{_digest(ROOT, 'constraints.txt', 'pyproject.toml')}"):
        for old in glob.glob(f"{wheels}/video_uploader-*.whl"):
            os.unlink(old)
        _call(*pip, "--no-deps", ROOT)
    else:
        shutil.rmtree(wheels, ignore_errors=True)
        _call(*pip, "-c", f"{ROOT}/constraints.txt", ROOT, "setuptools>=77")
        _call("touch", kept)
    for old in glob.glob(f"{BASE}/.installed-*"):
        os.unlink(old)
    _call("sh", "-c", f"rm -f {BASE}/{PACKAGE}*.deb")
    _call(f"{ROOT}/packaging/build-deb", sys.executable, BASE, wheels)
    _call("chroot", BASE, "dpkg", "--purge", PACKAGE)
    shutil.rmtree(f"{BASE}{PROGRAM}", ignore_errors=True)
    _call("chroot", BASE, "sh", "-c", f"dpkg -i /{PACKAGE}*.deb")
    _call("touch", stamp)


def _digest(root: str, *names: str) -> str:
    """A digest of files, and of those in directories, whose own names matter, too."""
    found = hashlib.sha256()
    for name in names:
        path = os.path.join(root, name)
        below = [os.path.join(where, one) for where, _, files in os.walk(path) for one in files]
        for file in sorted(below or [path]):
            if not file.endswith(".pyc"):
                with open(file, "rb") as content:
                    found.update(os.path.relpath(file, root).encode() + b"\0" + content.read())
    return found.hexdigest()[:16]


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise SystemdUnavailableError(f"`{' '.join(command[:3])} …` failed: {' '.join(said)}")


@contextmanager
def booted(shared: str) -> Iterator[Machine]:
    """A machine that has booted, with a directory at the same path as here, and the stand-in compressor."""
    ensure_base()
    # Beside the overlay, where the kernel grants read leases.
    os.mkdir(f"{shared}/videos")
    bound = [
        f"--bind={shared}",
        f"--bind={shared}/videos:/srv/videos",
        f"--bind-ro={ROOT}/tests:{COMPRESSOR}/tests",
        f"--bind-ro={sysconfig.get_path('purelib')}:{COMPRESSOR}/packages",
    ]
    with _layer() as root, _control_groups() as groups:
        options = ("-b", "--register=no", "--keep-unit", "--console=pipe")
        entered = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        enter = ("sh", "-c", f'{entered}exec "$@"', "sh")
        machine = _boot([*enter, "systemd-nspawn", "-q", "-D", root, *options, *bound], shared)
        try:
            yield machine
        finally:
            inside = [
                child for one in _children(machine.process) for child in (one, *one.children(recursive=True))
            ]
            for child in inside:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            machine.process.kill()
            machine.process.wait()
            psutil.wait_procs(inside, timeout=END_SECONDS)


def _boot(nspawn: Any, shared: str) -> Machine:
    with open(os.path.join(shared, "console.log"), "ab") as console:
        process = subprocess.Popen(nspawn, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        return _when_booted(process, shared)
    except BaseException:
        process.kill()
        process.wait()
        raise


@contextmanager
def _layer() -> Iterator[str]:
    """A root file system of its own above the one that is kept; a reboot keeps it."""
    with tempfile.TemporaryDirectory(prefix="machine-") as place:
        upper, work, root = (os.path.join(place, name) for name in ("upper", "work", "root"))
        for path in (upper, work, root):
            os.mkdir(path, 0o755)
        _call(
            *("mount", "-t", "overlay", "overlay", root),
            *("-o", f"lowerdir={BASE},upperdir={upper},workdir={work}"),
        )
        try:
            yield root
        finally:
            _call("umount", "--lazy", root)


@contextmanager
def _control_groups() -> Iterator[list[str]]:
    """Control groups of its own below those of this process, where systemd-nspawn makes the machine's.

    They have one name in all hierarchies, because systemd-nspawn makes that of one in the other, too.
    """
    made, name = [], f"machine-{secrets.token_hex(8)}"
    with open("/proc/self/cgroup", encoding="ascii") as groups:
        for _, controllers, path in (line.rstrip("\n").split(":", 2) for line in groups):
            places = {
                "": ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"),
                "name=systemd": ("/sys/fs/cgroup/systemd",),
            }
            for place in places.get(controllers, ()):
                if os.path.exists(f"{place}{path}/cgroup.procs"):
                    made.append(f"{place}{path.rstrip('/')}/{name}")
                    break
    try:
        for group in made:
            os.mkdir(group)
    except OSError as exc:
        raise SystemdUnavailableError(f"No control group can be made: {exc}") from exc
    try:
        yield made
    finally:
        deadline = time.monotonic() + END_SECONDS
        while any(map(os.path.exists, made)) and time.monotonic() < deadline:
            for below in (below for group in made for below, _, _ in os.walk(group, topdown=False)):
                with suppress(OSError):
                    os.rmdir(below)
            time.sleep(0.02)


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        found: list[psutil.Process] = psutil.Process(process.pid).children()
        return found
    return []


def _when_booted(process: subprocess.Popen[bytes], shared: str) -> Machine:
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline and process.poll() is None:
        for child in _children(process):
            machine = Machine(process, child.pid, shared)
            state = machine.run("systemctl", "is-system-running").out.strip()
            if state in {"running", "degraded"}:
                return machine
        time.sleep(0.1)
    with open(os.path.join(shared, "console.log"), encoding="utf-8", errors="replace") as console:
        raise SystemdUnavailableError(f"The container does not boot ({state}): {console.read()[-500:]}")
