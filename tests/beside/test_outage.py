"""PostgreSQL stops for twenty seconds while uploads are in flight, and starts again."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from db import State
from tests.beside.platform import QUALITIES, Platform, running_platform, wait_until
from tests.beside.publication_watch import ensure_prompt, publication_watch
from tests.beside.verdict import problems, rows_of, unfinished, uploads_of
from tests.support.daemon_process import running_daemon
from tests.support.fault_proxy import Answer, Forward, Request
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.timeout(300)

OUTAGE_SECONDS = 20.0
PATIENCE_SECONDS = 120.0


@pytest.fixture
def platform(place: str, own_postgres: PostgresServer, server: S3Server) -> Iterator[Platform]:
    with own_postgres.fresh_database() as url, running_platform(place, url, server) as running:
        yield running


def test_uploads_in_flight_go_on_and_are_recorded_when_the_database_is_back(
    platform: Platform, own_postgres: PostgresServer, request: pytest.FixtureRequest
) -> None:
    """A multipart upload whose parts go on, and which becomes an object once its checksum can be recorded."""
    large = platform.large_video("large.mov", seconds=1)
    small = platform.videos(["before.mp4", "a b.mp4"])
    in_flight, go_on = threading.Event(), threading.Event()

    parts = Counter[int | None]()

    def hold_the_second_part(request: Request, forward: Forward) -> Answer | None:
        if request.action == "UploadPart":
            parts[request.part_number] += 1
        if request.action == "UploadPart" and request.part_number == 2:
            in_flight.set()
            assert go_on.wait(PATIENCE_SECONDS)
        return platform.count(request, forward)

    platform.proxy.fault = hold_the_second_part
    key = platform.key(large.video_id, "original")
    with (
        running_daemon(platform.settings(), log=str(platform.log)) as daemon,
        publication_watch(platform) as watch,
        platform.compressing([large, *small]) as compression,
    ):
        compression.outcomes()
        assert in_flight.wait(PATIENCE_SECONDS)
        own_postgres.stop()
        try:
            go_on.set()
            wait_until(lambda: "record_waits" in platform.log.read_text(), PATIENCE_SECONDS, lambda: parts)
            threading.Event().wait(OUTAGE_SECONDS)
            assert daemon.process.poll() is None
            assert not platform.completions[key]
        finally:
            own_postgres.start()
        over = watch.now()
        wait_until(lambda: not unfinished(platform), PATIENCE_SECONDS, lambda: unfinished(platform))
        assert problems(platform) == []
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert set(platform.completions.values()) == set(parts.values()) == {1}
    # A copy that is dated back after its row was seen begins anew, before anything was sent.
    released = [upload.path for upload in uploads_of(platform) if upload.state is State.RELEASED]
    assert len(rows_of(platform)) == len(released) == len(set(released)) == 3 * (len(QUALITIES) + 1)
    ensure_prompt(request, f"PostgreSQL away for {OUTAGE_SECONDS:.0f} s", watch, over)
    log = platform.log.read_text()
    assert '"event": "record_waits"' in log
    assert '"internal_error"' not in log
