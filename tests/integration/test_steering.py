"""The commands that steer uploads, beside a real daemon and without one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from db import State
from tests.support.bucket_contents import keys
from tests.support.cli_process import CUT, GOOD, Command
from tests.support.daemon_process import environment_of, place_file, rows, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.media import Media
from tests.support.notify_socket import expect_message, notify_socket
from tests.support.s3_server import S3Server
from tests.support.terminal import SECONDS
from tests.support.video_files import OTHER_VIDEO
from watcher.settings import Settings

pytestmark = pytest.mark.long

SMALL, HELD = f"{VIDEO_ID}/a_144p.mp4", f"{OTHER_VIDEO}/b_360p.mp4"


def commands(settings: Settings) -> Command:
    """The command with the settings of a daemon, which runs as a process of its own."""
    return Command(os.path.dirname(settings.completed_dir), "", environment_of(settings))


def test_a_daemon_follows_a_pause_and_a_hold(
    settings: MakeSettings, server: S3Server, media: Media, place: str
) -> None:
    """Also one from before its start: nothing is sent, and every command and systemd say why."""
    chosen = settings(RELEASE_AFTER_SECONDS=86400, RESCAN_SECONDS=86400)
    command = commands(chosen)
    for path in (SMALL, HELD):
        place_file(chosen, path, media.faststart)
    assert command.here("db", "migrate").code == 0
    said = command.here("pause", "--reason", "the line is needed", "--json").json()
    assert said["daemon_running"] is False
    with (
        notify_socket(place) as (address, messages),
        running_daemon(chosen, environment={"NOTIFY_SOCKET": address}) as daemon,
    ):
        daemon.expect("uploads_paused", reason="the line is needed")
        daemon.expect("file_finished", count=2)
        expect_message(messages, "uploads paused: by hand since")
        status = command.here("status", "--json").json()
        assert status["report"]["paused"].keys() == {"uploads"}
        assert status["pause"]["reason"] == "the line is needed"
        assert "uploads paused: by hand since" in command.here("status").out
        assert command.here("drain", "--json").json(code=1)["pending"] == 2
        assert "Uploads are paused by hand" in command.here("explain", SMALL).out
        assert keys(server) == set()

        assert command.here("hold", HELD, "--json").json()["held"] is True
        assert command.here("resume", "--json").json()["paused"] is False
        daemon.expect("uploads_resumed")
        drained = command.here("drain", "--timeout", "20", "--json").json()
        assert (drained["drained"], drained["held"]) == (True, 1)
        daemon.expect("upload_published", path=SMALL)
        assert keys(server) == {f"videos/{SMALL}"}
        assert f"unhold {HELD}" in command.here("explain", HELD).out
        assert [row["error_code"] for row in command.here("list", "--json", "--state", "pending").json()] == [
            "held"
        ]
        assert " held " in command.here("list").out
        assert f": {HELD}" in command.here("status").out

        command.here("unhold", HELD, "--json").json()
        daemon.expect("upload_published", path=HELD)
        assert len([line for line in daemon.events if line["event"] == "uploads_paused"]) == 1


def test_a_daemon_releases_and_forgets_what_it_is_told_to(
    settings: MakeSettings, server: S3Server, media: Media
) -> None:
    """The copy long before its retention ends; the forgotten file is found again, its object adopted."""
    chosen = settings(RELEASE_AFTER_SECONDS=86400, RESCAN_SECONDS=86400)
    command = commands(chosen)
    for path in (SMALL, HELD):
        place_file(chosen, path, media.faststart)
    with running_daemon(chosen) as daemon:
        daemon.expect("upload_published", count=2)
        daemon.expect("daemon_ready")
        (released,) = command.here("release", SMALL, "--json").json()["uploads"]
        daemon.expect("upload_released", path=SMALL)
        assert not os.path.exists(os.path.join(chosen.completed_dir, SMALL))
        assert [row.id for row in rows(chosen) if row.state is State.RELEASED] == [released]

        assert command.here("forget", HELD, "--yes").code == 0
        assert [row.path for row in rows(chosen)] == [SMALL]
        daemon.signal(signal.SIGHUP)
        daemon.expect("upload_published", count=2, path=HELD)
        assert not [line for line in daemon.events if line["event"] == "uploads_resumed"]
    assert keys(server) == {f"videos/{SMALL}", f"videos/{HELD}"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prioritize", "v/x.mp4"], "The ledger knows no upload of v/x.mp4; `list` shows the uploads."),
        (["prioritize", OTHER_VIDEO], f"The ledger knows no upload of {OTHER_VIDEO}"),
        (["prioritize", GOOD], f"{GOOD} has no upload in the state pending: published. `explain` tells why."),
        (["release", CUT], f"{CUT} has no upload in the state published: rejected."),
        (["unhold", GOOD], f"{GOOD} is not held"),
        (["forget", "v/x.mp4", "--yes"], "The ledger knows no upload of v/x.mp4"),
        (["hold", "/elsewhere/x.mp4"], "/elsewhere/x.mp4 is not below COMPLETED_DIR"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence_with_the_value(
    copied_command: Command, arguments: list[str], sentence: str
) -> None:
    assert copied_command.here(*arguments).refused(1).startswith(sentence)


def test_a_copy_is_not_released_by_hand_where_copies_are_kept(copied_command: Command) -> None:
    refused = copied_command.here("release", GOOD, KEEP_LOCAL="true").refused(1)
    assert refused.startswith(f"The copy of {GOOD} is not released: KEEP_LOCAL is true. Set it to false, ")


def test_forgetting_has_to_be_confirmed(copied_command: Command) -> None:
    assert "pass --yes" in copied_command("forget", GOOD).refused(2)
    assert copied_command.row(GOOD)["state"] == "published"
    ran = copied_command("forget", GOOD, "--yes")
    assert ran.out.startswith(f"1 upload of {GOOD} ")
    assert "No daemon of this instance runs" in ran.err
    assert [row["path"] for row in copied_command("list", "--json").json()] == [CUT]


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, [CUT]), (b"n\n", 1, [CUT, GOOD])])
def test_a_person_is_asked_whether_to_forget(
    copied_command: Command, answer: bytes, code: int, left: list[str]
) -> None:
    """On a terminal, naming the file; any answer but yes changes nothing."""
    with copied_command.on_terminal("forget", GOOD) as terminal:
        terminal.read_until(rb"Forget 1 upload of .*\[y/N\]")
        terminal.type(answer)
        assert terminal.end() == code
    assert sorted(row["path"] for row in copied_command("list", "--json").json()) == left


def test_a_drain_shows_on_a_terminal_what_it_waits_for(
    settings: MakeSettings, proxy: FaultProxy, media: Media
) -> None:
    chosen = settings(RELEASE_AFTER_SECONDS=86400)
    place_file(chosen, SMALL, media.faststart)
    seen = threading.Event()

    def wait(_: Request, forward: Forward) -> Answer:
        seen.wait(SECONDS)
        return forward()

    proxy.fault = wait
    try:
        with running_daemon(chosen) as daemon:
            daemon.expect("file_finished")
            with commands(chosen).on_terminal("drain") as terminal:
                terminal.read_until(rb"1 left to upload, 0 to publish")
                seen.set()
                terminal.read_until(rb"Nothing is left to upload or publish\.")
                assert terminal.end() == 0
    finally:
        seen.set()


def test_one_pass_says_that_uploads_are_paused(copied_command: Command, media: Media) -> None:
    with open(media.faststart, "rb") as file:
        copied_command.write(f"{OTHER_VIDEO}/new_720p.mp4", file.read())
    assert copied_command("pause").code == 0
    assert "still are" in copied_command("pause", "--reason", "again").out
    ran = copied_command("run", "--once")
    assert ran.code == 1
    assert "uploads are paused by hand since" in ran.err + ran.out
    assert copied_command.row(f"{OTHER_VIDEO}/new_720p.mp4")["state"] == "pending"


def test_nothing_is_waited_for_where_no_daemon_runs(copied_command: Command) -> None:
    """What has failed is not waited for at all."""
    drained = copied_command("drain", "--json").json()
    assert (drained["drained"], drained["failed"]) == (True, 1)
    with copied_command.ledger() as ledger:
        ledger.reopen(ledger.uploads(path=CUT)[0].id, reason="for a test")
    ran = copied_command("drain", "--timeout", "0")
    assert ran.code == 1
    assert "1 left to upload, 0 to publish: no daemon runs" in ran.out
