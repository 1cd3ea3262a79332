"""The servers of the suite in turn, and a store with a prefix of its own on each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import ObjectStore
from tests.conformance.backends import Backend, open_backend, proxy_before
from tests.conformance.suite_options import chosen_backends
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import forget_aws


@pytest.fixture(autouse=True)
def _no_aws_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


# Each server is started once: with several workers all its tests run in one of them.
@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in chosen_backends()],
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A server; every test that asks for it runs once on each of them, unchanged."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        forget_aws(monkeypatch)
        with open_backend(request.param) as running:
            yield running


@pytest.fixture
def prefix(backend: Backend) -> Iterator[str]:
    """What this test's keys start with; nothing is left below it."""
    mine = f"conformance-{uuid.uuid4()}"
    yield mine
    backend.clear(mine)


@pytest.fixture
def key(prefix: str) -> str:
    """The key of an ordinary object."""
    return f"{prefix}/my_video_720p.mp4"


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    """Counts requests to the server, and injects faults."""
    with proxy_before(backend) as running:
        yield running


@pytest.fixture
def store(backend: Backend, proxy: FaultProxy) -> Iterator[ObjectStore]:
    """A store behind the proxy."""
    with ObjectStore(backend.config(proxy.url)) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the local file is."""
    return str(tmp_path / "my_video_720p.mp4")
