"""The unit and its companions, judged by systemd's own tools: no running systemd is needed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "video-uploader.service"
DROP_IN = SYSTEMD / "video-uploader.service.d" / "10-compressor.conf.example"

EXPOSURE_LIMIT = 1.3


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's tools; the test is skipped where it is not installed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed; the package is called systemd")
    return subprocess.run(
        [tool, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )


def assignments(unit: Path) -> list[tuple[str, str]]:
    """The unit's assignments as (name, value), in order."""
    return [
        (name, value)
        for line in unit.read_text().splitlines()
        if line and not line.startswith(("#", "["))
        for name, _, value in [line.partition("=")]
    ]


@pytest.fixture(params=["alone", "with the drop-in"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit as a machine would have it, with a program that exists; once with the drop-in."""
    unit = tmp_path / UNIT.name
    program = assignment(UNIT, "ExecStart").split()[0]
    unit.write_text(UNIT.read_text().replace(program, sys.executable))
    if request.param == "with the drop-in":
        (tmp_path / DROP_IN.parent.name).mkdir()
        shutil.copy(DROP_IN, tmp_path / DROP_IN.parent.name / DROP_IN.name.removesuffix(".example"))
    return unit


def assignment(unit: Path, name: str) -> str:
    """The one value that the unit assigns to the name."""
    [value] = [value for given, value in assignments(unit) if given == name]
    return value


def test_systemd_has_nothing_to_say_about_the_unit(installed: Path) -> None:
    """Unknown keys are words on stderr and exit code 0: both are looked at."""
    verdict = run("systemd-analyze", "verify", installed)
    assert (verdict.returncode, verdict.stderr, verdict.stdout) == (0, "", "")


def test_the_unit_is_hardened_to_the_promised_exposure(installed: Path) -> None:
    verdict = run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={round(EXPOSURE_LIMIT * 10)}",
        "--json=short",
        installed,
    )
    findings = json.loads(verdict.stdout)
    exposures = {item["json_field"]: item["exposure"] for item in findings if item["exposure"]}
    assert verdict.returncode == 0, f"above {EXPOSURE_LIMIT}: {exposures}"


@pytest.mark.parametrize("unit", [UNIT, DROP_IN], ids=lambda unit: unit.name)
def test_every_directive_has_its_reason_beside_it(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith(("#", "[")) and not before.startswith("# ")
    ]
    assert bare == []


def test_the_unit_keeps_what_the_daemon_lives_on() -> None:
    """What hardening must not take away, and what the daemon counts on."""
    given = dict(assignments(UNIT))
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "ExecReload": "/bin/sh -c 'kill -HUP $MAINPID'",
        "StateDirectory": "%N",
        "StateDirectoryMode": "0700",
        "Restart": "on-failure",
        "AmbientCapabilities": "CAP_LEASE",
        "CapabilityBoundingSet": "CAP_LEASE",
        "PrivateUsers": "no",
    }
    assert {name: given.get(name) for name in expected} == expected
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(given["RestrictAddressFamilies"].split())


def test_the_drop_in_says_one_directory_in_all_its_places() -> None:
    given = dict(assignments(DROP_IN))
    directory = given["Environment"].removeprefix("COMPLETED_DIR=")
    assert given["RequiresMountsFor"] == given["ReadWritePaths"].removeprefix("-") == directory
    assert DROP_IN.read_text().count(directory) == 1 + 3, "once in the introduction, which counts three"


def test_the_credential_example_is_a_valid_one(installed: Path) -> None:
    text, count = re.subn(
        r"^#(?=LoadCredential=|Environment=AWS)", "", installed.read_text(), flags=re.MULTILINE
    )
    assert count == 2
    installed.write_text(text)
    verdict = run("systemd-analyze", "verify", installed)
    assert (verdict.returncode, verdict.stderr) == (0, "")


def test_systemd_sysusers_creates_the_units_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    verdict = run(
        "systemd-sysusers", "--dry-run", f"--root={tmp_path}", SYSTEMD / "video-uploader.sysusers.conf"
    )
    assert verdict.returncode == 0
    assert f"Creating user '{assignment(UNIT, 'User')}'" in verdict.stderr
    assert f"Creating group '{assignment(UNIT, 'Group')}'" in verdict.stderr


def test_systemd_tmpfiles_makes_the_files_with_keys_private(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    secrets = [tmp_path / "etc" / name for name in ("video-uploader.env", "video-uploader.aws-credentials")]
    for secret in secrets:
        secret.touch(mode=0o644)
    rules = tmp_path / "rules.conf"
    # Only root can give files to root.
    text = (SYSTEMD / "video-uploader.tmpfiles.conf").read_text()
    rules.write_text(re.sub("root (root|video-uploader)", "- -", text))
    verdict = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", rules)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    assert [secret.stat().st_mode & 0o777 for secret in secrets] == [0o640, 0o600]


def test_the_files_with_keys_are_those_the_unit_reads() -> None:
    text = UNIT.read_text()
    rules = (SYSTEMD / "video-uploader.tmpfiles.conf").read_text()
    kept_private = re.findall(r"^z (\S+) (?:0600 root root|0640 root \S+) -$", rules, flags=re.MULTILINE)
    assert len(kept_private) == 2
    assert all(path in text for path in kept_private)
