"""The command as a person runs it: another process, its output, and how it exits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.request import urlopen

import pytest

from db import Ledger, State, sqlite_url
from tests.support.fault_proxy import Answer, FaultProxy, Forward, s3_error
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.media import Media
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from tests.unit.watcher.conftest import make_place
from tests.unit.watcher.test_metrics import free_address
from watcher.app.factories import connect
from watcher.cli.app import app
from watcher.settings.model import Settings
from watcher.settings.report import MASK

pytestmark = pytest.mark.long

SECONDS = 50
GOOD = f"{VIDEO_ID}/good_720p.mp4"
CUT = f"{VIDEO_ID}/cut_480p.mp4"
KEY = f"videos/{VIDEO_ID}/good_720p.mp4"

COLUMNS = set(
    re.findall(
        r"\w+",
        "path id video_id filename quality device inode size mtime_ns checksum etag version_id object_key "
        "url state attempts due_at last_error instance claimed_by claim claimed_until multipart_id part_size "
        "bytes_sent discovered_at verified_at published_at released_at",
    )
)
"""What scripts may rely on."""

COMMANDS = {
    "audit",
    "run",
    "status",
    "list",
    "explain",
    "retry",
    "upload",
    "exists",
    "delete",
    "config",
    "doctor",
}

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


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
        return sentence.removeprefix("video-uploader: ")

    def json(self) -> Any:
        """What it printed for programs."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)


