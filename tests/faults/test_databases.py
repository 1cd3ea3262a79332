"""The database fails while S3 does what cannot be recorded: nothing is lost, and nothing is sent twice."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from tests.faults.files_at_stake import FilesAtStake
from tests.faults.going_well import going_well
from tests.faults.wire import Wire
from tests.faults.wire_faults import BlackHole, Cut, Delayed, Fault, Refused
from tests.support.catalog_rows import catalog_rows
from tests.support.daemon_process import DaemonProcess, rows
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.media import Media
from tests.support.postgres import PostgresServer
from tests.support.video_files import padded
from watcher.settings.model import Settings

pytestmark = pytest.mark.timeout(240)

SMALL = {f"{VIDEO_ID}/small_{quality}.mp4": quality for quality in ("144p", "240p", "360p")}
LARGE = f"{VIDEO_ID}/large_1080p.mp4"
LARGE_BYTES = 17 * 1024 * 1024
PATIENCE_SECONDS = 45.0
FROZEN_SECONDS = 8.0
"""Longer than the claims of these daemons last."""


@dataclass
class Deployment:
    """A daemon's settings for the compressor's tables, and the URLs that players must be given in the end."""

    settings: Settings
    url: str

    def ensure_all_are_public(self) -> None:
        """Every row shows the object of its own file."""
        with psycopg.connect(self.url) as connection:
            shown = connection.execute("SELECT quality, url FROM video_qualities").fetchall()
        key = f"{self.settings.aws_endpoint_url}/{BUCKET}/videos"
        expected = {(quality, f"{key}/{path}") for path, quality in {**SMALL, LARGE: "1080p"}.items()}
        assert set(shown) == expected


@pytest.fixture
def deployment(place: str, proxy: FaultProxy, own_postgres: PostgresServer) -> Iterator[Deployment]:
    with own_postgres.fresh_database() as url:
        with catalog_rows(url) as compressor:
            for path, quality in {**SMALL, LARGE: "1080p"}.items():
                compressor.insert(path.rpartition("/")[2], quality)
        yield Deployment(
            settings_for(place, proxy.url, DATABASE_URL=url, CATALOG="compressor", CLAIM_SECONDS=5), url
        )


class Held:
    """The answers to one kind of request, once a multipart upload has begun: S3 has done it, and the
    answers are held back until the test releases them."""

    def __init__(self, proxy: FaultProxy, action: str) -> None:
        self._done, self._let_go = threading.Event(), threading.Event()

        def hold(request: Request, forward: Forward) -> Answer:
            answer = forward()
            if request.action == action and "CreateMultipartUpload" in proxy.actions:
                self._done.set()
                assert self._let_go.wait(PATIENCE_SECONDS)
            return answer

        proxy.fault = hold

    def wait(self) -> None:
        """Wait until S3 has done the first of them."""
        assert self._done.wait(PATIENCE_SECONDS)

    def go_on(self) -> None:
        """Release all answers."""
        self._let_go.set()


def put_all(files_at_stake: FilesAtStake, settings: Settings, media: Media) -> list[str]:
    """Let small files arrive, and one that is sent in parts; returns their paths."""
    for path in SMALL:
        files_at_stake.copy(settings, path, media.faststart)
    with open(media.faststart, "rb") as file:
        files_at_stake.put(settings, LARGE, padded(file.read(), LARGE_BYTES))
    return [*SMALL, LARGE]


def expect_all(daemon: DaemonProcess, files_at_stake: FilesAtStake, paths: list[str]) -> None:
    for path in paths:
        daemon.expect("upload_released", path=path)
    files_at_stake.recovered()


@pytest.mark.fault("PostgreSQL stopped in the middle of uploads")
@pytest.mark.parametrize("action", ["UploadPart", "CompleteMultipartUpload", "HeadObject"])
def test_what_s3_did_while_the_database_was_away_is_written_down_when_it_is_back(
    deployment: Deployment,
    proxy: FaultProxy,
    own_postgres: PostgresServer,
    media: Media,
    files_at_stake: FilesAtStake,
    action: str,
) -> None:
    """The database stops after S3 has done something, and before the daemon gets the answer."""
    held = Held(proxy, action)
    with going_well(deployment.settings) as daemon:
        paths = put_all(files_at_stake, deployment.settings, media)
        held.wait()
        own_postgres.stop()
        files_at_stake.inject()
        held.go_on()
        daemon.expect("stage_paused", code="database")
        own_postgres.start()
        files_at_stake.over()
        expect_all(daemon, files_at_stake, paths)
    deployment.ensure_all_are_public()
    files_at_stake.judge(deployment.settings)


@pytest.mark.fault("every connection to PostgreSQL ended at every request to S3")
def test_connections_that_end_all_the_time_only_delay(
    deployment: Deployment,
    proxy: FaultProxy,
    own_postgres: PostgresServer,
    media: Media,
    files_at_stake: FilesAtStake,
) -> None:
    one_at_a_time = threading.Lock()

    def end_all(request: Request, forward: Forward) -> Answer:
        answer = forward()
        with one_at_a_time:
            own_postgres.terminate_connections()
            files_at_stake.inject()
        return answer

    with going_well(deployment.settings) as daemon:
        proxy.fault = end_all
        paths = put_all(files_at_stake, deployment.settings, media)
        daemon.expect("file_finished", count=len(paths))
        daemon.expect("attempt_failed")
        proxy.fault = no_fault
        files_at_stake.over()
        expect_all(daemon, files_at_stake, paths)
    deployment.ensure_all_are_public()
    files_at_stake.judge(deployment.settings)


@pytest.mark.fault("PostgreSQL frozen, connections open")
def test_a_database_that_answers_nothing_for_a_while_is_waited_for(
    deployment: Deployment,
    proxy: FaultProxy,
    own_postgres: PostgresServer,
    media: Media,
    files_at_stake: FilesAtStake,
) -> None:
    """The freeze outlasts the claims; the daemon still holds its rows afterwards."""
    held = Held(proxy, "UploadPart")
    with going_well(deployment.settings) as daemon:
        paths = put_all(files_at_stake, deployment.settings, media)
        held.wait()
        with own_postgres.frozen():
            files_at_stake.inject()
            held.go_on()
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(FROZEN_SECONDS)
        files_at_stake.over()
        expect_all(daemon, files_at_stake, paths)
    deployment.ensure_all_are_public()
    files_at_stake.judge(deployment.settings)


@contextmanager
def wired(deployment: Deployment) -> Iterator[tuple[Wire, Settings]]:
    """The network before PostgreSQL, and the settings of a daemon on the far side of it."""
    url = urlsplit(deployment.url)
    (directory,) = parse_qs(url.query)["host"]
    with Wire(os.path.join(directory, ".s.PGSQL.5432")) as wire:
        far = url._replace(netloc=f"{url.username}@127.0.0.1:{wire.port}", query="").geturl()
        yield wire, deployment.settings.model_copy(update={"database_url": SecretStr(far)})


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refused(), marks=pytest.mark.fault("PostgreSQL: connections refused")),
        pytest.param(
            BlackHole(),
            marks=pytest.mark.fault("PostgreSQL: connections swallowed by a black hole, then reset"),
        ),
    ],
)
def test_a_database_that_cannot_be_reached_is_waited_for(
    deployment: Deployment, proxy: FaultProxy, media: Media, files_at_stake: FilesAtStake, fault: Fault
) -> None:
    """A kernel resets what was silent for too long; here the test does it."""
    held = Held(proxy, "UploadPart")
    with wired(deployment) as (wire, settings), going_well(settings) as daemon:
        paths = put_all(files_at_stake, settings, media)
        held.wait()
        injection = wire.inject(fault)
        held.go_on()
        injection.wait_for(1)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(FROZEN_SECONDS)
        files_at_stake.inject(injection.injected)
        wire.inject(Cut())
        wire.relieve()
        files_at_stake.over()
        expect_all(daemon, files_at_stake, paths)
    deployment.ensure_all_are_public()
    files_at_stake.judge(deployment.settings)


@pytest.mark.fault("PostgreSQL: every message delayed by 20 ms")
def test_a_database_far_away_only_takes_longer(
    deployment: Deployment, media: Media, files_at_stake: FilesAtStake
) -> None:
    with wired(deployment) as (wire, settings):
        injection = wire.inject(Delayed(0.02))
        with going_well(settings) as daemon:
            paths = put_all(files_at_stake, settings, media)
            expect_all(daemon, files_at_stake, paths)
        files_at_stake.inject(injection.injected)
    deployment.ensure_all_are_public()
    files_at_stake.judge(deployment.settings)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Another program holds the ledger's write lock, as a backup that goes wrong does."""
    path = settings.ledger_url.removeprefix("sqlite://")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.fault("ledger locked by another program")
def test_a_ledger_that_another_program_has_locked_only_delays(
    place: str, proxy: FaultProxy, media: Media, files_at_stake: FilesAtStake
) -> None:
    settings = settings_for(place, proxy.url)
    with going_well(settings) as daemon:
        with locked(settings):
            files_at_stake.inject()
            paths = put_all(files_at_stake, settings, media)
            daemon.expect("settling_paused", code="database")
            assert rows(settings) == []
        files_at_stake.over()
        expect_all(daemon, files_at_stake, paths)
    files_at_stake.judge(settings)
