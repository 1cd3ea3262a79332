"""`config` and `doctor` compare their settings with those of the daemon that runs."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator

import pytest

from tests.support.daemon_process import DaemonProcess, command, running_daemon
from tests.support.harness import MakeSettings
from tests.support.s3_server import SECRET_ACCESS_KEY, S3Server
from watcher.settings import Settings

pytestmark = pytest.mark.long


@pytest.fixture
def chosen(settings: MakeSettings, server: S3Server) -> Settings:
    """The daemon's settings."""
    return settings()


@pytest.fixture
def daemon(chosen: Settings) -> Iterator[DaemonProcess]:
    """The daemon, which has started."""
    with running_daemon(chosen) as running:
        running.expect("daemon_ready")
        yield running


def doctor(chosen: Settings, **environment: str) -> str:
    """What `doctor` says of the daemon's settings."""
    results = json.loads(command(chosen, "doctor", "--json", environment=environment).stdout)
    (found,) = [result for result in results if result["name"] == "settings of the daemon"]
    return f"{found['outcome']}: {found['detail']}"


def test_both_say_in_what_the_running_daemon_differs(
    daemon: DaemonProcess, chosen: Settings, place: str
) -> None:
    """Reloaded values are those of the daemon; the record tells no secret and is not for everybody."""
    assert "the same" in command(chosen, "config").stdout
    assert doctor(chosen).startswith("ok: ")
    other = {"RESCAN_SECONDS": "77", "INSTANCE_ID": "another"}
    ran = command(chosen, "config", "--json", environment=other)
    shown = json.loads(ran.stdout)
    assert shown["RESCAN_SECONDS"] == {"value": "77", "source": "environment", "daemon": "300"}
    assert shown["AWS_SECRET_ACCESS_KEY"]["daemon"] == shown["AWS_SECRET_ACCESS_KEY"]["value"]
    assert "another RESCAN_SECONDS: 300 instead of 77" in ran.stderr
    assert "another INSTANCE_ID: test instead of another" in ran.stderr
    assert "RESCAN_SECONDS 300 instead of 77" in doctor(chosen, **other)
    with open(os.path.join(place, ".env"), "w", encoding="utf-8") as file:
        file.write("RESCAN_SECONDS=77\nUPLOAD_CONCURRENCY=3\n")
    daemon.signal(signal.SIGHUP)
    daemon.expect("settings_reloaded")
    ran = command(chosen, "config", environment={"RESCAN_SECONDS": "77", "UPLOAD_CONCURRENCY": "3"})
    assert "RESCAN_SECONDS" not in ran.stderr
    assert "another UPLOAD_CONCURRENCY: " in ran.stderr
    (record,) = [entry for entry in os.scandir(place) if entry.name.endswith(".settings")]
    assert stat.S_IMODE(record.stat().st_mode) == 0o640
    with open(record.path, encoding="utf-8") as file:
        assert SECRET_ACCESS_KEY not in file.read()


def test_the_record_of_a_daemon_that_has_ended_is_not_shown(daemon: DaemonProcess, chosen: Settings) -> None:
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    shown = json.loads(command(chosen, "config", "--json").stdout)
    assert shown["RESCAN_SECONDS"].keys() == {"value", "source"}
