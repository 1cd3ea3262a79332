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

PARTLY = ("rclone", "ceph")
"""Servers that run the essential tests only, because the whole suite takes minutes on each."""


def pytest_configure(config: pytest.Config) -> None:
    """The marker of the tests that run on every server."""
    config.addinivalue_line("markers", "essential: runs on every server, not only on those like AWS")
    config.addinivalue_line("markers", "needs(trait): skipped on servers that lack this trait")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a server does not run."""
    left_out = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and getattr(item, "callspec", None) is not None
        and item.callspec.params.get("backend") in PARTLY
        and item.get_closest_marker("essential") is None
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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


@pytest.fixture(autouse=True)
def _has_what_the_test_needs(request: pytest.FixtureRequest) -> None:
    """Skips what a server cannot do, as `tests.conformance.backends` declares it."""
    marker = request.node.get_closest_marker("needs")
    if marker is None:
        return
    running: Backend = request.getfixturevalue("backend")
    if not getattr(running.traits, marker.args[0]):
        pytest.skip(f"{running.name} lacks {marker.args[0]}")


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
