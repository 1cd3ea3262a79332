"""No secret is ever shown: all that a run, every command and every failure wrote is searched for the keys."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from storage import ObjectStore
from tests.support.cli_process import Command
from tests.support.daemon_process import environment_of, running_daemon
from tests.support.fault_proxy import FaultProxy, s3_error
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.media import Media
from tests.support.ports import free_address
from tests.support.secret_search import ensure_untold, files_below, shapes_of
from watcher.app.factories import make_storage_config, open_ledger_database
from watcher.cli.app import COMMANDS as REGISTERED
from watcher.cli.app import loaded
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_USAGE

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/good_720p.mp4"
PASSWORD = "p4ss/w0rd@of:the#database"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIADISTINCTIVEKEYID",
    "AWS_SECRET_ACCESS_KEY": "wJalrDistinctiveSecret/K7MDENG+bPxRfi",
    "AWS_SESSION_TOKEN": "FwoGZXDistinctiveToken==",
    "POSTGRES_PASSWORD": PASSWORD,
}
"""The values are like no other text anywhere, so that one that is found is one that was shown."""

SHAPES = shapes_of(SECRETS.values())
UNREACHABLE = f"postgresql://someone:{quote(PASSWORD, safe='')}@127.0.0.1:1/nowhere"
MALFORMED = f"postgresql://someone:{PASSWORD}@127.0.0.1:port/nowhere"

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("list",),
    ("list", "--json"),
    ("explain", PATH),
    ("explain", VIDEO_ID),
    ("retry", "--all"),
    ("upload", PATH),
    ("exists", PATH),
    ("delete", "--yes", PATH),
    ("audit",),
    ("audit", "--json"),
    ("config",),
    ("config", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("doctor", "--iam"),
    ("bucket", "show"),
    ("bucket", "setup", "--dry-run"),
    ("bucket", "setup"),
    ("db", "migrate"),
    ("db", "status"),
    ("db", "status", "--json"),
    ("ledger", "rebuild"),
    ("prioritize", PATH),
    ("pause",),
    ("resume",),
    ("hold", PATH),
    ("unhold", PATH),
    ("release", PATH),
    ("forget", "--yes", PATH),
    ("drain", "--timeout", "0"),
    ("systemd", "install", "--dry-run"),
    ("systemd", "uninstall", "--dry-run"),
)
GROUPS = {"bucket", "db", "ledger", "systemd"}
BROKEN_STAGE = """
import watcher.stages.upload

def advance(self, uploads, work):
    secrets = dict(__import__("os").environ)
    raise RuntimeError("broken on purpose")

watcher.stages.upload.UploadStage.advance = advance
"""


def ensure_secret(*written: str | bytes) -> None:
    """None of the secrets is in what was written, in no shape."""
    assert written
    ensure_untold(*written, secrets=SHAPES)


@pytest.fixture
def command(place: str, proxy: FaultProxy, media: Media) -> Command:
    """The command with distinctive secrets, beside one good file."""
    directory = os.path.join(place, "completed", VIDEO_ID)
    os.makedirs(directory)
    shutil.copy(media.faststart, os.path.join(directory, "good_720p.mp4"))
    return Command(place, proxy.url, settings=SECRETS)


def ensure_all_commands_keep_secrets(command: Command, **changes: str) -> dict[tuple[str, ...], int]:
    """Every command, at its most talkative; returns their exit codes."""
    codes = {}
    for arguments in COMMANDS:
        ran = command.here(*arguments, **{"LOG_LEVEL": "DEBUG", **changes})
        ensure_secret(ran.out + ran.err)
        codes[arguments] = ran.code
    return codes


def ensure_runs_keep_secrets(command: Command, **changes: str) -> None:
    for log_format in ("json", "console"):
        ran = command("run", "--once", LOG_FORMAT=log_format, **{"LOG_LEVEL": "DEBUG", **changes})
        assert ran.err
        ensure_secret(ran.out + ran.err)


@pytest.mark.usefixtures("server")
def test_a_daemon_and_every_command_show_no_secret(
    settings: MakeSettings, command: Command, media: Media, place: str
) -> None:
    address = free_address()
    chosen = settings(**SECRETS, METRICS_ADDRESS=address, LOG_LEVEL="DEBUG", KEEP_LOCAL=True)
    with running_daemon(chosen) as daemon:
        daemon.expect("upload_published", path=PATH)
        with urlopen(f"http://{address}/metrics") as answer:
            scraped = answer.read()
        assert b"video_uploader_uploads" in scraped
        ensure_secret(scraped)
        daemon.signal(signal.SIGHUP)
        daemon.expect("settings_reloaded")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    ensure_secret(bytes(daemon.raw), *files_below(place))
    url = {"DATABASE_URL": f"sqlite://{place}/state/ledger.sqlite3"}
    codes = ensure_all_commands_keep_secrets(command, **url)
    assert {arguments for arguments, code in codes.items() if code == EXIT_USAGE} == set()
    ensure_secret(*files_below(place))


def test_a_whole_terminal_shows_no_secret(command: Command, proxy: FaultProxy, place: str) -> None:
    """After an upload that S3 refused, whose words are shown."""
    url = {"DATABASE_URL": f"sqlite://{place}/state/ledger.sqlite3"}
    proxy.fault = lambda _request, _forward: s3_error(403, "SignatureDoesNotMatch")
    assert command("run", "--once", **url).code == EXIT_FAILED
    with command.on_terminal("top", **url) as terminal:
        terminal.read_until(rb"Last errors")
        terminal.type(b"q")
        assert terminal.end() == 0
    ensure_secret(terminal.shown)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "NeverHeardOf"])
def test_wrong_credentials_are_told_of_without_them(command: Command, proxy: FaultProxy, code: str) -> None:
    """With a code that nobody knows, too, though then the server's own words are passed on."""
    proxy.fault = lambda _request, _forward: s3_error(403 if code != "NeverHeardOf" else 400, code)
    assert ensure_all_commands_keep_secrets(command)["upload", PATH] == EXIT_FAILED
    assert proxy.requests


