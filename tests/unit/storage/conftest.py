"""A real S3 server for this package's tests, and files to send to it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import ObjectStore, SourceFile
from tests.support.certificates import Certificate, make_certificate
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import S3Server, config_for, forget_aws


@pytest.fixture(autouse=True)
def _no_aws_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as monkeypatch, S3Server() as server:
        forget_aws(monkeypatch)
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[str]:
    yield s3.create_bucket("renditions")
    s3.forget_everything()


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.url) as proxy:
        yield proxy


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def store(proxy: FaultProxy, bucket: str) -> Iterator[ObjectStore]:
    with ObjectStore(config_for(proxy.url, bucket, acl="public-read", cache_control="max-age=60")) as store:
        yield store


@pytest.fixture
def one_by_one(proxy: FaultProxy, bucket: str) -> Iterator[ObjectStore]:
    """A store that sends one part after the other."""
    with ObjectStore(config_for(proxy.url, bucket, parts_in_flight=1)) as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_video_720p.mp4"


@pytest.fixture
def source_of(path: Path) -> Iterator[Callable[..., SourceFile]]:
    """Writes content to `path` and opens it as a source."""
    opened: list[int] = []

    def make(content: bytes, *context: Any) -> SourceFile:
        path.write_bytes(content)
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return SourceFile(opened[-1], *context)

    yield make
    for fd in opened:
        os.close(fd)
