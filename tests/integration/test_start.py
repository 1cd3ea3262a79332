"""What is missing when the daemon starts is waited out: systemd is told what it is, and not READY."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from psycopg import sql

from tests.faults.mounts import small_disk
from tests.support.daemon_process import DaemonProcess, command, environment_of, place_file, running_daemon
from tests.support.harness import MakeSettings
from tests.support.media import Media
from tests.support.notify_socket import expect_message, notify_socket
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from tests.support.video_files import PATH
from watcher.settings import Settings

pytestmark = pytest.mark.long


@dataclass
class Missing:
    """Something that the daemon lacks: settings for it, a word of the sentence, and what mends it."""

    settings: Settings
    word: str
    mend: Callable[[], object]


def _no_directory(stack: ExitStack, settings: MakeSettings, place: str, postgres: PostgresServer) -> Missing:
    chosen = settings(COMPLETED_DIR=f"{place}/not-yet")
    return Missing(chosen, "not-yet", lambda: os.mkdir(chosen.completed_dir))


def _no_access(stack: ExitStack, settings: MakeSettings, place: str, postgres: PostgresServer) -> Missing:
    """It is no directory, which not even root can list."""
    chosen = settings(COMPLETED_DIR=f"{place}/file")
    with open(chosen.completed_dir, "wb"):
        pass

    def mend() -> None:
        os.unlink(chosen.completed_dir)
        os.mkdir(chosen.completed_dir)

    return Missing(chosen, "Not a directory", mend)


def _full_disk(stack: ExitStack, settings: MakeSettings, place: str, postgres: PostgresServer) -> Missing:
    disk = stack.enter_context(small_disk(f"{place}/disk"))
    disk.fill()
    return Missing(settings(DATABASE_URL=f"sqlite://{disk.path}/ledger.sqlite3"), "space", disk.empty)


def _refused(stack: ExitStack, settings: MakeSettings, place: str, postgres: PostgresServer) -> Missing:
    url = stack.enter_context(postgres.fresh_database())
    name = sql.Identifier(urlsplit(url).path.removeprefix("/"))
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    postgres.execute(allow.format(name, sql.SQL("false")))
    mend = allow.format(name, sql.SQL("true"))
    return Missing(
        settings(DATABASE_URL=url, CATALOG="none"),
        "not currently accepting connections",
        lambda: postgres.execute(mend),
    )


def _old_tables(stack: ExitStack, settings: MakeSettings, place: str, postgres: PostgresServer) -> Missing:
    chosen = settings(DATABASE_AUTO_MIGRATE=False)
    return Missing(chosen, "db migrate", lambda: command(chosen, "db", "migrate"))


@pytest.fixture(params=[_no_directory, _no_access, _full_disk, _refused, _old_tables])
def missing(
    request: pytest.FixtureRequest, settings: MakeSettings, place: str, postgres: PostgresServer
) -> Iterator[Missing]:
    """Each of the things that can be missing."""
    with ExitStack() as stack:
        yield request.param(stack, settings, place, postgres)


@contextmanager
def waiting_daemon(missing: Missing, place: str) -> Iterator[tuple[DaemonProcess, Callable[[str], str]]]:
    """A daemon that has said what it lacks, and what reads the messages that it sends to systemd."""
    with (
        notify_socket(place) as (path, messages),
        running_daemon(missing.settings, environment={"NOTIFY_SOCKET": path}) as daemon,
    ):
        first = expect_message(messages, "STATUS=Cannot start yet: ")
        assert missing.word in first
        assert "EXTEND_TIMEOUT_USEC=" in first
        assert missing.word in daemon.expect("start_waiting")["reason"]
        yield daemon, lambda text: expect_message(messages, text)


def test_what_is_missing_at_the_start_is_said_and_waited_out(
    missing: Missing, server: S3Server, media: Media, place: str
) -> None:
    """READY comes after it was mended, without a restart; then files are uploaded as always."""
    with waiting_daemon(missing, place) as (daemon, expect):
        assert daemon.process.poll() is None
        missing.mend()
        assert "Cannot start yet" not in expect("READY=1")
        place_file(missing.settings, PATH, media.faststart)
        daemon.expect("upload_released", path=PATH)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_a_daemon_that_has_not_started_can_be_stopped(
    settings: MakeSettings, place: str, postgres: PostgresServer
) -> None:
    missing = _no_directory(ExitStack(), settings, place, postgres)
    with waiting_daemon(missing, place) as (daemon, expect):
        daemon.signal(signal.SIGTERM)
        expect("STOPPING=1")
        assert daemon.wait() == 0


def test_a_single_pass_does_not_wait(settings: MakeSettings, place: str, postgres: PostgresServer) -> None:
    missing = _no_directory(ExitStack(), settings, place, postgres)
    ran = command(missing.settings, "run", "--once")
    assert ran.returncode == 1
    assert missing.word in ran.stderr
    assert "Traceback" not in ran.stderr


def test_wrong_settings_end_the_start_with_2(settings: MakeSettings, place: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "watcher", "run"],
        env=environment_of(settings(), UPLOAD_CONCURRENCY="many"),
        cwd=place,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2
    assert b"UPLOAD_CONCURRENCY" in ran.stderr
