"""Stalls are of single connections: a stuck one ends, and slow ones and idle ones do not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage import ObjectStore, SourceFile, StorageError, Target
from tests.support.certificates import Certificate
from tests.support.fault_proxy import FaultProxy
from tests.support.forward_proxy import ForwardProxy, Line
from tests.support.s3_server import S3Server, config_for

STALL_SECONDS = 2.0
SLOW = 30_000.0
STUCK, SLOWLY = "videos/stuck.mp4", "videos/slowly.mp4"


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Callable[[str, int], SourceFile]]:
    """Makes files of so many bytes."""
    opened: list[int] = []

    def make(name: str, size: int) -> SourceFile:
        (tmp_path / name).write_bytes(bytes(size))
        opened.append(os.open(tmp_path / name, os.O_RDONLY))
        return SourceFile(opened[-1])

    yield make
    for fd in opened:
        os.close(fd)


@pytest.fixture(params=["http", "https", "http by proxy", "https by proxy"])
def way(
    request: pytest.FixtureRequest, s3: S3Server, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Line]]:
    """The URL of a server, and the line that leads there."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    scheme, _, by_proxy = request.param.partition(" ")
    with ExitStack() as stack:
        tls = certificate.server_side if scheme == "https" else None
        server = urlsplit(stack.enter_context(FaultProxy(s3.url, tls=tls)).url)
        if by_proxy:
            proxy = stack.enter_context(ForwardProxy())
            monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
            yield f"{scheme}://hidden:{server.port}", proxy
        else:
            line = stack.enter_context(Line(server.netloc))
            yield f"{scheme}://{line.address}", line


def upload(store: ObjectStore, key: str, source: SourceFile) -> None:
    store.upload(source, Target(key, "video/mp4"), checksum=source.checksum())


@pytest.mark.long
@pytest.mark.parametrize("bandwidth", [None, 50_000.0])
def test_a_stuck_upload_ends_after_the_limit_and_a_slow_one_beside_it_goes_on(
    way: tuple[str, Line],
    bucket: str,
    sources: Callable[[str, int], SourceFile],
    bandwidth: float | None,
) -> None:
    url, line = way
    ended: list[float] = []
    errors: list[StorageError] = []
    with ObjectStore(
        config_for(url, bucket, stall_seconds=STALL_SECONDS, uploads=2, max_bandwidth=bandwidth)
    ) as store:

        def get_stuck() -> None:
            with pytest.raises(StorageError) as caught:
                upload(store, STUCK, sources("stuck.mp4", 200_000))
            ended.append(time.monotonic())
            errors.append(caught.value)

        stuck = threading.Thread(target=get_stuck)
        line.freeze_after = 50_000
        stuck.start()
        assert line.frozen.wait(30)
        frozen_at = time.monotonic()
        line.rate = SLOW
        upload(store, SLOWLY, sources("slowly.mp4", int(SLOW * 3 * STALL_SECONDS)))
        slow_ended = time.monotonic()
        stuck.join()
    assert [error.code for error in errors] == ["stalled"]
    assert STALL_SECONDS / 2 < ended[0] - frozen_at < slow_ended - frozen_at
    assert slow_ended - frozen_at > 2 * STALL_SECONDS


@pytest.mark.long
def test_connections_that_were_idle_for_longer_than_the_limit_are_no_stalls(
    s3: S3Server, bucket: str, sources: Callable[[str, int], SourceFile]
) -> None:
    """The line is plain moto, which keeps connections open."""
    with (
        Line(urlsplit(s3.url).netloc) as line,
        ObjectStore(config_for(f"http://{line.address}", bucket, stall_seconds=STALL_SECONDS)) as store,
    ):
        upload(store, "videos/first.mp4", sources("first.mp4", 1000))
        line.rate = SLOW
        for name in ("second.mp4", "third.mp4"):
            upload(store, f"videos/{name}", sources(name, int(SLOW * 2 * STALL_SECONDS)))
