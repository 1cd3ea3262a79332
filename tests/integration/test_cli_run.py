"""`run` as a process: one pass, a dry run, and the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.cli_process import CUT, GOOD, KEY, SECONDS, Command, Ran
from tests.support.fault_proxy import Answer, FaultProxy, Forward, s3_error
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.ports import free_address
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.long


def test_once_ends_with_0_when_everything_is_published_and_waits_for_its_retention_only(
    online_command: Command, server: S3Server, video: bytes
) -> None:
    path = online_command.write(GOOD, video)
    ran = online_command("run", "--once")
    assert (ran.code, ran.out) == (0, "")
    assert server.client().get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == video
    assert os.path.exists(path)
    (row,) = online_command("list", "--json").json()
    assert (row["state"], row["confirmed_by"]) == ("published", "checksum")
    assert online_command("run", "--once").code == 0


def test_once_releases_at_once_where_nothing_is_retained(online_command: Command, video: bytes) -> None:
    path = online_command.write(GOOD, video)
    assert online_command("run", "--once", RELEASE_AFTER_SECONDS="0").code == 0
    assert not os.path.exists(path)
    (row,) = online_command("list", "--json").json()
    assert row["state"] == "released"


def test_once_in_an_empty_directory_is_fine(online_command: Command) -> None:
    assert online_command("run", "--once").code == 0
    assert online_command("list", "--json").json() == []


def test_once_ends_with_1_and_a_sentence_for_what_was_rejected(online_command: Command, video: bytes) -> None:
    online_command.write(CUT, video[: len(video) // 2])
    online_command.write(GOOD, video)
    ran = online_command("run", "--once")
    assert ran.code == 1
    sentences = [line for line in ran.err.splitlines() if line.startswith("video-uploader: ")]
    assert len(sentences) == 1
    assert sentences[0].startswith(f"video-uploader: {CUT}: rejected: ")
    states = {row["path"]: row["state"] for row in online_command("list", "--json").json()}
    assert states == {CUT: "rejected", GOOD: "published"}


def test_once_ends_with_1_while_somebody_writes(online_command: Command, video: bytes) -> None:
    with open(online_command.write(GOOD, video), "ab"):
        ran = online_command("run", "--once")
    assert ran.code == 1
    assert f"video-uploader: {GOOD}: a process still has it open for writing" in ran.err.splitlines()


def test_once_ends_with_1_and_the_reason_when_the_environment_is_wrong(
    online_command: Command, proxy: FaultProxy, video: bytes
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "InvalidAccessKeyId")
    online_command.write(GOOD, video)
    ran = online_command("run", "--once")
    assert ran.code == 1
    assert "video-uploader: upload is paused: " in ran.err
    assert "AWS_ACCESS_KEY_ID" in ran.err
    (row,) = online_command("list", "--json").json()
    assert (row["state"], row["attempts"]) == ("pending", 0)


def test_a_second_run_of_the_instance_is_refused(
    online_command: Command, proxy: FaultProxy, video: bytes
) -> None:
    """While the first one sends, a second one says who is at work, and readers read."""
    seconds: list[Ran] = []

    def fault(request: object, forward: Any) -> Answer | None:
        if not seconds:
            seconds.append(online_command("run", "--once"))
            seconds.append(online_command("status", "--json"))
        answer: Answer = forward()
        return answer

    proxy.fault = fault
    online_command.write(GOOD, video)
    assert online_command("run", "--once").code == 0
    refused, status = seconds
    assert "Another daemon of this instance is running (process " in refused.refused(1)
    assert status.json()["running"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_interrupted_says_so_and_loses_nothing(
    online_command: Command, proxy: FaultProxy, video: bytes, number: signal.Signals
) -> None:
    """The retention is near enough to be waited for, so the signal always finds the run at work."""
    online_command.write(GOOD, video)
    processes: list[subprocess.Popen[str]] = []

    def interrupt(_request: object, forward: Forward) -> Answer:
        if processes:
            processes.pop().send_signal(number)
        return forward()

    proxy.fault = interrupt
    with online_command.popen("run", "--once", RELEASE_AFTER_SECONDS="20") as process:
        processes.append(process)
        try:
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "video-uploader: interrupted; the next run continues" in err
    again = online_command("run", "--once")
    assert again.code == 0, again


def test_a_dry_run_says_what_it_would_do_and_does_nothing(offline_command: Command, video: bytes) -> None:
    offline_command.write(GOOD, video)
    offline_command.write(CUT, video[:100])
    offline_command.write(f"{VIDEO_ID}/notes.log", b"x")
    offline_command.write(f"{VIDEO_ID}/bell\x07_720p.mp4", b"x")
    before = sorted(os.listdir(offline_command.place))
    ran = offline_command("run", "--once", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert f"upload  {GOOD}: to {KEY}, as quality 720p" in lines
    assert [line for line in lines if line.startswith(f"reject  {CUT}: ")]
    assert [line for line in lines if line.startswith(f"ignore  {VIDEO_ID}/notes.log: ")]
    assert f"ignore  {VIDEO_ID}/bell\\x07_720p.mp4: its name contains control characters" in lines
    assert lines[-1] == "Nothing was done. 2 to ignore, 1 to reject, 1 to upload"
    assert sorted(os.listdir(offline_command.place)) == before == ["completed"]


def test_a_dry_run_in_an_empty_directory_says_that_there_is_nothing(offline_command: Command) -> None:
    assert offline_command("run", "--once", "--dry-run").out == "Nothing was done. There is no file.\n"


def test_the_daemon_serves_what_the_ledger_says_and_is_seen_to_run(copied_command: Command) -> None:
    address = free_address()
    with copied_command.popen("run", METRICS_ADDRESS=address, KEEP_LOCAL="true") as process:
        try:
            assert process.stderr is not None
            assert any('"daemon_ready"' in line for line in process.stderr)
            with urlopen(f"http://{address}/metrics", timeout=10) as answer:
                samples = answer.read().decode().splitlines()
            assert copied_command("status", "--json").json()["running"] is True
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0
    assert 'video_uploader_uploads{state="rejected"} 1.0' in samples
    assert 'video_uploader_stage_paused{stage="scan"} 0.0' in samples
    assert [sample for sample in samples if sample.startswith("video_uploader_settling_files ")]
    assert copied_command("status", "--json").json()["running"] is False
