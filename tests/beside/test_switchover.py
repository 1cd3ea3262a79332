"""PgBouncer before the database, and another server that takes over from it in the middle of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.beside.platform import AWKWARD_NAMES, Platform, running_platform
from tests.beside.plays import HELD, SOME_OUTCOMES, compress, incomplete, play, processing, watched
from tests.beside.publication_watch import ensure_prompt, publication_watch
from tests.beside.verdict import problems
from tests.support.pgbouncer import PgBouncerUnavailableError, PoolMode, running_pgbouncer
from tests.support.postgres import PostgresServer, PostgresUnavailableError
from tests.support.s3_server import S3Server
from tests.support.standby import ServerPair, running_pair

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def pair() -> Iterator[ServerPair]:
    """A server and its standby."""
    try:
        with running_pair() as servers:
            yield servers
    except PostgresUnavailableError as exc:
        exc.skip()


@pytest.fixture
def replicated(place: str, pair: ServerPair, server: S3Server) -> Iterator[Platform]:
    """A platform on the server and its standby, which all clients know by name."""
    with running_platform(place, pair.url, server) as running:
        yield running


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_every_row_ends_as_it_must_through_pgbouncer(
    platform: Platform, postgres: PostgresServer, mode: PoolMode, request: pytest.FixtureRequest
) -> None:
    try:
        with running_pgbouncer(postgres, mode) as bouncer, publication_watch(platform) as watch:
            platform.daemon_url = bouncer.url_through(platform.database_url)
            play(platform, start="before")
    except PgBouncerUnavailableError as exc:
        exc.skip()
    ensure_prompt(request, f"PgBouncer, {mode} mode", watch)


def test_a_switchover_in_the_middle_loses_nothing(
    replicated: Platform, pair: ServerPair, request: pytest.FixtureRequest
) -> None:
    """The old server goes on and only reads, and no connection to it is cut."""
    ensure_survived(replicated, pair, request, "switchover")


def test_a_switchover_behind_pgbouncer_loses_nothing(
    replicated: Platform, pair: ServerPair, request: pytest.FixtureRequest
) -> None:
    """PgBouncer is pointed at the new server; the daemon knows of it alone."""
    try:
        with running_pgbouncer(pair.old, "transaction") as bouncer:
            replicated.daemon_url = bouncer.url
            ensure_survived(
                replicated, pair, request, "switchover behind PgBouncer", lambda: bouncer.point_at(pair.new)
            )
    except PgBouncerUnavailableError as exc:
        exc.skip()


def ensure_survived(
    platform: Platform,
    pair: ServerPair,
    request: pytest.FixtureRequest,
    name: str,
    afterwards: Callable[[], None] = lambda: None,
) -> None:
    """Switch over in the middle; the compressor drops the videos at work and compresses them again."""
    videos = platform.videos(AWKWARD_NAMES[:8])
    with watched(platform) as watch:
        with platform.compressing(videos, HELD, parallel=3) as compression:
            compression.outcomes(SOME_OUTCOMES)
            pair.switch_over()
            afterwards()
            over = watch.now()
            compression.outcomes()
        stale = processing(platform)
        compress(platform, incomplete(platform, videos))
    assert problems(platform, stale=stale) == []
    ensure_prompt(request, name, watch, over)
