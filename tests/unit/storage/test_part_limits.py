"""Servers that take fewer parts than S3 does: files go up in larger ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from storage import Multipart, ObjectStore, SourceFile, StorageError, Target
from storage.transfer import multipart
from storage.transfer.part_layout import MIB
from tests.support.harness import BUCKET
from tests.support.quirk_server import QuirkServer
from tests.support.quirks import Quirks
from tests.support.s3_server import config_for

TARGET = Target("videos/a/film_720p.mp4", "video/mp4")
LARGE = bytes(range(256)) * 4096 * 40
SourceOf = Callable[[bytes], SourceFile]


@pytest.fixture
def server() -> Iterator[QuirkServer]:
    with QuirkServer(Quirks(max_parts=3)) as server:
        yield server


@pytest.fixture(autouse=True)
def _so_few_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "LEAST_MAX_PARTS", 1)


def upload(store: ObjectStore, source: SourceFile, resume: Multipart | None = None) -> int | None:
    """The part size with which the file arrived."""
    begun: list[Multipart] = []
    sent = store.upload(source, TARGET, checksum=source.checksum(), resume=resume, on_multipart=begun.append)
    found = store.confirm_file(TARGET.key, source, checksum=source.checksum(), part_size=None)
    assert found.receipt is not None
    return sent.part_size


def refusals(server: QuirkServer) -> int:
    return sum(one.code == "InvalidArgument" for one in server.served)


def test_an_upload_begins_anew_once_in_larger_parts_after_one_is_refused_for_its_number(
    server: QuirkServer, source_of: SourceOf
) -> None:
    """What the server takes is remembered, also by the next process; nothing is left open."""
    source = source_of(LARGE)
    with ObjectStore(config_for(server.url, BUCKET)) as store:
        assert upload(store, source) == 14 * MIB
        assert 1 <= refusals(server) <= 2, "parts 4 and 5"
        assert [one.feature for one in store.dialect.unsupported] == ["UploadPart partNumber above 3"]
        known = store.dialect.traits
    # There is another one, of the small object that shows whether the server compares checksums of parts.
    assert sum(one.key == TARGET.key for one in server.accepted("CreateMultipartUpload")) == 2
    assert server.s3.uploads == {}
    before = refusals(server)
    with ObjectStore(config_for(server.url, BUCKET)) as store:
        store.dialect.restore(known)
        assert upload(store, source) == 14 * MIB
    assert refusals(server) == before


def test_no_part_is_refused_where_the_limit_is_set(server: QuirkServer, source_of: SourceOf) -> None:
    with ObjectStore(replace(config_for(server.url, BUCKET), max_parts=3)) as store:
        assert upload(store, source_of(LARGE)) == 14 * MIB
    assert refusals(server) == 0


@pytest.mark.parametrize("is_known", [False, True])
def test_an_upload_that_was_begun_in_too_many_parts_is_given_up(
    server: QuirkServer, source_of: SourceOf, is_known: bool
) -> None:
    """Whether the limit is known when it is resumed, or found out then."""
    source = source_of(LARGE)
    begun: list[Multipart] = []
    config = config_for(server.url, BUCKET)

    def interrupt(accepted: int) -> None:
        if accepted:
            raise KeyboardInterrupt

    with ObjectStore(config) as store, pytest.raises(KeyboardInterrupt):
        store.upload(
            source, TARGET, checksum=source.checksum(), on_multipart=begun.append, progress=interrupt
        )
    (resume,) = begun
    with ObjectStore(replace(config, max_parts=3) if is_known else config) as store:
        assert upload(store, source, resume) == 14 * MIB
    assert server.s3.uploads == {}
    assert (refusals(server) == 0) is is_known


def test_a_refusal_that_names_no_limit_leaves_as_many_parts_as_were_taken(
    server: QuirkServer, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.small_s3.PART_NUMBER_REFUSED", "The part number is out of range")
    with ObjectStore(config_for(server.url, BUCKET)) as store:
        part_size = upload(store, source_of(LARGE))
    assert part_size is not None
    assert part_size >= 14 * MIB


def test_a_limit_that_would_make_huge_parts_is_not_believed(
    server: QuirkServer, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "LEAST_MAX_PARTS", 100)
    with ObjectStore(config_for(server.url, BUCKET)) as store:
        with pytest.raises(StorageError, match="between 1 and 3"):
            upload(store, source_of(LARGE))
        assert store.dialect.unsupported == ()
