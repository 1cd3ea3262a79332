"""S3 that is away is one fact for all files, and what S3 refuses for one file concerns that file alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from moto.server import ThreadedMotoServer
from structlog.testing import capture_logs

from db import State
from storage import SourceFile, StorageError
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET, LEASE, VIDEO_ID, Harness, MakeHarness
from tests.support.ports import free_address
from watcher.app.status_report import DaemonStatus
from watcher.app.wiring import CHECKING_PUBLISHERS
from watcher.stages.runner import StageRunner
from watcher.supervision.circuit_breaker import OUTAGE_ROWS

pytestmark = pytest.mark.long

WAIT_SECONDS = 60
FILES = 12


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""


@contextmanager
def running(harness: Harness, state: State = State.PENDING) -> Iterator[StageRunner]:
    runner = harness.app.runners[state]
    # One stage alone: what is verified stays so.
    runner.publisher = lambda: None
    runner.start()
    try:
        yield runner
    finally:
        runner.request_stop()
        assert runner.join(WAIT_SECONDS)


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that another thread fulfils."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def put_files(harness: Harness, video: bytes, count: int = FILES) -> list[str]:
    paths = [f"{VIDEO_ID}/film{number}_720p.mp4" for number in range(count)]
    for path in paths:
        harness.put(path, video)
    return paths


def states(harness: Harness, paths: Sequence[str]) -> set[State]:
    return {harness.row(path).state for path in paths}


def events(logs: Sequence[object], *wanted: str) -> list[str]:
    names = [log["event"] for log in logs if isinstance(log, dict)]
    return [name for name in names if name in wanted]


def test_while_s3_refuses_connections_one_row_asks_no_file_is_read_and_all_go_on_when_it_is_back(
    make_harness: MakeHarness, video: bytes
) -> None:
    address = free_address()
    harness = make_harness(AWS_ENDPOINT_URL=f"http://{address}")
    paths = put_files(harness, video)
    with capture_logs() as logs, running(harness) as runner:
        until(lambda: runner.breaker.failure is not None and runner.is_idle)
        probes = 4
        for _ in range(probes):
            runner.breaker.probe_soon("connection")
            runner.wake()
            until(lambda: runner.is_idle and runner.breaker.seconds_to_probe() != 0)
        rows = [harness.row(path) for path in paths]
        attempts = sum(row.claim for row in rows) // 2
        at_once = harness.app.settings.upload_concurrency + 1  # and a small one
        assert attempts <= at_once + 3 + probes
        assert [row.checksum for row in rows] == [None] * FILES, "a file was read"
        assert sum(row.attempts for row in rows) <= 2
        status = DaemonStatus(harness.app, harness.app.scanner, observer_failure=str)  # type: ignore[arg-type]
        assert "connection" in status.failures()["upload"]
        host, port = urlsplit(f"//{address}").hostname, urlsplit(f"//{address}").port
        assert host is not None
        assert port is not None
        s3 = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
        s3.start()
        try:
            runner.breaker.probe_soon("connection")
            runner.wake()
            until(lambda: states(harness, paths) == {State.VERIFIED})
        finally:
            s3.stop()
    assert events(logs, "stage_paused", "stage_resumed") == ["stage_paused", "stage_resumed"]
    assert runner.breaker.failure is None


@pytest.mark.parametrize(
    "answer", [Answer(500), s3_error(503, "SlowDown"), None], ids=["500", "SlowDown", "cut"]
)
def test_a_server_that_fails_every_upload_pauses_the_stage_and_gets_few_requests(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, answer: Answer | None
) -> None:
    """It answers a HEAD, so that only a whole attempt shows that it works again."""
    proxy.fault = lambda request, forward: answer if request.action == "PutObject" else forward()
    harness = make_harness()
    paths = put_files(harness, video)
    with running(harness) as runner:
        until(lambda: runner.breaker.failure is not None and runner.is_idle)
        paused_with = len(proxy.requests)
        runner.wake()
        until(lambda: runner.is_idle)
        assert len(proxy.requests) == paused_with
        assert State.VERIFIED not in states(harness, paths)
        proxy.fault = lambda _request, forward: forward()
        failure = runner.breaker.failure
        assert failure is not None
        runner.breaker.probe_soon(failure.code)
        runner.wake()
        until(lambda: states(harness, paths) == {State.VERIFIED})


def refuse(what: str, answer: Answer) -> Fault:
    """Refuses what concerns the key with this text."""

    def fault(request: Request, forward: Forward) -> Answer:
        return answer if what in request.path else forward()

    return fault


def test_a_key_that_policy_denies_delays_no_other_file(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    paths = put_files(harness, video)
    proxy.fault = refuse("film0_", s3_error(403, "AccessDenied"))
    with capture_logs() as logs, running(harness):
        until(lambda: states(harness, paths[1:]) == {State.VERIFIED})
        until(lambda: harness.row(paths[0]).attempts > 0)
    row = harness.row(paths[0])
    assert (row.state, row.error_code) == (State.PENDING, "AccessDenied")
    assert row.last_error is not None
    assert "s3:PutObject" in row.last_error
    assert events(logs, "stage_paused") == []


def test_an_identical_private_object_is_given_the_acl(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    path = f"{VIDEO_ID}/film_720p.mp4"
    key = harness.put(path, video).object_key
    harness.server.client().put_object(Bucket=BUCKET, Key=key, Body=video, ChecksumAlgorithm="CRC64NVME")
    assert not harness.app.context.store.is_public(key)
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert proxy.actions == ["HeadObject", "HeadObject", "HeadObject", "PutObjectAcl", "HeadObject"]
    assert harness.app.context.store.is_public(key)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("AccessDenied", 403, "s3:PutObjectAcl"),
        ("AccessControlListNotSupported", 400, "its ACL cannot be set"),
    ],
)
def test_an_identical_private_object_whose_acl_may_not_be_set_says_so_and_delays_no_other_file(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, code: str, status: int, said: str
) -> None:
    harness = make_harness()
    paths = put_files(harness, video)
    key = harness.row(paths[0]).object_key
    harness.server.client().put_object(Bucket=BUCKET, Key=key, Body=video, ChecksumAlgorithm="CRC64NVME")

    def fault(request: Request, forward: Forward) -> Answer:
        return s3_error(status, code) if request.action == "PutObjectAcl" else forward()

    proxy.fault = fault
    with running(harness):
        until(lambda: states(harness, paths[1:]) == {State.VERIFIED})
        until(lambda: harness.row(paths[0]).attempts > 0)
    row = harness.row(paths[0])
    assert (row.state, row.error_code) == (State.PENDING, code)
    assert row.last_error is not None
    assert said in row.last_error


def test_releases_stop_asking_while_s3_is_away_and_all_go_on_when_it_is_back(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """Files of one batch: those after the first failures are neither asked for nor quarantined."""
    harness = make_harness()
    paths = put_files(harness, video)
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    del proxy.requests[:]
    proxy.fault = lambda _request, _forward: Answer(500)
    with running(harness, State.PUBLISHED) as runner:
        until(lambda: runner.breaker.failure is not None and runner.is_idle)
        assert len(proxy.requests) <= 2 * OUTAGE_ROWS, "the CRT tries each of them twice"
        assert states(harness, paths) == {State.PUBLISHED}
        assert sum(harness.row(path).attempts for path in paths) < OUTAGE_ROWS
        failure = runner.breaker.failure
        assert failure is not None
        proxy.fault = lambda _request, forward: forward()
        runner.breaker.probe_soon(failure.code)
        runner.wake()
        until(lambda: states(harness, paths) == {State.RELEASED})


def test_a_public_host_that_is_away_pauses_the_publication_and_gets_few_requests(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness(VERIFY_PUBLIC_URL=True)
    paths = put_files(harness, video)
    harness.step(State.PENDING)
    del proxy.requests[:]
    proxy.fault = lambda _request, _forward: None
    with running(harness, State.VERIFIED) as runner:
        until(lambda: runner.breaker.failure is not None and runner.is_idle)
        assert len(proxy.requests) < OUTAGE_ROWS + CHECKING_PUBLISHERS
        assert states(harness, paths) == {State.VERIFIED}
        proxy.fault = lambda _request, forward: forward()
        runner.breaker.probe_soon("connection")
        runner.wake()
        until(lambda: states(harness, paths) == {State.PUBLISHED})


def test_an_abandoned_multipart_upload_that_may_not_be_aborted_keeps_no_other_one(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    for path in put_files(harness, video, 3):
        key = harness.row(path).object_key
        created = harness.server.client().create_multipart_upload(Bucket=BUCKET, Key=key)
        row = harness.app.ledger.claim_one(harness.row(path).id, lease=LEASE)
        assert row is not None
        row = harness.app.ledger.record(row, multipart_id=created["UploadId"], part_size=1)
        harness.app.ledger.advance(row, State.GONE)
    proxy.fault = refuse("film0_", s3_error(403, "AccessDenied"))
    with pytest.raises(StorageError, match="AccessDenied"):
        harness.app.abandoned_multiparts.abort_abandoned()
    left = harness.server.client().list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert ["film0_" in upload["Key"] for upload in left] == [True]


def test_a_retry_hashes_a_file_again_only_if_it_was_touched(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is denied for ever, and the file is large."""
    hashed: list[int] = []
    checksum = SourceFile.checksum

    def counted(source: SourceFile, *arguments: Any, **options: Any) -> str:
        hashed.append(source.size)
        return checksum(source, *arguments, **options)

    monkeypatch.setattr(SourceFile, "checksum", counted)
    proxy.fault = refuse("film0_", s3_error(403, "AccessDenied"))
    harness = make_harness()
    (path,) = put_files(harness, video, 1)
    for _ in range(3):
        harness.step(State.PENDING)
    assert len(hashed) == 1
    status = os.stat(harness.absolute(path))
    os.utime(harness.absolute(path), ns=(status.st_atime_ns, status.st_mtime_ns))
    harness.step(State.PENDING)
    assert len(hashed) == 2
