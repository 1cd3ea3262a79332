"""Fixtures of the watcher's unit tests."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.harness import Harness, open_harness, settings_for
from tests.support.observed_paths import Told
from tests.support.s3_server import S3Server, forget_aws
from tests.support.tree_files import open_descriptors
from tests.support.unprivileged import without_privileges
from watcher.detection.observer import TreeObserver
from watcher.filesystem.tree import Tree


@pytest.fixture(autouse=True)
def _like_the_daemon(sigio_ignored: None) -> None:
    """A broken lease must not kill the tests either."""


@pytest.fixture
def tree(place: str) -> Tree:
    """The tree below `place`."""
    return Tree(place)


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """A block in which this process has no privileges, also where the tests run as root."""

    return without_privileges


@pytest.fixture
def harness(place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """A harness whose S3 server does not run."""
    forget_aws(monkeypatch)
    with open_harness(settings_for(place, "http://127.0.0.1:9"), S3Server()) as harness:
        yield harness


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An empty directory to be watched."""
    os.mkdir(tmp_path / "completed")
    return str(tmp_path / "completed")


@pytest.fixture
def told() -> Told:
    """What `observer` reported."""
    return Told()


@pytest.fixture
def observer(root: str, told: Told) -> Iterator[TreeObserver]:
    """An observer of `root` that is not started; it must close what it opened."""
    before = set(os.listdir("/proc/self/fd"))
    observer = TreeObserver(
        root,
        told.callbacks,
    )
    yield observer
    observer.stop()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """Fails a test that leaves a descriptor open."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before
