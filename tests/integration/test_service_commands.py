"""Commands of root run as the installed service does; a program of this test stands in for systemctl."""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.cli_process import Command
from tests.support.source_tree import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

USER = "nobody"
Environment = dict[str, str | None]
Installed = Callable[..., Environment]


@pytest.fixture
def offline_command(offline_command: Command) -> Command:
    """The command with an interpreter that every user can run, and that has what this one has installed."""
    library = os.__file__
    while library != "/":
        if not os.stat(library).st_mode & stat.S_IROTH:
            break
        library = os.path.dirname(library)
    else:
        return offline_command
    interpreter = f"/usr/bin/python3.{sys.version_info.minor}"
    if os.access(interpreter, os.X_OK):
        paths = os.pathsep.join([ROOT, sysconfig.get_path("purelib")])
        settings = {**offline_command.settings, "PYTHONPATH": paths}
        return replace(offline_command, interpreter=interpreter, settings=settings)
    pytest.skip(f"other users cannot read {library}, where this Python is, and there is no other one")


@pytest.fixture
def installed(place: str, offline_command: Command) -> Installed:
    """Makes a unit whose state directory belongs to `USER`; returns the environment in which it is found."""

    def make(load_state: str = "loaded", user: str = "root", **environment: str) -> Environment:
        os.chmod(place, 0o755)
        state, completed, programs = (os.path.join(place, name) for name in ("service", "videos", "programs"))
        for directory in (state, completed, programs):
            os.makedirs(directory, exist_ok=True)
        account = pwd.getpwnam(USER)
        os.chown(state, account.pw_uid, account.pw_gid)
        env_file = os.path.join(place, "service.env")
        with open(env_file, "w", encoding="utf-8") as file:
            file.write(f"COMPLETED_DIR={completed}\nAWS_S3_BUCKET=of-the-service\n")
        os.chmod(env_file, 0o640)
        os.chown(env_file, 0, account.pw_gid)
        shown = {
            "LoadState": load_state,
            "ExecStart": f"{{ path=/x ; argv[]=/x --env-file {env_file} run ; ignore_errors=no ; pid=0 }}",
            "Environment": " ".join(f'"{name}={value}"' for name, value in environment.items()),
            "User": user,
            "StateDirectory": os.path.relpath(state, "/var/lib"),
            "WorkingDirectory": f"!{state}",
        }
        program = os.path.join(programs, "systemctl")
        with open(program, "w", encoding="utf-8", errors="surrogateescape") as file:
            lines = "\n".join(f"{name}={value}" for name, value in shown.items())
            file.write(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        os.chmod(program, os.stat(program).st_mode | stat.S_IXUSR)
        unset = ("STATE_DIRECTORY", "COMPLETED_DIR", "AWS_S3_BUCKET", "DATABASE_URL")
        return {"PATH": f"{programs}:{os.environ['PATH']}", **dict.fromkeys(unset)}

    return make


def test_root_gets_the_settings_of_the_service(offline_command: Command, installed: Installed) -> None:
    found = installed(LOG_LEVEL="DEBUG", AWS_S3_CACHE_CONTROL="a b")
    ran = offline_command("config", "--json", **found)
    assert ran.code == 0
    assert f"user {USER}" in ran.err
    values = {name: entry["value"] for name, entry in json.loads(ran.out).items()}
    assert values["AWS_S3_BUCKET"] == "of-the-service"
    assert (values["LOG_LEVEL"], values["AWS_S3_CACHE_CONTROL"]) == ("DEBUG", "a b")


def test_bytes_of_the_unit_that_are_no_text_do_not_make_root_do_without_the_service(
    offline_command: Command, installed: Installed
) -> None:
    ran = offline_command("config", **installed(NAME_OF_ANOTHER="caf\udce9"))
    assert (ran.code, f"user {USER}" in ran.err) == (0, True)


def test_what_root_makes_belongs_to_the_service(
    offline_command: Command, installed: Installed, place: str
) -> None:
    assert offline_command("db", "migrate", **installed()).code == 0
    made = os.listdir(os.path.join(place, "service"))
    assert made
    owners = {os.stat(os.path.join(place, "service", name)).st_uid for name in made}
    assert owners == {pwd.getpwnam(USER).pw_uid}


def test_before_its_first_start_its_state_directory_is_made_as_systemd_makes_it(
    offline_command: Command, installed: Installed, place: str
) -> None:
    """So `doctor` and `db migrate` can be the first commands after the installation."""
    found = installed(user=USER)
    state = os.path.join(place, "service")
    os.rmdir(state)
    assert offline_command("db", "migrate", **found).code == 0
    made = os.stat(state)
    assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (pwd.getpwnam(USER).pw_uid, 0o700)


@pytest.mark.parametrize("arguments", [("--no-service", "config"), ("--env-file", "other.env", "config")])
def test_root_can_do_without(
    offline_command: Command, installed: Installed, place: str, arguments: tuple[str, ...]
) -> None:
    with open(os.path.join(place, "other.env"), "w", encoding="utf-8"):
        pass
    found = installed() | {"COMPLETED_DIR": place}
    ran = offline_command(*arguments, **found)
    assert (ran.code, "as video-uploader.service does" in ran.err) == (0, False)
    assert "of-the-service" not in ran.out


def test_a_unit_that_is_not_there_changes_nothing(
    offline_command: Command, installed: Installed, place: str
) -> None:
    found = installed(load_state="not-found") | {"COMPLETED_DIR": place}
    ran = offline_command("config", **found)
    assert (ran.code, ran.err) == (0, "")


def test_the_daemon_under_systemd_becomes_nothing_else(
    offline_command: Command, installed: Installed, place: str
) -> None:
    found = installed() | {"COMPLETED_DIR": place, "INVOCATION_ID": "0" * 32}
    assert "of-the-service" not in offline_command("config", **found).out
