"""Temporary directories on file systems whose read leases can be trusted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.postgres import MEMORY
from tests.support.secret_search import ensure_left_untold
from watcher.filesystem import leases
from watcher.filesystem.openat import Owned


@contextmanager
def make_place(*first: str) -> Iterator[str]:
    """A directory as in the fixture `place`, preferably below one of the parents given."""
    for parent in (*first, tempfile.gettempdir(), "/var/tmp", MEMORY):
        if os.path.isdir(parent) and _leases_work(parent):
            with tempfile.TemporaryDirectory(prefix="video-uploader-test-", dir=parent) as directory:
                os.chmod(directory, 0o755)
                yield directory
                ensure_left_untold(directory)
                return
    pytest.skip("no directory here is on a file system whose read leases can be trusted")


def _leases_work(parent: str) -> bool:
    with tempfile.NamedTemporaryFile(dir=parent) as file:
        file.flush()
        path = file.name
        descriptor = os.open(path, os.O_RDONLY)
        with Owned(descriptor):
            file.close()
            return leases.check_writers(descriptor) is leases.Writers.NONE