@dataclass
class Command:
    """The command in an environment of its own."""

    place: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def completed(self) -> str:
        return os.path.join(self.place, "completed")

    def write(self, path: str, content: bytes) -> str:
        full = os.path.join(self.completed, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
        return full

    def popen(self, *arguments: str, **changes: str | None) -> subprocess.Popen[str]:
        environment = {
            name: value for name, value in (self.environment | changes).items() if value is not None
        }
        return subprocess.Popen(
            [sys.executable, "-m", "watcher", *arguments],
            env=environment,
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )

    def __call__(self, *arguments: str, **changes: str | None) -> Ran:
        """Run it to its end; `changes` are made to its environment, None takes a name out of it."""
        with self.popen(*arguments, **changes) as process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert "Traceback" not in err, err
        return Ran(process.returncode, out, err)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger behind the command's back."""
        values = {
            name: value for name, value in self.environment.items() if name.lower() in Settings.model_fields
        }
        settings = Settings(**values)  # type: ignore[arg-type]  # as the environment gives them
        with closing(connect(settings)) as database:
            yield Ledger(database, settings.instance)


@pytest.fixture
def nothing_asked() -> Iterator[FaultProxy]:
    """An S3 server that gets no request."""
    with FaultProxy() as proxy:
        yield proxy
        assert proxy.requests == []


def command_for(place: str, s3_url: str) -> Command:
    os.makedirs(os.path.join(place, "completed"), exist_ok=True)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return Command(
        place,
        {
            "PATH": os.environ["PATH"],
            "HOME": place,
            "PYTHONPATH": root,
            "PYTHONWARNINGS": "error",
            "AWS_EC2_METADATA_DISABLED": "true",
            "COMPLETED_DIR": os.path.join(place, "completed"),
            "STATE_DIRECTORY": os.path.join(place, "state"),
            "DATABASE_URL": sqlite_url(os.path.join(place, "state", "ledger.sqlite3")),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_REGION": REGION,
            "AWS_S3_BUCKET": BUCKET,
            "AWS_ENDPOINT_URL": s3_url,
            "INSTANCE_ID": "test",
            "RELEASE_AFTER_SECONDS": "86400",
            "DISK_PRESSURE_PERCENT": "100",
            "METRICS_ADDRESS": "",
        },
    )


@pytest.fixture
def offline(place: str, nothing_asked: FaultProxy) -> Command:
    """The command with an S3 server that must not be asked for anything."""
    return command_for(place, nothing_asked.url)


@pytest.fixture
def online(place: str, proxy: FaultProxy) -> Command:
    """The command with a real S3 server."""
    return command_for(place, proxy.url)


@pytest.fixture(scope="module")
def used(s3: S3Server, media: Media) -> Iterator[Command]:
    """The command after a run that published one file and rejected another one; only for reading."""
    with make_place() as place:
        s3.create_bucket(BUCKET)
        command = command_for(place, s3.url)
        with open(media.faststart, "rb") as file:
            video = file.read()
        command.write(GOOD, video)
        command.write(CUT, video[: len(video) // 2])
        command.write(f"{VIDEO_ID}/notes.log", b"not a video")
        assert command("run", "--once").code == 1
        s3.forget_everything()
        yield command


@pytest.fixture
def copy(used: Command, place: str) -> Command:
    """A copy of `used` that a test may change."""
    shutil.copytree(used.place, place, dirs_exist_ok=True)
    return command_for(place, used.environment["AWS_ENDPOINT_URL"])


# --- run --once


def test_once_ends_with_0_when_everything_is_published_and_waits_for_its_retention_only(
    online: Command, server: S3Server, video: bytes
) -> None:
    path = online.write(GOOD, video)
    ran = online("run", "--once")
    assert (ran.code, ran.out) == (0, "")
    assert server.client().get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == video
    assert os.path.exists(path)
    (row,) = online("list", "--json").json()
    assert (row["state"], row["confirmed_by"]) == ("published", "checksum")
    assert online("run", "--once").code == 0


def test_once_releases_at_once_where_nothing_is_retained(online: Command, video: bytes) -> None:
    path = online.write(GOOD, video)
    assert online("run", "--once", RELEASE_AFTER_SECONDS="0").code == 0
    assert not os.path.exists(path)
    (row,) = online("list", "--json").json()
    assert row["state"] == "released"


def test_once_in_an_empty_directory_is_fine(online: Command) -> None:
    assert online("run", "--once").code == 0
    assert online("list", "--json").json() == []


def test_once_ends_with_1_and_a_sentence_for_what_was_rejected(online: Command, video: bytes) -> None:
    online.write(CUT, video[: len(video) // 2])
    online.write(GOOD, video)
    ran = online("run", "--once")
    assert ran.code == 1
    told = [line for line in ran.err.splitlines() if line.startswith("video-uploader: ")]
    assert len(told) == 1
    assert told[0].startswith(f"video-uploader: {CUT}: rejected: ")
    states = {row["path"]: row["state"] for row in online("list", "--json").json()}
    assert states == {CUT: "rejected", GOOD: "published"}


def test_once_ends_with_1_while_somebody_writes(online: Command, video: bytes) -> None:
    with open(online.write(GOOD, video), "ab"):
        ran = online("run", "--once")
    assert ran.code == 1
    assert f"video-uploader: {GOOD}: some process still writes it" in ran.err.splitlines()


def test_once_ends_with_1_and_the_reason_when_the_environment_is_wrong(
    online: Command, proxy: FaultProxy, video: bytes
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "InvalidAccessKeyId")
    online.write(GOOD, video)
    ran = online("run", "--once")
    assert ran.code == 1
    assert "video-uploader: upload is paused: " in ran.err
    assert "AWS_ACCESS_KEY_ID" in ran.err
    (row,) = online("list", "--json").json()
    assert (row["state"], row["attempts"]) == ("pending", 0)


def test_a_second_run_of_the_instance_is_refused(online: Command, proxy: FaultProxy, video: bytes) -> None:
    """While the first one sends, a second one says who is at work, and readers read."""
    seconds: list[Ran] = []

    def fault(request: object, forward: Any) -> Answer | None:
        if not seconds:
            seconds.append(online("run", "--once"))
            seconds.append(online("status", "--json"))
        answer: Answer = forward()
        return answer

    proxy.fault = fault
    online.write(GOOD, video)
    assert online("run", "--once").code == 0
    refused, status = seconds
    assert "Another daemon of this instance is running (process " in refused.refused(1)
    assert status.json()["running"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_interrupted_says_so_and_loses_nothing(
    online: Command, proxy: FaultProxy, video: bytes, number: signal.Signals
) -> None:
    """The retention is near enough to be waited for, so the signal always finds the run at work."""
    online.write(GOOD, video)
    processes: list[subprocess.Popen[str]] = []

    def interrupt(_request: object, forward: Forward) -> Answer:
        if processes:
            processes.pop().send_signal(number)
        return forward()

    proxy.fault = interrupt
    with online.popen("run", "--once", RELEASE_AFTER_SECONDS="20") as process:
        processes.append(process)
        try:
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "video-uploader: interrupted; the next run goes on" in err
    again = online("run", "--once")
    assert again.code == 0, again


# --- run --once --dry-run


def test_a_dry_run_says_what_it_would_do_and_does_nothing(offline: Command, video: bytes) -> None:
    offline.write(GOOD, video)
    offline.write(CUT, video[:100])
    offline.write(f"{VIDEO_ID}/notes.log", b"x")
    offline.write(f"{VIDEO_ID}/bell\x07_720p.mp4", b"x")
    before = sorted(os.listdir(offline.place))
    ran = offline("run", "--once", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert f"upload  {GOOD}: to {KEY}, as quality 720p" in lines
    assert [line for line in lines if line.startswith(f"reject  {CUT}: ")]
    assert [line for line in lines if line.startswith(f"ignore  {VIDEO_ID}/notes.log: ")]
    assert f"ignore  {VIDEO_ID}/bell\\x07_720p.mp4: its name contains control characters" in lines
    assert lines[-1] == "Nothing was done. 2 to ignore, 1 to reject, 1 to upload"
    assert sorted(os.listdir(offline.place)) == before == ["completed"]


def test_a_dry_run_in_an_empty_directory_says_that_there_is_nothing(offline: Command) -> None:
    assert offline("run", "--once", "--dry-run").out == "Nothing was done. There is no file.\n"


# --- status and list


def test_list_as_json_has_every_column_and_times_in_utc(used: Command) -> None:
    rows = used("list", "--json").json()
    assert [row["path"] for row in rows] == [row["path"] for row in sorted(rows, key=lambda row: row["id"])]
    for row in rows:
        assert row.keys() >= COLUMNS
        for name, value in row.items():
            if name.endswith(("_at", "_until")) and value is not None:
                assert TIME.fullmatch(value), name
    good = next(row for row in rows if row["path"] == GOOD)
    assert (good["video_id"], good["filename"], good["quality"]) == (VIDEO_ID, "good.mp4", "720p")
    assert good["object_key"] == KEY
    assert good["url"].endswith(KEY)
    assert None not in {good[f"{word}_at"] for word in ("discovered", "verified", "published", "due")}
    assert good["released_at"] is None


def test_list_takes_a_state_and_a_video(used: Command) -> None:
    def paths(*arguments: str) -> list[str]:
        return [row["path"] for row in used("list", "--json", *arguments).json()]

    assert paths("--state", "rejected") == [CUT]
    assert paths("--video", VIDEO_ID.upper(), "--state", "published") == [GOOD]
    assert paths("--video", VIDEO_ID.replace("0", "1")) == []


def test_list_for_people_is_a_line_a_row(used: Command) -> None:
    ran = used("list")
    heading, *lines = ran.out.splitlines()
    assert heading.split() == ["ID", "STATE", "QUALITY", "SIZE", "SENT", "CHANGED", "PATH"]
    assert sorted(line.split()[-1] for line in lines) == sorted([GOOD, CUT])


def test_status_counts_and_tells_the_last_errors(used: Command) -> None:
    status = used("status", "--json").json()
    assert status["counts"]["published"] == status["counts"]["rejected"] == 1
    assert set(status["counts"]) == {state.value for state in State}
    assert status["instance"] == "test"
    assert status["running"] is False
    assert status["oldest_pending"] is None
    (error,) = status["last_errors"]
    assert error["path"] == CUT
    ran = used("status")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^published +1 *$", ran.out, re.MULTILINE)
    assert "Last errors:" in ran.out
    assert CUT in ran.out


def test_status_tells_what_is_pending_for_longest(copy: Command) -> None:
    copy("retry", "--all")
    assert copy("status", "--json").json()["oldest_pending"]["path"] == CUT
    assert f"Oldest pending: {CUT}, for " in copy("status").out


@pytest.mark.parametrize("arguments", [("status",), ("list",), ("retry", "--all"), ("explain", GOOD)])
def test_before_the_first_run_there_is_no_ledger_and_none_is_made(
    offline: Command, arguments: tuple[str, ...]
) -> None:
    assert "`video-uploader run` once" in offline(*arguments).refused(1)
    assert not os.path.exists(os.path.join(offline.place, "state"))


def test_a_reader_that_goes_away_is_no_error_to_shout_about(used: Command) -> None:
    with used.popen("list", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=SECONDS) == 1


def test_the_daemon_serves_what_the_ledger_says_and_is_seen_to_run(copy: Command) -> None:
    address = free_address()
    with copy.popen("run", METRICS_ADDRESS=address, KEEP_LOCAL="true") as process:
        try:
            assert process.stderr is not None
            assert any('"daemon_ready"' in line for line in process.stderr)
            with urlopen(f"http://{address}/metrics", timeout=10) as answer:
                samples = answer.read().decode().splitlines()
            assert copy("status", "--json").json()["running"] is True
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0
    assert 'video_uploader_uploads{state="rejected"} 1.0' in samples
    assert 'video_uploader_stage_paused{stage="upload"} 0.0' in samples
    assert [sample for sample in samples if sample.startswith("video_uploader_settling_files ")]
    assert copy("status", "--json").json()["running"] is False


# --- retry


def id_of(command: Command, path: str) -> str:
    rows = command("list", "--json").json()
    return str(next(row["id"] for row in rows if row["path"] == path))


def state_of(command: Command, path: str) -> str:
    rows = command("list", "--json").json()
    return str(next(row["state"] for row in rows if row["path"] == path))


@pytest.mark.parametrize("how", ["id", "--state", "--all"])
def test_retry_makes_what_was_rejected_pending_again_and_says_so(copy: Command, how: str) -> None:
    number = id_of(copy, CUT)
    arguments = {"id": [number], "--state": ["--state", "rejected"], "--all": ["--all"]}[how]
    ran = copy("retry", *arguments)
    assert (ran.code, ran.err) == (0, "")
    first, last = ran.out.splitlines()
    assert first == f"{number} {CUT}: was rejected, is pending again"
    assert last.startswith("1 pending again, 0 due now instead of later, 0 left as they were.")
    assert state_of(copy, CUT) == "pending"
    assert state_of(copy, GOOD) == "published"


def test_retry_makes_what_waits_after_an_error_due_now(copy: Command) -> None:
    with copy.ledger() as ledger:
        (row,) = ledger.uploads(state=State.REJECTED)
        ledger.reopen(row.id, reason="for the test")
        lease = timedelta(seconds=60)
        (claimed,) = ledger.claim(State.PENDING, 1, lease=lease, horizon=timedelta(days=1))
        ledger.postpone(claimed, delay=timedelta(minutes=5), error="S3 did not answer.", error_code="timeout")
    assert "0 pending again, 1 due now instead of later" in copy("retry", "--state", "pending").out
    (row_now,) = copy("list", "--json", "--state", "pending").json()
    assert row_now["attempts"] == 0
    assert datetime.fromisoformat(row_now["due_at"]) <= datetime.now().astimezone()


def test_retry_of_numbers_that_are_not_there_does_the_others_and_ends_with_1(copy: Command) -> None:
    ran = copy("retry", id_of(copy, CUT), "4711", "815")
    assert ran.code == 1
    assert "is pending again" in ran.out
    assert ran.err == (
        "video-uploader: There is no upload 815, 4711 in this instance; `list` shows those there are.\n"
    )


def test_retry_with_nothing_to_do_says_so(online: Command) -> None:
    assert online("run", "--once").code == 0
    assert online("retry", "--all").out.startswith("0 pending again, 0 due now instead of later, 0 left")


def test_retry_of_something_that_is_over_leaves_it(online: Command, video: bytes) -> None:
    online.write(GOOD, video)
    assert online("run", "--once", RELEASE_AFTER_SECONDS="0").code == 0
    ran = online("retry", "1")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"1 {GOOD}: is released, nothing to retry"


# --- explain


@pytest.mark.parametrize("absolute", [True, False])
def test_explain_tells_the_story_of_a_path_in_order(used: Command, absolute: bool) -> None:
    ran = used("explain", os.path.join(used.completed, GOOD) if absolute else GOOD)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:2] == [GOOD, "  On disk: It is finished."]
    story = [line.split()[2].rstrip(":") for line in lines if re.match(r"    \d{4}-", line)]
    assert story == ["discovered", "verified", "published"]
    assert re.search(r"^    Confirmed .* by checksum [A-Za-z0-9+/]{11}=$", ran.out, re.MULTILINE)
    assert "    Next: The daemon is not running; this goes on when it is started." in lines
    assert re.search(rf"^Catalog row .*: 720p ready, url http://.*/{KEY}$", ran.out, re.MULTILINE)


def test_explain_says_why_a_file_was_rejected_and_what_to_do(used: Command) -> None:
    ran = used("explain", CUT)
    number = id_of(used, CUT)
    assert re.search(r"^    Why: It is truncated in the mdat box", ran.out, re.MULTILINE)
    assert f"`video-uploader retry {number}`" in ran.out


def test_explain_of_a_video_tells_all_of_its_files(used: Command) -> None:
    ran = used("explain", VIDEO_ID.upper())
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith(VIDEO_ID)] == [
        CUT,
        GOOD,
        f"{VIDEO_ID}/notes.log",
    ]
    assert ran.out.count("Catalog row") >= 1


def test_explain_says_why_a_file_is_ignored(used: Command) -> None:
    ran = used("explain", f"{VIDEO_ID}/notes.log")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{VIDEO_ID}/notes.log",
        "  On disk: It is ignored: its extension .log is not in VIDEO_EXTENSIONS.",
        "  Ledger: nothing is recorded for it.",
    ]


def test_explain_of_a_file_that_nobody_knows(used: Command) -> None:
    unknown = f"{VIDEO_ID}/never_720p.mp4"
    ran = used("explain", unknown)
    assert ran.out.splitlines()[:3] == [
        unknown,
        "  On disk: It does not exist.",
        "  Ledger: nothing is recorded for it.",
    ]


def test_explain_of_a_video_that_nobody_knows(used: Command) -> None:
    unknown = VIDEO_ID.replace("0", "1")
    assert used("explain", unknown).refused(1).startswith(f"Nothing is known about video {unknown}")


def test_explain_of_a_path_elsewhere_is_refused(used: Command) -> None:
    assert "is not below COMPLETED_DIR" in used("explain", "/etc/passwd").refused(1)


def test_explain_can_be_asked_about_a_name_that_is_no_text(used: Command) -> None:
    ran = used("explain", f"{VIDEO_ID}/\udcff\x1b_720p.mp4")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"{VIDEO_ID}/\\udcff\\x1b_720p.mp4"
    assert "its name is not valid UTF-8" in ran.out


def test_a_terminal_that_cannot_show_a_name_gets_escapes(used: Command) -> None:
    ran = used("explain", f"{VIDEO_ID}/é_720p.mp4", PYTHONIOENCODING="ascii")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"{VIDEO_ID}/\\xe9_720p.mp4"


# --- config


def test_config_shows_every_setting_with_its_source_and_no_secret(offline: Command) -> None:
    with open(os.path.join(offline.place, "settings"), "w", encoding="utf-8") as file:
        file.write("UPLOAD_CONCURRENCY=7\nAWS_REGION=from-the-file\nPENDING_DIR=/x\n")
    database = "postgresql://u:s3cr3t@127.0.0.1:1/db"
    changes = {"DATABASE_URL": database, "CATALOG": "own"}
    shown = offline("--env-file", "settings", "config", "--json", **changes).json()
    assert list(shown) == [name.upper() for name in Settings.model_fields]
    assert shown["UPLOAD_CONCURRENCY"] == {"value": "7", "source": "settings"}
    assert shown["AWS_REGION"] == {"value": REGION, "source": "environment"}
    assert shown["RESCAN_SECONDS"] == {"value": "300", "source": "default"}
    assert shown["AWS_SECRET_ACCESS_KEY"] == {"value": MASK, "source": "environment"}
    assert shown["DATABASE_URL"]["value"] == f"postgresql://u:{MASK}@127.0.0.1:1/db"
    ran = offline("config", **changes)
    assert ran.out.splitlines()[0].split() == ["NAME", "VALUE", "FROM"]
    for secret in (SECRET_ACCESS_KEY, ACCESS_KEY_ID, "s3cr3t"):
        assert secret not in ran.out + json.dumps(shown)


def test_a_file_named_env_in_the_working_directory_counts(offline: Command) -> None:
    with open(os.path.join(offline.place, ".env"), "w", encoding="utf-8") as file:
        file.write("UPLOAD_CONCURRENCY=7\n")
    assert offline("config", "--json").json()["UPLOAD_CONCURRENCY"] == {"value": "7", "source": ".env"}


# --- what a person does wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("frob",), "No such command 'frob'"),
        (("run", "--twice"), "No such option"),
        (("run", "--dry-run"), "--dry-run goes with --once"),
        (("list", "--state", "lost"), "'lost' is not one of 'pending'"),
        (("list", "--video", "720p"), "is not a UUID"),
        (("explain",), "Missing argument"),
        (("retry",), "Say which"),
        (("retry", "1", "--all"), "Say which"),
        (("retry", "one"), "Invalid value"),
        (("retry", "9" * 30), "Invalid value"),
        (("retry", "--state", "released"), "nothing to retry"),
        (("--env-file", "not-there", "config"), "There is no file not-there"),
        (("--env-file", ".", "config"), "There is no file ."),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(offline: Command, arguments: tuple[str, ...], words: str) -> None:
    assert words in offline(*arguments).refused(2)


@pytest.mark.parametrize("arguments", [("run",), ("list",), ("explain", "x"), ("config",)])
def test_a_wrong_setting_is_one_sentence_and_2_for_every_command(
    offline: Command, arguments: tuple[str, ...]
) -> None:
    sentence = offline(*arguments, UPLOAD_CONCURRENCY="many").refused(2)
    assert sentence.startswith("UPLOAD_CONCURRENCY: ")
    assert sentence.endswith("; allowed: 1 to 64")


def test_all_wrong_settings_are_told_at_once(offline: Command) -> None:
    ran = offline("run", UPLOAD_CONCURRENCY="0", LOG_LEVEL="LOUD", COMPLETED_DIR=None)
    assert (ran.code, ran.out) == (2, "")
    names = [line.split(":")[1].strip() for line in ran.err.splitlines()]
    assert sorted(names) == ["COMPLETED_DIR", "LOG_LEVEL", "UPLOAD_CONCURRENCY"]


def test_a_directory_that_is_not_there_is_1(offline: Command) -> None:
    missing = os.path.join(offline.place, "missing")
    assert missing in offline("run", "--once", COMPLETED_DIR=missing).refused(1)
    assert missing in offline("run", "--once", "--dry-run", COMPLETED_DIR=missing).refused(1)


def test_a_database_that_does_not_answer_is_1_without_its_password(offline: Command) -> None:
    url = "postgresql://u:s3cr3t@127.0.0.1:1/db"
    sentence = offline("status", DATABASE_URL=url, CATALOG="own").refused(1)
    assert "DATABASE_URL" in sentence
    assert "s3cr3t" not in sentence


def test_a_state_directory_that_cannot_be_made_is_1(offline: Command) -> None:
    sentence = offline("run", "--once", STATE_DIRECTORY="/proc/nowhere").refused(1)
    assert "STATE_DIRECTORY" in sentence


# --- help


def test_the_help_names_every_command_that_there_is(offline: Command) -> None:
    ran = offline("--help")
    assert ran.code == 0
    registered = {command.name for command in app.registered_commands}
    assert registered == COMMANDS
    assert {group.name for group in app.registered_groups} == {"bucket", "db"}
    section = ran.out.partition("Commands")[2]
    assert set(re.findall(r"^\W*([a-z]+)\s", section, re.MULTILINE)) >= registered


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_without_any_setting(offline: Command, command: str) -> None:
    ran = offline(command, "--help", COMPLETED_DIR=None)
    assert (ran.code, ran.err) == (0, "")
    assert f"Usage: video-uploader {command}" in ran.out


def test_the_bare_command_shows_its_help_and_is_wrong_usage(offline: Command) -> None:
    ran = offline()
    assert ran.code == 2
    assert "Usage: video-uploader" in ran.out
    assert ran.err == "video-uploader: It was not said what to do; see --help.\n"


def test_the_version_is_told(offline: Command) -> None:
    assert re.fullmatch(r"video-uploader \d+\.\d+\.\d+\n", offline("--version").out)
