"""The command in a directory with a `.env`: which files it refuses, exposed secrets, and rotated keys."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.support.cli_process import Command
from tests.support.daemon_process import place_file, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import MakeSettings
from tests.support.media import Media
from tests.support.video_files import PATH

pytestmark = pytest.mark.long

SECRET = "a-very-secret-key"
DRY_RUN = ("run", "--once", "--dry-run")


@pytest.fixture
def env_file(place: str) -> str:
    """The `.env` of the directory that the command runs in."""
    path = os.path.join(place, ".env")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"AWS_ACCESS_KEY_ID=AKIA0\nAWS_SECRET_ACCESS_KEY={SECRET}\nUPLOAD_CONCURRENCY=7\n")
    os.chmod(path, 0o600)
    return path


@pytest.fixture
def command(place: str) -> Command:
    """The command, whose environment leaves the keys to the file."""
    return Command(
        place, "http://127.0.0.1:9", settings={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    )


@pytest.mark.parametrize("arguments", [("run",), ("run", "--once"), ("status",), ("config",), ("doctor",)])
def test_every_command_refuses_a_file_that_others_can_write(
    command: Command, env_file: str, arguments: tuple[str, ...]
) -> None:
    os.chmod(env_file, 0o666)
    ran = command(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "video-uploader: .env can be changed by every user; restrict it: chmod go-w .env\n"


def test_nor_one_that_others_can_replace(command: Command, env_file: str, place: str) -> None:
    os.chmod(place, 0o777)
    ran = command("--env-file", env_file, "status")
    assert ran.code == 2
    assert f"{env_file} can be replaced by every user" in ran.err


def test_secrets_that_every_user_can_read_are_logged(command: Command, env_file: str) -> None:
    assert "secrets_exposed" not in command(*DRY_RUN).err
    os.chmod(env_file, 0o644)
    ran = command(*DRY_RUN)
    assert ran.code == 0
    (line,) = [json.loads(line) for line in ran.err.splitlines()]
    assert (line["event"], line["level"]) == ("secrets_exposed", "warning")
    assert line["names"] == "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    assert line["hint"].endswith("chmod o-r .env")
    assert SECRET not in ran.err


def test_a_setting_that_is_set_and_has_no_effect_is_named(
    command: Command, env_file: str, place: str
) -> None:
    with open(env_file, "a", encoding="utf-8") as file:
        file.write(f"DATABASE_URL=sqlite:///{place}/state/ledger.sqlite3\nPOSTGRES_HOST=db.example\n")
    (line,) = [json.loads(line) for line in command(*DRY_RUN).err.splitlines()]
    assert (line["event"], line["level"], line["name"]) == ("setting_unused", "warning", "POSTGRES_HOST")
    sentence = "DATABASE_URL is set and names the database; unset one of the two."
    assert line["reason"] == sentence
    ran = command("config", "--json")
    assert (ran.code, json.loads(ran.out)["POSTGRES_HOST"]["value"]) == (0, "db.example")
    assert ran.err == f"video-uploader: POSTGRES_HOST is set and has no effect: {sentence}\n"


def test_with_the_compressors_documented_names_no_sqlite_file_is_used(
    command: Command, env_file: str, place: str
) -> None:
    with open(env_file, "a", encoding="utf-8") as file:
        file.write("POSTGRES_HOST=127.0.0.1\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD=p\nPOSTGRES_PORT=1\n")
    assert "port 1 failed" in command("run", "--once").refused(1)
    assert not os.path.exists(os.path.join(place, "state", "ledger.sqlite3"))


def test_keys_that_were_rotated_in_the_file_are_used_after_a_reload(
    settings: MakeSettings, proxy: FaultProxy, media: Media, env_file: str
) -> None:
    def refuse_old(request: Request, forward: Forward) -> Answer:
        is_old = "Credential=AKIA0/" in request.headers.get("Authorization", "")
        return s3_error(403, "InvalidAccessKeyId") if is_old else forward()

    proxy.fault = refuse_old
    chosen = settings()
    place_file(chosen, PATH, media.faststart)
    unset = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    with running_daemon(chosen, environment=unset) as daemon:
        daemon.expect("stage_paused")
        with open(env_file, "w", encoding="utf-8") as file:
            file.write(f"AWS_ACCESS_KEY_ID=AKIA1\nAWS_SECRET_ACCESS_KEY={SECRET}\n")
        daemon.signal(signal.SIGHUP)
        assert "AWS_ACCESS_KEY_ID" in daemon.expect("settings_reloaded")["changed"]
        daemon.expect("upload_released", path=PATH)
