"""The real daemon at servers of every dialect: each file ends released, and nothing is sent twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.conformance.suite_options import is_required
from tests.support.dialects import DIALECTS, Dialect
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.host_names import NamesUnavailableError, knowing
from tests.support.played_daemon import played_daemon
from tests.support.quirk_server import QuirkServer
from tests.support.video_files import padded

SMALL = f"{VIDEO_ID}/clip_144p.mp4"
OTHER = f"{VIDEO_ID}/clip_240p.mp4"
LARGE = f"{VIDEO_ID}/film_720p.mp4"
SMALL_BYTES = 100_000
LARGE_BYTES = 40_000_000
HOST = "s3.test"

pytestmark = pytest.mark.timeout(240)

every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def names_known(directory: str, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The host name of a server, and how to run a daemon that finds it: only virtual hosts need names."""
    if dialect.quirks.refused_style is None:
        return "127.0.0.1", ()
    try:
        return HOST, knowing(directory, [HOST, f"{BUCKET}.{HOST}"])
    except NamesUnavailableError as error:
        if is_required("names"):
            pytest.fail(f"CONFORMANCE_REQUIRE_NAMES is set, but: {error}")
        pytest.skip(f"no names of virtual hosts can be made here: {error}")


@every_dialect
def test_a_small_and_a_large_file_are_released_and_sent_once(
    place: str, video: bytes, dialect: Dialect
) -> None:
    host, through = names_known(place, dialect)
    with QuirkServer(dialect.quirks, host=host) as server:
        settings = settings_for(place, server.url)
        with played_daemon(server, settings, through=through) as played:
            played.release(SMALL, padded(video, SMALL_BYTES))
            played.release(LARGE, padded(video, LARGE_BYTES))
        played.ensure_sent_once()
        played.ensure_each_refusal_taught()


def test_files_at_once_are_sent_once_each(place: str, video: bytes) -> None:
    """The server with the most refusals refuses a header of an operation once, whoever sends it."""
    with QuirkServer(DIALECTS["b2"].quirks) as server:
        with played_daemon(server, settings_for(place, server.url)) as played:
            paths = [LARGE, SMALL, OTHER]
            for number, path in enumerate(paths):
                played.give(path, padded(video, LARGE_BYTES if path == LARGE else SMALL_BYTES + number))
            for path in paths:
                played.daemon.expect("upload_released", path=path)
        played.ensure_sent_once()
        refused = [(one.operation, one.refused) for one in server.refused()]
        assert len(refused) == len(set(refused))


def test_a_restart_learns_nothing_again(place: str, video: bytes) -> None:
    """The ledger's database remembers what the server refuses."""
    with QuirkServer(DIALECTS["b2"].quirks) as server:
        settings = settings_for(place, server.url)
        with played_daemon(server, settings) as played:
            played.release(SMALL, padded(video, SMALL_BYTES))
            assert played.learned
        server.served.clear()
        with played_daemon(server, settings) as again:
            again.release(OTHER, padded(video, SMALL_BYTES + 1))
        assert (again.learned, server.refused()) == ([], [])
