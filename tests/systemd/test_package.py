"""The Debian package: what is in it, and that it comes and goes without a trace."""

from __future__ import annotations

import glob
import os
import subprocess

import pytest

from tests.support.source_tree import ROOT
from tests.systemd.compressor import COMPLETED
from tests.systemd.conftest import ENV_FILE, UNIT, Service
from tests.systemd.documents import block
from tests.systemd.machine import BASE, PACKAGE, Machine, SystemdUnavailableError, ensure_base

pytestmark = pytest.mark.timeout(1200)

NOT_FOUND = 1


@pytest.fixture
def package() -> str:
    """The package that is installed in the machines."""
    try:
        ensure_base()
    except SystemdUnavailableError as exc:
        exc.skip()
    (path,) = glob.glob(f"{BASE}/{PACKAGE}_*.deb")
    return path


def told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_package_has_what_a_debian_package_has(package: str, tmp_path: os.PathLike[str]) -> None:
    """Only files of root that nobody else can write, in the places of a package; no path of the build."""
    for line in told("dpkg-deb", "--contents", package).splitlines():
        mode, owner, _, _, _, path = line.split(maxsplit=5)
        assert owner == "root/root", line
        assert mode.startswith("l") or (mode[5], mode[8]) == ("-", "-"), line
        place = path.partition(" -> ")[0].rstrip("/")
        assert place == "." or place.startswith(("./opt", "./usr")), line
        assert "/local" not in place, line
    told("dpkg-deb", "--raw-extract", package, str(tmp_path))
    told("sh", "-c", f"cd {tmp_path} && md5sum --quiet --check DEBIAN/md5sums")
    for script in ("postinst", "prerm", "postrm"):
        told("sh", "-n", f"{tmp_path}/DEBIAN/{script}")
    places = [f"{tmp_path}{name}" for name in ("/opt/video-uploader/bin", "/usr/lib", "/usr/share")]
    build = subprocess.run(["grep", "-rIl", "-e", ROOT, *places], check=False, capture_output=True)
    assert build.returncode == NOT_FOUND, build.stdout
    fields = told("dpkg-deb", "--field", package, "Package", "Depends", "Architecture", "Description")
    assert "python3 (>= 3." in fields
    sources, compiled = (
        glob.glob(f"{tmp_path}/opt/**/*.{ending}", recursive=True) for ending in ("py", "pyc")
    )
    assert len(compiled) > len(sources) * 0.9


def test_the_package_comes_works_and_goes_without_a_trace(machine: Machine, package: str) -> None:
    """Nothing of it is left after the purge, not even the user, the settings and the ledger."""
    machine.must("dpkg", "--purge", PACKAGE)
    before = everything(machine)
    machine.must("dpkg", "--install", f"/{os.path.basename(package)}")
    assert machine.must("stat", "-c", "%a %U %G", ENV_FILE).split() == ["640", "root", "video-uploader"]
    assert machine.must("video-uploader", "--no-service", "--version").startswith("video-uploader ")
    machine.must("install", "-d", "-o", "video-uploader", "-g", "video-uploader", COMPLETED)
    machine.must("video-uploader", "systemd", "install", "--directory", COMPLETED)
    machine.must("systemctl", "enable", "--now", UNIT)
    assert machine.shows(UNIT, "ActiveState") == "active"
    machine.must("systemctl", "enable", "video-uploader@other")
    machine.must("touch", "/etc/video-uploader@other.env")
    machine.must("mkdir", "/var/lib/video-uploader@other")
    remove, purge = block("docs/operations.md", "Uninstall", "apt").splitlines()
    machine.sh(remove)
    assert machine.shows(UNIT, "ActiveState") == "inactive"
    assert machine.must("ls", "/var/lib/video-uploader").split()
    machine.sh(purge)
    machine.must("rm", "-r", COMPLETED)
    assert everything(machine) - before == set()


def everything(machine: Machine) -> set[str]:
    """The paths of what a package may leave behind."""
    places = ("/etc", "/opt", "/usr", "/var/lib")
    found = machine.run("find", *places).out.splitlines()
    ignored = (
        "/var/lib/apt/",
        "/var/lib/dpkg/",
        "/var/lib/systemd/",
        "/etc/passwd-",
        "/etc/group-",
        "/etc/shadow-",
        "/etc/gshadow-",
    )
    users = machine.must("cat", "/etc/passwd", "/etc/group").splitlines()
    return {path for path in found if not path.startswith(ignored) and not path.endswith("-")} | set(users)


def test_an_upgrade_restarts_what_ran(service: Service, package: str) -> None:
    """One that cannot start yet does not keep the package from being installed, and starts when it can."""
    service.start()
    first = service.machine.shows(UNIT, "MainPID")
    service.machine.must("dpkg", "--install", f"/{os.path.basename(package)}")
    assert service.machine.shows(UNIT, "ActiveState") == "active"
    assert service.machine.shows(UNIT, "MainPID") != first
    service.machine.must("mv", COMPLETED, f"{COMPLETED}-away")
    said = service.machine.run("dpkg", "--install", f"/{os.path.basename(package)}")
    assert "has not started yet" in said.err
    assert said.code == 0
    service.machine.must("mv", f"{COMPLETED}-away", COMPLETED)
    service.machine.wait_until(UNIT, "ActiveState", "^active$")
