"""`upload`, `exists` and `delete` as a person runs them: another process, its output, and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pytest

from db import Invalidations, State
from tests.integration.conftest import MakeSettings
from tests.support.daemon_process import environment_of
from tests.support.fault_proxy import FaultProxy, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, open_harness
from tests.support.peer_process import writer
from tests.support.s3_server import S3Server
from watcher.app.factories import connect
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/my video_720p.mp4"
KEY = f"videos/{VIDEO_ID}/my video_720p.mp4"
NAMED = ("--video-id", VIDEO_ID.upper(), "--filename", "my video.mp4", "--quality", "720p")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int) -> str:
        """Make sure that it ended so, with one sentence and nothing else; returns the sentence."""
        assert (self.code, self.out) == (code, ""), self
        (sentence,) = self.err.splitlines()
        assert sentence.startswith("video-uploader: ")
        return sentence


Run = Callable[..., Ran]


def run_with(settings: Settings, *arguments: str, answer: str | None = None) -> Ran:
    given = environment_of(settings, PYTHONPATH=ROOT, AWS_EC2_METADATA_DISABLED="true")
    ended = subprocess.run(
        [sys.executable, "-m", "watcher", *arguments],
        env={name: value for name, value in given.items() if value != "None"},
        cwd=os.path.dirname(settings.completed_dir),
        input=answer or "",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return Ran(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def run(settings: MakeSettings) -> Run:
    def run(*arguments: str, answer: str | None = None, **changes: object) -> Ran:
        return run_with(settings(**changes), *arguments, answer=answer)

    return run


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
    run: Run, file: str, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    url = f"{proxy.url}/{BUCKET}/videos/{VIDEO_ID}/my%20video_720p.mp4\n"
    assert "There is no object" in run("exists", PATH).refused(1)
    assert run("upload", file) == Ran(0, url, "")
    assert stored(server) == video
    assert run("exists", PATH) == Ran(0, url, "")
    assert run("exists", *NAMED) == Ran(0, url, "")
    assert run("delete", PATH, "--yes") == Ran(0, f"Deleted {KEY}.\n", "")
    assert KEY in run("exists", PATH).refused(1)
    assert KEY in run("delete", PATH, "--yes").refused(1)


def test_a_path_below_the_directory_may_be_relative_to_it(run: Run, file: str) -> None:
    assert run("upload", PATH).code == 0


def test_any_file_can_be_uploaded_under_a_name_that_is_given(
    run: Run, place: str, server: S3Server, video: bytes
) -> None:
    elsewhere = write(f"{place}/elsewhere/cut.mp4", video)
    assert "--video-id" in run("upload", elsewhere).refused(2)
    assert run("upload", elsewhere, *NAMED).code == 0
    assert stored(server) == video


def test_delete_asks_and_takes_only_yes_for_an_answer(run: Run, file: str, server: S3Server) -> None:
    run("upload", file)
    for answer in ("n\n", "\n", ""):
        ended = run("delete", PATH, answer=answer)
        assert (ended.code, ended.out) == (1, "")
        assert KEY in ended.err
        assert "Nothing was deleted" in ended.err
        assert stored(server)
    ended = run("delete", PATH, answer="y\n")
    assert (ended.code, ended.out) == (0, f"Deleted {KEY}.\n")
    assert run("exists", PATH).code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("upload",), "PATH"),
        (("exists",), "Say which"),
        (("delete", "--yes"), "Say which"),
        (("exists", PATH, *NAMED), "Say which"),
        (("exists", *NAMED[:4]), "go together"),
        (("upload", PATH, *NAMED[2:]), "go together"),
        (("exists", *NAMED[:5], "999p"), "999p is not a quality"),
        (("exists", "--video-id", "x", *NAMED[2:]), "x is not a UUID"),
        (("exists", *NAMED[:2], "--filename", "a/b.mp4", *NAMED[4:]), "without a directory"),
        (("upload", "notes.txt"), "names no rendition"),
        (("delete", "/elsewhere/x.mp4", "--yes"), "not below COMPLETED_DIR"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_is_asked_of_s3(
    run: Run, proxy: FaultProxy, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in run(*arguments).refused(2)
    assert proxy.requests == []


def test_a_file_that_is_not_finished_is_not_uploaded(
    run: Run, file: str, proxy: FaultProxy, video: bytes
) -> None:
    with writer(file, os.O_WRONLY) as process:
        process.expect("opened")
        assert "open for writing" in run("upload", PATH).refused(1)
        assert "open for writing" in run("upload", file, *NAMED).refused(1)
    write(file, video[:-10])
    assert "was not uploaded" in run("upload", PATH).refused(1)
    os.remove(file)
    assert "does not exist" in run("upload", PATH).refused(1)
    os.symlink("/etc/hostname", file)
    assert "symbolic link" in run("upload", file, *NAMED).refused(1)
    assert proxy.requests == []


@pytest.mark.parametrize("command", ["upload", "exists", "delete"])
def test_what_s3_refuses_is_one_sentence_that_says_what_to_do(
    run: Run, file: str, proxy: FaultProxy, command: str
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    assert "credentials" in run(command, PATH).refused(1)


def test_credentials_that_are_missing_are_said_too(run: Run, file: str) -> None:
    sentence = run("upload", PATH, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None).refused(1)
    assert "AWS_ACCESS_KEY_ID" in sentence


def test_what_was_replaced_by_hand_waits_for_the_daemon_to_tell_the_cdn(
    run: Run, file: str, settings: MakeSettings, server: S3Server, video: bytes
) -> None:
    given = {"CLOUDFRONT_DISTRIBUTION_ID": "E1", "AWS_ENDPOINT_URL_CLOUDFRONT": "http://127.0.0.1:9"}
    with open_harness(settings(), server):
        pass
    assert run("upload", file, **given).code == 0
    assert waiting(settings()) == []
    write(file, video + b"\0\0\0\x08free")
    assert run("upload", file, **given).code == 0
    assert waiting(settings()) == [KEY]


def waiting(settings: Settings) -> list[str]:
    with closing(connect(settings)) as database:
        found = Invalidations(database, settings.instance).waiting(9)
        return [invalidation.object_key for invalidation in found]


def test_without_a_ledger_it_is_said_that_nobody_tells_the_cdn(run: Run, file: str, video: bytes) -> None:
    assert run("upload", file, CLOUDFRONT_DISTRIBUTION_ID="E1").code == 0
    write(file, video + b"\0\0\0\x08free")
    ended = run("upload", file, CLOUDFRONT_DISTRIBUTION_ID="E1")
    assert ended.code == 1
    assert ended.out.startswith("http")
    assert "the CDN will not be told" in ended.err


def test_the_daemon_takes_what_was_uploaded_by_hand_as_it_is(
    run: Run, file: str, settings: MakeSettings, server: S3Server, proxy: FaultProxy
) -> None:
    assert run("upload", file).code == 0
    with open_harness(settings(), server) as harness:
        harness.settle(PATH)
        (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert proxy.actions.count("PutObject") == 1
