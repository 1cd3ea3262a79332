"""`upload`, `exists` and `delete` as processes: output and exit code."""

from __future__ import annotations

import os
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

from db import Invalidations, State
from tests.support.cli_process import Command, Ran
from tests.support.fault_proxy import FaultProxy, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings, open_harness
from tests.support.peer_process import writer
from tests.support.s3_server import S3Server
from watcher.app.factories import open_ledger_database
from watcher.filesystem import leases
from watcher.filesystem.leases import Writers
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/my video_720p.mp4"
KEY = f"videos/{VIDEO_ID}/my video_720p.mp4"
NAMED = ("--video-id", VIDEO_ID.upper(), "--filename", "my video.mp4", "--quality", "720p")


@pytest.fixture
def file(settings: MakeSettings, video: bytes) -> str:
    """A finished rendition below the watched directory."""
    return write(os.path.join(settings().completed_dir, PATH), video)


def write(path: str, content: bytes) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def stored(server: S3Server) -> bytes:
    return server.client().get_object(Bucket=BUCKET, Key=KEY)["Body"].read()


def test_a_file_is_uploaded_found_and_deleted(
    online_command: Command, file: str, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    url = f"{proxy.url}/{BUCKET}/videos/{VIDEO_ID}/my%20video_720p.mp4\n"
    assert "does not exist" in online_command("exists", PATH).refused(1)
    assert online_command("upload", file) == Ran(0, url, "")
    assert stored(server) == video
    assert online_command("exists", PATH) == Ran(0, url, "")
    assert online_command("exists", *NAMED) == Ran(0, url, "")
    assert online_command("delete", PATH, "--yes") == Ran(0, f"Deleted {KEY}.\n", "")
    assert KEY in online_command("exists", PATH).refused(1)
    assert KEY in online_command("delete", PATH, "--yes").refused(1)


def test_a_path_below_the_directory_may_be_relative_to_it(online_command: Command, file: str) -> None:
    assert online_command("upload", PATH).code == 0


def test_any_file_can_be_uploaded_under_a_name_that_is_given(
    online_command: Command, place: str, server: S3Server, video: bytes
) -> None:
    elsewhere = write(f"{place}/elsewhere/cut.mp4", video)
    assert "--video-id" in online_command("upload", elsewhere).refused(2)
    assert online_command("upload", elsewhere, *NAMED).code == 0
    assert stored(server) == video


def test_the_options_name_a_source_whose_renditions_are_mp4(
    online_command: Command, file: str, server: S3Server
) -> None:
    named = (*NAMED[:2], "--filename", "my video.mov", *NAMED[4:])
    old = KEY.replace(".mp4", ".mov")
    server.client().put_object(Bucket=BUCKET, Key=old, Body=b"video")
    assert online_command("exists", *named).out.endswith("_720p.mov\n")
    assert online_command("upload", file, *named).out.endswith("_720p.mp4\n")
    assert online_command("exists", *named).out.endswith("_720p.mp4\n")
    ended = online_command("delete", *named, answer="n\n")
    assert KEY in ended.err
    assert old in ended.err
    assert online_command("delete", PATH, "--yes").out == f"Deleted {KEY}.\n"
    assert online_command("delete", *named, "--yes").out == f"Deleted {old}.\n"
    assert online_command("exists", *named).refused(1) == (
        f"The object {KEY} does not exist in the bucket {BUCKET}."
    )


def test_delete_asks_and_takes_only_yes_for_an_answer(
    online_command: Command, file: str, server: S3Server
) -> None:
    online_command("upload", file)
    for answer in ("n\n", "\n", ""):
        ended = online_command("delete", PATH, answer=answer)
        assert (ended.code, ended.out) == (1, "")
        assert KEY in ended.err
        assert "Nothing was deleted" in ended.err
        assert stored(server)
    ended = online_command("delete", PATH, answer="y\n")
    assert (ended.code, ended.out) == (0, f"Deleted {KEY}.\n")
    assert online_command("exists", PATH).code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("upload",), "PATH"),
        (("exists",), "Give either a path"),
        (("delete", "--yes"), "Give either a path"),
        (("exists", PATH, *NAMED), "Give either a path"),
        (("exists", *NAMED[:4]), "must be given together"),
        (("upload", PATH, *NAMED[2:]), "must be given together"),
        (("exists", *NAMED[:5], "999p"), "999p is not a quality"),
        (("exists", "--video-id", "x", *NAMED[2:]), "x is not a UUID"),
        (("exists", *NAMED[:2], "--filename", "a/b.mp4", *NAMED[4:]), "without a directory"),
        (("exists", *NAMED[:2], "--filename", "..", *NAMED[4:]), "not the name of a file"),
        (("delete", "--yes", *NAMED[:2], "--filename", "", *NAMED[4:]), "not the name of a file"),
        (("upload", PATH, *NAMED[:2], "--filename", "a\nb.mp4", *NAMED[4:]), "not the name of a file"),
        (("upload", "notes.txt"), "names no rendition"),
        (("delete", "/elsewhere/x.mp4", "--yes"), "not below COMPLETED_DIR"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_is_asked_of_s3(
    online_command: Command, proxy: FaultProxy, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in online_command(*arguments).refused(2)
    assert proxy.requests == []


def test_a_file_that_is_not_finished_is_not_uploaded(
    online_command: Command, file: str, proxy: FaultProxy, video: bytes
) -> None:
    with writer(file, os.O_WRONLY) as process:
        process.expect("opened")
        assert "open for writing" in online_command("upload", PATH).refused(1)
        assert "open for writing" in online_command("upload", file, *NAMED).refused(1)
    write(file, video[:-10])
    assert "was not uploaded" in online_command("upload", PATH).refused(1)
    os.remove(file)
    assert "does not exist" in online_command("upload", PATH).refused(1)
    os.symlink("/etc/hostname", file)
    assert "symbolic link" in online_command("upload", file, *NAMED).refused(1)
    assert proxy.requests == []


def test_force_overrules_the_checks_of_the_daemon_and_says_what_they_found(
    online_command: Command, file: str, place: str, server: S3Server, video: bytes
) -> None:
    """A writer, a container that is cut off, and a name that is no video's; not a file that is no file."""
    with writer(file, os.O_WRONLY) as process:
        process.expect("opened")
        assert "--force" in online_command("upload", PATH).refused(1)
        forced = online_command("upload", PATH, "--force")
        assert (forced.code, "open for writing" in forced.err) == (0, True)
    write(file, video[:-10])
    forced = online_command("upload", PATH, "--force")
    assert (forced.code, "incomplete" in forced.err) == (0, True)
    assert stored(server) == video[:-10]
    other = write(f"{place}/elsewhere/notes.txt", b"no video")
    assert "VIDEO_EXTENSIONS" in online_command("upload", other, *NAMED).refused(1)
    assert online_command("upload", other, *NAMED, "--force").code == 0
    assert stored(server) == b"no video"
    os.remove(file)
    assert "--force" not in online_command("upload", PATH, "--force").refused(1)


@pytest.mark.parametrize("is_written", [True, False])
def test_a_file_whose_writers_are_unknown_has_to_be_quiet_as_for_the_daemon(
    online_command: Command, file: str, video: bytes, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """Without CAP_LEASE the kernel does not say who writes another user's file."""
    monkeypatch.setattr(leases, "check_writers", lambda _descriptor: Writers.UNKNOWN)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if is_written:
            write(file, video + b"\0\0\0\x08free")

    monkeypatch.setattr("watcher.cli.objects.time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    ran = online_command.here("upload", PATH, SETTLE_SECONDS="7")
    assert [round(seconds) for seconds in waits] == [7]
    if is_written:
        assert "has not changed for a while" in ran.refused(1)
    else:
        assert ran.code == 0


@pytest.mark.parametrize("command", ["upload", "exists", "delete"])
def test_what_s3_refuses_is_one_sentence_that_says_what_to_do(
    online_command: Command, file: str, proxy: FaultProxy, command: str
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    assert "credentials" in online_command(command, PATH).refused(1)


def test_credentials_that_are_missing_are_said_too(online_command: Command, file: str) -> None:
    sentence = online_command("upload", PATH, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None).refused(1)
    assert "AWS_ACCESS_KEY_ID" in sentence


def test_what_was_replaced_by_hand_waits_for_the_daemon_to_tell_the_cdn(
    online_command: Command, file: str, settings: MakeSettings, server: S3Server, video: bytes
) -> None:
    given = {"CLOUDFRONT_DISTRIBUTION_ID": "E1", "AWS_ENDPOINT_URL_CLOUDFRONT": "http://127.0.0.1:9"}
    with open_harness(settings(), server):
        pass
    assert online_command("upload", file, **given).code == 0
    assert waiting(settings()) == []
    write(file, video + b"\0\0\0\x08free")
    assert online_command("upload", file, **given).code == 0
    assert waiting(settings()) == [KEY]


def waiting(settings: Settings) -> list[str]:
    with closing(open_ledger_database(settings)) as database:
        found = Invalidations(database, settings.instance).unsent(9)
        return [invalidation.object_key for invalidation in found]


def test_without_a_ledger_the_missing_invalidation_is_reported(
    online_command: Command, file: str, video: bytes
) -> None:
    assert online_command("upload", file, CLOUDFRONT_DISTRIBUTION_ID="E1").code == 0
    write(file, video + b"\0\0\0\x08free")
    ended = online_command("upload", file, CLOUDFRONT_DISTRIBUTION_ID="E1")
    assert ended.code == 1
    assert ended.out.startswith("http")
    assert "its CDN invalidation was not recorded" in ended.err


def test_the_daemon_takes_what_was_uploaded_by_hand_as_it_is(
    online_command: Command, file: str, settings: MakeSettings, server: S3Server, proxy: FaultProxy
) -> None:
    assert online_command("upload", file).code == 0
    with open_harness(settings(), server) as harness:
        harness.settle(PATH)
        (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert proxy.actions.count("PutObject") == 1
