"""`systemd install` and `uninstall`: the files of the service, below a directory that stands for /."""

from __future__ import annotations

import getpass
import grp
import os
import stat
from pathlib import Path

import pytest

from tests.integration.test_systemd_unit import assignments, run
from tests.support.cli_process import Command
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

UNITS = "etc/systemd/system"
UNIT, TEMPLATE = (f"{UNITS}/{name}.service" for name in ("video-uploader", "video-uploader@"))
DROP_IN = f"{UNITS}/video-uploader.service.d/10-compressor.conf"
SYSUSERS, TMPFILES = (f"etc/{kind}.d/video-uploader.conf" for kind in ("sysusers", "tmpfiles"))
ENV_FILE = "etc/video-uploader.env"


def installed(root: Path) -> set[str]:
    """The files below a root."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_is_installed_is_what_systemd_takes_and_what_uninstall_removes(
    offline_command: Command, tmp_path: Path
) -> None:
    user = getpass.getuser()
    place = "/home/a compressor/100% done"
    arguments = ("install", "--root", str(tmp_path), "--user", user, "--directory", place)
    ran = offline_command.here("systemd", *arguments)
    assert (ran.code, ran.err) == (0, "")
    assert installed(tmp_path) == {UNIT, TEMPLATE, DROP_IN, TMPFILES, ENV_FILE}
    given = dict(assignments(tmp_path / DROP_IN))
    assert given["User"] == user
    assert given["Environment"] == '"COMPLETED_DIR=/home/a compressor/100%% done"'
    assert given["ReadWritePaths"] == '"-/home/a compressor/100%% done"'
    assert given["ProtectHome"] == "no"
    assert stat.S_IMODE((tmp_path / ENV_FILE).stat().st_mode) == 0o640
    group = grp.getgrgid(os.getgid()).gr_name
    assert f"z /{ENV_FILE} 0640 root {group} -" in (tmp_path / TMPFILES).read_text()
    verdict = run("systemd-analyze", "verify", tmp_path / UNIT)
    assert [line for line in verdict.stderr.splitlines() if "is not executable" not in line] == []
    assert "Wrote" not in offline_command.here("systemd", *arguments).out
    assert offline_command.here("systemd", "uninstall", "--root", str(tmp_path)).code == 0
    assert installed(tmp_path) == set()
    assert "Nothing" in offline_command.here("systemd", "uninstall", "--root", str(tmp_path)).refused(1)


def test_what_an_operator_has_made_is_neither_replaced_nor_removed(
    offline_command: Command, tmp_path: Path
) -> None:
    root = ("--root", str(tmp_path))
    assert offline_command.here("systemd", "install", *root, "--env-file", "/etc/own name.env").code == 0
    assert installed(tmp_path) == {UNIT, SYSUSERS, TMPFILES, "etc/own name.env"}
    settings = tmp_path / "etc/own name.env"
    settings.write_text("COMPLETED_DIR=/srv\n")
    assert '--env-file "/etc/own name.env" run' in (tmp_path / UNIT).read_text()
    assert offline_command.here("systemd", "install", *root, "--env-file", "/etc/own name.env").code == 0
    assert settings.read_text() == "COMPLETED_DIR=/srv\n"
    (tmp_path / UNIT).write_text("[Service]\n")
    assert "move it away first" in offline_command.here("systemd", "install", *root).refused(2)
    assert offline_command.here("systemd", "uninstall", *root).code == 0
    assert installed(tmp_path) == {UNIT, "etc/own name.env"}


@pytest.mark.parametrize("repeated", [(), ("--user",), ("--directory",)])
def test_an_installation_that_is_repeated_keeps_what_it_is_not_given(
    offline_command: Command, tmp_path: Path, repeated: tuple[str, ...]
) -> None:
    """As after an upgrade: without it the daemon would run as another user, or without its directory."""
    given = {"--user": getpass.getuser(), "--directory": '/srv/a "compressor"/100% done'}
    root = ("--root", str(tmp_path))
    every = [word for pair in given.items() for word in pair]
    assert offline_command.here("systemd", "install", *root, *every).code == 0
    before = {path: (tmp_path / path).read_text() for path in installed(tmp_path)}
    words = [word for name in repeated for word in (name, given[name])]
    assert offline_command.here("systemd", "install", *root, *words).code == 0
    assert {path: (tmp_path / path).read_text() for path in installed(tmp_path)} == before


def test_a_dry_run_prints_every_file_and_writes_none(offline_command: Command, tmp_path: Path) -> None:
    ran = offline_command.here(
        "systemd", "install", "--dry-run", "--root", str(tmp_path), "--directory", "/srv/v"
    )
    assert (ran.code, installed(tmp_path)) == (0, set())
    for path in (UNIT, TEMPLATE, DROP_IN, SYSUSERS, TMPFILES, ENV_FILE):
        assert f"# /{path}" in ran.out
    sample = ran.out.partition(f"# /{ENV_FILE}")[2].splitlines()
    assert [line for line in sample[1:] if line and not line.startswith("#")] == []
    names = {line[1:].partition("=")[0] for line in sample if line.startswith("#") and line[1:2].isalpha()}
    assert names == {field.upper() for field in Settings.model_fields}


def test_an_unknown_user_is_refused(offline_command: Command, tmp_path: Path) -> None:
    ran = offline_command.here("systemd", "install", "--root", str(tmp_path), "--user", "no-such-user")
    assert "There is no user no-such-user" in ran.refused(2)
