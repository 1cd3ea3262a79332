"""S3 to which no connection can be made, and S3 that refuses everybody: one state of the whole daemon."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config

from db import State
from tests.support.daemon_process import command, place_file, rows, running_daemon
from tests.support.fault_proxy import FaultProxy, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, MakeHarness, MakeSettings
from tests.support.media import Media
from tests.support.ports import free_address
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server

pytestmark = pytest.mark.long

FILES = 200


@contextmanager
def s3_process(address: str) -> Iterator[None]:
    """A moto server with an empty bucket, as a process that is killed at the end of the block."""
    host, port = address.split(":")
    arguments = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(arguments, stdout=quiet, stderr=quiet) as process:
        try:
            retries = Config(retries={"total_max_attempts": 20, "mode": "standard"})
            client = boto3.session.Session().client(
                "s3",
                region_name=REGION,
                endpoint_url=f"http://{address}",
                aws_access_key_id=ACCESS_KEY_ID,
                aws_secret_access_key=SECRET_ACCESS_KEY,
                config=retries,
            )
            client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
            client.close()
            yield
        finally:
            process.kill()


@pytest.mark.timeout(300)
def test_a_server_that_is_stopped_is_one_fact_for_200_files_which_are_all_due_when_it_is_back(
    settings: MakeSettings, media: Media, place: str
) -> None:
    """It is said once in the log, in `status` and to systemd; no row is tried or put off."""
    address = free_address()
    chosen = settings(AWS_ENDPOINT_URL=f"http://{address}", RESCAN_SECONDS=86400)
    notify = os.path.join(place, "notify")
    with ExitStack() as first, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(notify)
        manager.settimeout(20)
        first.enter_context(s3_process(address))
        with running_daemon(chosen, environment={"NOTIFY_SOCKET": notify}) as daemon:
            daemon.expect("daemon_ready")
            place_file(chosen, f"{VIDEO_ID}/first_144p.mp4", media.faststart)
            daemon.expect("upload_released")
            first.close()
            for number in range(FILES):
                place_file(chosen, f"{VIDEO_ID}/film{number}_144p.mp4", media.faststart)
            daemon.patience_seconds = 60
            told = daemon.expect("store_away")
            assert "S3 does not answer since " in told["reason"]
            assert f", {address})" in told["reason"]
            daemon.expect("file_finished", count=FILES + 1)
            # The CRT may have another word for it than the system, which the first probe asks.
            while f"(connection refused, {address})" not in (said := manager.recv(1 << 16).decode()):
                continue
            assert "upload, release paused: S3 does not answer since " in said
            shown = json.loads(command(chosen, "status", "--json").stdout)["report"]
            assert shown["s3"]["answers"] is False
            assert "S3 does not answer since " in shown["s3"]["reason"]
            assert "release paused: S3 does not answer since " in command(chosen, "status").stdout
            waiting = [row for row in rows(chosen) if row.state is State.PENDING]
            assert len(waiting) == FILES
            assert {row.attempts for row in waiting} == {0}
            assert max(row.due_at for row in waiting) <= datetime.now(UTC)
            warnings = [line for line in daemon.events if line.get("level") in {"warning", "error"}]
            assert sorted(line["event"] for line in warnings) == [
                "stage_paused",
                "stage_paused",
                "store_away",
            ]
            with s3_process(address):
                daemon.expect("store_back")
                daemon.expect("upload_released", count=FILES + 1)
    complaints = [line["event"] for line in daemon.events if line.get("level") in {"warning", "error"}]
    assert len(complaints) < 10, complaints


def test_an_idle_daemon_whose_key_is_refused_says_so_and_notices_when_it_is_accepted(
    settings: MakeSettings, proxy: FaultProxy
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "InvalidAccessKeyId")
    chosen = settings()
    with running_daemon(chosen) as daemon:
        told = daemon.expect("store_away", code="InvalidAccessKeyId")
        assert "S3 refuses every request since " in told["reason"]
        daemon.expect("daemon_ready")
        while "refuses every request" not in command(chosen, "status").stdout:
            continue
        proxy.fault = lambda _request, forward: forward()
        daemon.expect("store_back")


def test_a_release_that_the_file_system_refuses_pauses_the_stage_and_counts_against_no_file(
    make_harness: MakeHarness, server: S3Server, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    paths = [f"{VIDEO_ID}/film{number}_144p.mp4" for number in range(3)]
    for path in paths:
        harness.put(path, video)
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refused)
        harness.step(State.PUBLISHED)
    failure = harness.app.runners[State.PUBLISHED].breaker.failure
    assert failure is not None
    assert failure.code == "not-removable"
    found = [harness.row(path) for path in paths]
    assert [row.attempts for row in found] == [0, 0, 0]
    assert max(row.due_at for row in found) <= harness.app.ledger.now() + timedelta(seconds=0)
