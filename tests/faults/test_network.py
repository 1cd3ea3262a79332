"""The real daemon behind a network that fails in every way: no file is lost, wrong or uploaded twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.faults.http_wire import HttpWire
from tests.faults.network import CONSTANT, HIDING, LASTING, PASSING, Trouble
from tests.support.daemon_process import DaemonProcess, rows, running_daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import VIDEO_ID, settings_for
from tests.support.s3_server import S3Server
from tests.support.strict_s3_server import refuse_wrong_checksums
from tests.support.video_files import padded
from watcher.settings.model import Settings

SMALL = tuple(f"{VIDEO_ID}/clip{number}_144p.mp4" for number in range(1, 5))
LARGE = f"{VIDEO_ID}/film_720p.mp4"
BEFORE = f"{VIDEO_ID}/before_144p.mp4"
LARGE_BYTES = 17 * 1024 * 1024
PATHS = (*SMALL, LARGE)


@pytest.fixture
def wire(proxy: FaultProxy, server: S3Server) -> Iterator[HttpWire]:
    """The network, before a server that refuses what does not match its checksum, as S3 does."""
    proxy.fault = refuse_wrong_checksums
    with HttpWire(proxy.url) as wire:
        yield wire


def each(troubles: Sequence[Trouble]) -> pytest.MarkDecorator:
    """A test for each of the troubles, marked with its name."""
    marked = [
        pytest.param(trouble, id=trouble.name, marks=pytest.mark.fault(trouble.name)) for trouble in troubles
    ]
    return pytest.mark.parametrize("trouble", marked)


@contextmanager
def at_work(
    files_at_stake: FilesAtStake, settings: Settings, paths: Sequence[str] = PATHS
) -> Iterator[DaemonProcess]:
    """A daemon that must release everything at stake without an unexpected error."""
    with running_daemon(settings) as daemon:
        daemon.expect("daemon_ready")
        yield daemon
        for path in paths:
            daemon.expect("upload_released", path=path)
        files_at_stake.recovered()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    said = {line["event"] for line in daemon.events}
    assert said.isdisjoint({"internal_error", "(not JSON)", "upload_gone", "upload_failed", "daemon_stalled"})
    assert [row.state for row in rows(settings)] == [State.RELEASED] * len(paths)


def put_all(files_at_stake: FilesAtStake, settings: Settings, video: bytes) -> None:
    """Four small files and one that is sent in parts."""
    put_small(files_at_stake, settings, video)
    files_at_stake.put(settings, LARGE, padded(video, LARGE_BYTES))


def put_small(files_at_stake: FilesAtStake, settings: Settings, video: bytes) -> None:
    """Four small files, each with content of its own."""
    for number, path in enumerate(SMALL, start=1):
        files_at_stake.put(settings, path, padded(video, len(video) + 100 * number))


def ensure_reported(daemon: DaemonProcess, trouble: Trouble) -> None:
    """The log says what was wrong, and nothing else."""
    told = (line for line in daemon.events if line["event"] in {"attempt_failed", "stage_paused"})
    codes = {line["code"] for line in told} - {trouble.consequence}
    if trouble.code is not None:
        assert codes == {trouble.code} or (trouble.may_go_unseen and not codes)


@each(PASSING)
def test_trouble_that_passes_costs_time_and_nothing_else(
    files_at_stake: FilesAtStake, wire: HttpWire, place: str, video: bytes, trouble: Trouble
) -> None:
    settings = settings_for(place, wire.url, **trouble.settings)
    with at_work(files_at_stake, settings) as daemon:
        injection = wire.inject(trouble.fault, trouble.requests)
        put_all(files_at_stake, settings, video)
        times = trouble.requests.first
        assert times is not None
        injection.wait_for(times)
        files_at_stake.inject(times)
    ensure_reported(daemon, trouble)
    files_at_stake.judge(settings)


@each(LASTING)
def test_trouble_that_lasts_is_survived_until_it_is_over(
    files_at_stake: FilesAtStake, wire: HttpWire, place: str, video: bytes, trouble: Trouble
) -> None:
    settings = settings_for(place, wire.url, **trouble.settings)
    with at_work(files_at_stake, settings, (BEFORE, *PATHS)) as daemon:
        # Uploads have begun, which a silence during the first look at the bucket would hold up for a minute.
        files_at_stake.put(settings, BEFORE, video)
        daemon.expect("upload_verified")
        injection = wire.inject(trouble.fault, trouble.requests)
        put_all(files_at_stake, settings, video)
        if trouble.is_away:
            daemon.expect("store_away", code=trouble.code)
        else:
            daemon.expect("attempt_failed", count=settings.upload_concurrency, code=trouble.code)
        files_at_stake.inject(injection.injected)
        wire.relieve()
        files_at_stake.over()
    ensure_reported(daemon, trouble)
    files_at_stake.judge(settings)


@each([HIDING])
def test_what_is_hidden_after_it_was_sent_is_not_sent_again(
    files_at_stake: FilesAtStake, wire: HttpWire, place: str, video: bytes, trouble: Trouble
) -> None:
    """Every probe of the stage that it pauses would send a file once more."""
    settings = settings_for(place, wire.url)
    with at_work(files_at_stake, settings, SMALL) as daemon:
        injection = wire.inject(trouble.fault, trouble.requests)
        put_small(files_at_stake, settings, video)
        # It is asked about each before it is read, before and after it is sent, and when the stage probes.
        injection.wait_for(3 * len(SMALL) + 1)
        files_at_stake.inject(injection.injected)
        wire.relieve()
        files_at_stake.over()
    ensure_reported(daemon, trouble)
    files_at_stake.judge(settings)


@each(CONSTANT)
def test_trouble_that_never_ends_is_lived_with(
    files_at_stake: FilesAtStake, wire: HttpWire, place: str, video: bytes, trouble: Trouble
) -> None:
    settings = settings_for(place, wire.url, **trouble.settings)
    injection = wire.inject(trouble.fault, trouble.requests)
    with at_work(files_at_stake, settings) as daemon:
        put_all(files_at_stake, settings, video)
    ensure_reported(daemon, trouble)
    files_at_stake.inject(injection.injected)
    files_at_stake.judge(settings)
