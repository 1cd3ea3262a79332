"""What the watcher's tests share: a directory where leases work, real videos, a life without privileges."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.support.harness import Harness, open_harness, settings_for
from tests.support.media import Media, make_media
from tests.support.postgres import MEMORY
from tests.support.s3_server import S3Server, forget_aws
from tests.support.secret_search import ensure_left_untold
from watcher.filesystem import leases
from watcher.filesystem.openat import owned
from watcher.filesystem.tree import Tree

NOBODY = 65534


@pytest.fixture(autouse=True)
def _sigio_is_ignored() -> Iterator[None]:
    """A broken lease must not kill the tests either."""
    before = signal.getsignal(signal.SIGIO)
    leases.ignore_sigio()
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Real videos, made once."""
    return make_media(str(tmp_path_factory.mktemp("media")))


@pytest.fixture
def place() -> Iterator[str]:
    """An empty directory that anyone may enter, on a file system whose leases can be trusted."""
    with make_place() as directory:
        yield directory


@contextmanager
def make_place(*first: str) -> Iterator[str]:
    """What `place` is, for fixtures that live longer than a test, or want it in one of these first."""
    for parent in (*first, tempfile.gettempdir(), "/var/tmp", MEMORY):
        if os.path.isdir(parent) and _leases_work(parent):
            with tempfile.TemporaryDirectory(prefix="video-uploader-test-", dir=parent) as directory:
                os.chmod(directory, 0o755)
                yield directory
                ensure_left_untold(directory)
                return
    pytest.skip("no directory here is on a file system whose read leases can be trusted")


@pytest.fixture
def tree(place: str) -> Tree:
    """The tree below `place`."""
    return Tree(place)


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """A block in which this process has no privileges, also where the tests run as root."""

    @contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return block


@pytest.fixture
def harness(place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """A house whose S3 server does not run: nothing gets that far here."""
    forget_aws(monkeypatch)
    with open_harness(settings_for(place, "http://127.0.0.1:9"), S3Server()) as harness:
        yield harness


@pytest.fixture
def video(media: Media) -> bytes:
    """The bytes of a complete MP4."""
    with open(media.faststart, "rb") as file:
        return file.read()


def _leases_work(parent: str) -> bool:
    with tempfile.NamedTemporaryFile(dir=parent) as file:
        file.flush()
        path = file.name
        descriptor = os.open(path, os.O_RDONLY)
        with owned(descriptor):
            file.close()
            return leases.check_writers(descriptor) is leases.Writers.NONE