def test_a_run_with_wrong_credentials_shows_none(command: Command, proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "SignatureDoesNotMatch")
    ensure_runs_keep_secrets(command)


@pytest.mark.parametrize("url", [UNREACHABLE, MALFORMED], ids=["unreachable", "malformed"])
def test_a_database_url_is_complained_about_without_its_password(command: Command, url: str) -> None:
    codes = ensure_all_commands_keep_secrets(command, DATABASE_URL=url)
    assert codes["status",] == (EXIT_FAILED if url == UNREACHABLE else EXIT_USAGE)
    ensure_runs_keep_secrets(command, DATABASE_URL=url)


def test_the_password_of_the_compressors_database_is_not_shown_either(command: Command) -> None:
    ensure_all_commands_keep_secrets(command, POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1", POSTGRES_DB="x")


@pytest.mark.usefixtures("server", "command")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_traceback_of_an_internal_error_shows_no_secret(
    settings: MakeSettings, place: str, log_format: str
) -> None:
    """The secrets stand in the local variables of the very function that fails."""
    os.mkdir(modules := os.path.join(place, "modules"))
    with open(os.path.join(modules, "sitecustomize.py"), "w", encoding="utf-8") as file:
        file.write(BROKEN_STAGE)
    chosen = settings(**SECRETS, LOG_LEVEL="DEBUG", LOG_FORMAT=log_format)
    tree = environment_of(chosen)["PYTHONPATH"]
    with running_daemon(chosen, environment={"PYTHONPATH": f"{modules}:{tree}"}) as daemon:
        while b"broken on purpose" not in daemon.raw:
            assert daemon.read_more(), daemon.raw
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert b"Traceback" in daemon.raw
    assert b"internal_error" in daemon.raw
    ensure_secret(bytes(daemon.raw))


def test_nothing_that_holds_secrets_shows_them_when_it_is_printed(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Mapping[str, Any] = {**SECRETS, "DATABASE_URL": UNREACHABLE}
    chosen = settings(**changes)
    config = make_storage_config(chosen)
    database = open_ledger_database(chosen)
    with ObjectStore(config) as store:
        for holder in (chosen, config, database, store):
            for text in (repr(holder), str(holder), f"{holder}"):
                ensure_untold(text, secrets=SHAPES - {SECRETS["AWS_ACCESS_KEY_ID"].encode()})
    database.close()


def test_every_command_is_among_those_tried() -> None:
    every = {
        (name, *below)
        for name in REGISTERED
        for below in ([(one,) for one in loaded(name).commands] if name in GROUPS else [()])
    }
    tried = {arguments[: 2 if arguments[0] in GROUPS else 1] for arguments in COMMANDS}
    assert tried | {("run",), ("top",)} == every
