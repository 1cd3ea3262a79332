"""Usage of the command: `config`, help, and errors of arguments and settings."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.cli_process import GOOD, Command
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from watcher.cli.app import COMMANDS as REGISTERED
from watcher.cli.app import loaded
from watcher.settings import Settings
from watcher.telemetry.redaction import MASK

pytestmark = pytest.mark.long

COMMANDS = {
    "audit",
    "run",
    "status",
    "top",
    "list",
    "explain",
    "retry",
    *("prioritize", "pause", "resume", "hold", "unhold", "release", "forget", "drain"),
    "upload",
    "exists",
    "delete",
    "config",
    "doctor",
}


def test_config_shows_every_setting_with_its_source_and_no_secret(offline_command: Command) -> None:
    with open(os.path.join(offline_command.place, "settings"), "w", encoding="utf-8") as file:
        file.write("UPLOAD_CONCURRENCY=7\nAWS_REGION=from-the-file\nPENDING_DIR=/x\n")
    database = "postgresql://u:s3cr3t@127.0.0.1:1/db"
    changes = {"DATABASE_URL": database, "CATALOG": "own"}
    shown = offline_command("--env-file", "settings", "config", "--json", **changes).json()
    assert list(shown) == [name.upper() for name in Settings.model_fields]
    assert shown["UPLOAD_CONCURRENCY"] == {"value": "7", "source": "settings"}
    assert shown["AWS_REGION"] == {"value": REGION, "source": "environment"}
    assert shown["RESCAN_SECONDS"] == {"value": "300", "source": "default"}
    assert shown["AWS_SECRET_ACCESS_KEY"] == {"value": MASK, "source": "environment"}
    assert shown["DATABASE_URL"]["value"] == f"postgresql://u:{MASK}@127.0.0.1:1/db"
    ran = offline_command("config", **changes)
    assert ran.out.splitlines()[0].split() == ["NAME", "VALUE", "FROM"]
    for secret in (SECRET_ACCESS_KEY, ACCESS_KEY_ID, "s3cr3t"):
        assert secret not in ran.out + json.dumps(shown)


def test_a_file_named_env_in_the_working_directory_counts(offline_command: Command) -> None:
    with open(os.path.join(offline_command.place, ".env"), "w", encoding="utf-8") as file:
        file.write("UPLOAD_CONCURRENCY=7\n")
    assert offline_command("config", "--json").json()["UPLOAD_CONCURRENCY"] == {
        "value": "7",
        "source": ".env",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frob",), "No such command 'frob'"),
        (("run", "--twice"), "No such option"),
        (("run", "--dry-run"), "--dry-run requires --once"),
        (("list", "--state", "lost"), "'lost' is not one of 'pending'"),
        (("list", "--video", "720p"), "is not a UUID"),
        (("explain",), "Missing argument"),
        (("retry",), "Give either ids"),
        (("retry", "1", "--all"), "Give either ids"),
        (("retry", "one"), "Invalid value"),
        (("retry", "9" * 30), "Invalid value"),
        (("retry", "--state", "released"), "nothing to retry"),
        (("--env-file", "not-there", "config"), "There is no file not-there"),
        (("--env-file", ".", "config"), "There is no file ."),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(
    offline_command: Command, arguments: tuple[str, ...], message: str
) -> None:
    assert message in offline_command(*arguments).refused(2)


@pytest.mark.parametrize("arguments", [("run",), ("list",), ("explain", "x"), ("config",)])
def test_a_wrong_setting_is_one_sentence_and_2_for_every_command(
    offline_command: Command, arguments: tuple[str, ...]
) -> None:
    sentence = offline_command(*arguments, UPLOAD_CONCURRENCY="many").refused(2)
    assert sentence.startswith("UPLOAD_CONCURRENCY: ")
    assert sentence.endswith("; allowed: 1 to 64")


def test_all_wrong_settings_are_told_at_once(offline_command: Command) -> None:
    ran = offline_command("run", UPLOAD_CONCURRENCY="0", LOG_LEVEL="LOUD", COMPLETED_DIR=None)
    assert (ran.code, ran.out) == (2, "")
    names = [line.split(":")[1].strip() for line in ran.err.splitlines()]
    assert sorted(names) == ["COMPLETED_DIR", "LOG_LEVEL", "UPLOAD_CONCURRENCY"]


def test_a_directory_that_is_not_there_is_1(offline_command: Command) -> None:
    missing = os.path.join(offline_command.place, "missing")
    assert missing in offline_command("run", "--once", COMPLETED_DIR=missing).refused(1)
    assert missing in offline_command("run", "--once", "--dry-run", COMPLETED_DIR=missing).refused(1)


def test_a_database_that_does_not_answer_is_1_without_its_password(offline_command: Command) -> None:
    url = "postgresql://u:s3cr3t@127.0.0.1:1/db"
    sentence = offline_command("status", DATABASE_URL=url, CATALOG="own").refused(1)
    assert "DATABASE_URL" in sentence
    assert "s3cr3t" not in sentence


def test_a_state_directory_that_cannot_be_made_is_1(offline_command: Command) -> None:
    sentence = offline_command("run", "--once", STATE_DIRECTORY="/proc/nowhere").refused(1)
    assert "STATE_DIRECTORY" in sentence


def test_the_help_names_every_command_that_there_is(offline_command: Command) -> None:
    ran = offline_command("--help")
    assert ran.code == 0
    assert set(REGISTERED) == COMMANDS | {"bucket", "db", "ledger", "systemd"}
    section = ran.out.partition("Commands")[2]
    assert set(re.findall(r"^\W*([a-z]+)\s", section, re.MULTILINE)) >= set(REGISTERED)


@pytest.mark.parametrize("name", REGISTERED)
def test_the_help_says_of_a_command_what_the_command_says_itself(name: str) -> None:
    said = inspect.cleandoc(loaded(name).help)
    assert said.splitlines()[0] == REGISTERED[name][1]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_neither_the_database_nor_s3(option: str) -> None:
    program = (
        "import contextlib, sys; from watcher.cli import main; sys.argv[1:] = [%r]\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program % option], capture_output=True, text=True, check=True)
    loaded_packages = set(ast.literal_eval(ran.stderr))
    assert loaded_packages.isdisjoint(
        {*("db", "storage", "peewee", "boto3", "botocore", "awscrt"), *("pydantic", "rich", "structlog")}
    )


def test_looking_at_the_ledger_loads_nothing_of_s3() -> None:
    program = (
        "import sys, watcher.cli.status, watcher.cli.list, watcher.cli.explain; print(list(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"boto3", "botocore", "awscrt"}.isdisjoint(ast.literal_eval(ran.stdout))


@pytest.mark.parametrize(
    "arguments", [("list",), ("status",), ("status", "--all"), ("list", "--json"), ("explain", GOOD)]
)
def test_a_look_at_the_ledger_loads_only_what_it_needs(
    offline_command: Command, arguments: tuple[str, ...]
) -> None:
    """Where the output is no terminal and the ledger on SQLite: what is left out takes twice as long."""
    offline_command("db", "migrate")
    ran = offline_command(*arguments, PYTHONVERBOSE="1")
    packages = set(re.findall(r"^import '(\w+)[\w.]*' #", ran.err, re.MULTILINE))
    assert {"peewee", "pydantic", "typer"} <= packages
    assert packages.isdisjoint(
        {
            *("psycopg", "psycopg_binary", "boto3", "botocore", "awscrt", "urllib3", "watchdog"),
            *("rich", "structlog", "prometheus_client", "jinja2", "starlette", "uvicorn", "h11"),
            *("asyncio", "concurrent", "ssl", "http", "multiprocessing", "pydantic_settings"),
        }
    )


def test_the_daemon_loads_nothing_that_draws_on_a_terminal() -> None:
    """Rich and what it imports would take 6 MiB for as long as it runs; it can still be imported."""
    script = (
        "import sys; from watcher.cli.app import loaded; loaded('run'); print(list(sys.modules));"
        "import rich.console, structlog; rich.console.Console; structlog.dev.ConsoleRenderer"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in ast.literal_eval(ran.stdout)}
    assert {"structlog", "botocore", "awscrt"} <= packages
    assert packages.isdisjoint({"rich", "pygments", "attr"})


def test_what_a_command_imports_is_not_searched_for_garbage() -> None:
    program = (
        "import atexit, gc, sys; from watcher.__main__ import main; sys.argv[1:] = ['list', '--help']\n"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count(), file=sys.stderr))\n"
        "main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    is_enabled, kept = ran.stderr.split()
    assert is_enabled == "True"
    assert int(kept) > 10_000


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_without_any_setting(offline_command: Command, command: str) -> None:
    ran = offline_command(command, "--help", COMPLETED_DIR=None)
    assert (ran.code, ran.err) == (0, "")
    assert f"Usage: video-uploader {command}" in ran.out


def test_the_bare_command_shows_its_help_and_is_wrong_usage(offline_command: Command) -> None:
    ran = offline_command()
    assert ran.code == 2
    assert "Usage: video-uploader" in ran.out
    assert ran.err == "video-uploader: No command was given; see --help.\n"


def test_the_version_is_told(offline_command: Command) -> None:
    assert re.fullmatch(r"video-uploader \d+\.\d+\.\d+\n", offline_command("--version").out)
