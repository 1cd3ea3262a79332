"""Small files are sent without a look at their key where the server keeps the object that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from storage import Confirmation, ObjectStore, SourceFile, Target, UploadSteps, Verdict, WriteCondition
from storage.dialect import HEEDED_IF_NONE_MATCH
from storage.object_store import MAX_UNSEEN_BYTES
from storage.transfer.preconditions import PROOF_AFTER
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET
from tests.support.quirk_server import QuirkServer
from tests.support.quirks import AWS, PUT, Refusal, refusing
from tests.support.s3_server import S3Server, config_for

KEY = "videos/a/clip_720p.mp4"
CONTENT = b"content" * 1000
SourceOf = Callable[[bytes], SourceFile]


class First(UploadSteps):
    """The first attempt for a file; what it is told of an object that is there already."""

    is_first = True

    def __init__(self) -> None:
        self.found: list[Verdict] = []
        self.has_adopted = False

    def condition(self, found: Confirmation) -> WriteCondition:
        self.found.append(found.verdict)
        return WriteCondition.if_absent()

    def adopted(self, found: Confirmation) -> None:
        self.has_adopted = True


@pytest.fixture
def source(source_of: SourceOf) -> SourceFile:
    return source_of(CONTENT)


def ensure(store: ObjectStore, source: SourceFile, key: str) -> First:
    steps = First()
    store.ensure(source, Target(key, "video/mp4"), checksum=source.checksum(), steps=steps)
    return steps


def prove(store: ObjectStore, source: SourceFile) -> None:
    for number in range(PROOF_AFTER):
        ensure(store, source, f"videos/earlier/{number}.mp4")


def test_once_the_server_has_kept_an_object_first_files_are_sent_without_a_look(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    prove(store, source)
    assert proxy.actions[:-3] == ["HeadObject", "PutObject", "HeadObject"] * PROOF_AFTER
    assert proxy.actions[-3:] == ["PutObject", "PutObject", "DeleteObject"]
    proxy.requests.clear()
    assert ensure(store, source, KEY).found == []
    assert proxy.actions == ["PutObject", "HeadObject"]


def test_a_file_that_was_tried_before_is_looked_for(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    prove(store, source)
    proxy.requests.clear()
    store.ensure(source, Target(KEY, "video/mp4"), checksum=source.checksum(), steps=UploadSteps())
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]


def test_a_large_body_is_not_sent_in_vain(store: ObjectStore, proxy: FaultProxy, source_of: SourceOf) -> None:
    prove(store, source_of(CONTENT))
    proxy.requests.clear()
    ensure(store, source_of(bytes(MAX_UNSEEN_BYTES + 1)), KEY)
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]


def test_an_object_of_another_program_is_found_and_decided_about(
    store: ObjectStore, proxy: FaultProxy, s3: S3Server, bucket: str, source: SourceFile
) -> None:
    prove(store, source)
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=b"foreign", ChecksumAlgorithm="CRC64NVME")
    steps = First()
    with pytest.raises(Exception, match="PreconditionFailed"):
        store.ensure(source, Target(KEY, "video/mp4"), checksum=source.checksum(), steps=steps)
    assert steps.found == [Verdict.DIFFERS]
    assert s3.client().get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"foreign"


def test_an_identical_object_is_adopted(
    store: ObjectStore, s3: S3Server, bucket: str, source: SourceFile
) -> None:
    prove(store, source)
    s3.client().put_object(
        Bucket=bucket, Key=KEY, Body=CONTENT, ChecksumAlgorithm="CRC64NVME", ACL="public-read"
    )
    assert ensure(store, source, KEY).has_adopted


def test_where_objects_are_in_place_already_keys_are_looked_at_again(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    """The ledger may have been lost, and then each body is sent in vain."""
    prove(store, source)
    ensure(store, source, "videos/earlier/0.mp4")
    proxy.requests.clear()
    ensure(store, source, KEY)
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]


def test_a_put_that_is_repeated_because_its_answer_was_lost_finds_its_own_object(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    """The CRT repeats it by itself, and the condition is not met any more."""
    prove(store, source)
    lost: list[Request] = []

    def lose_first(request: Request, forward: Forward) -> Answer | None:
        answer = forward()
        if request.action == "PutObject" and not lost:
            lost.append(request)
            return None
        return answer

    proxy.fault = lose_first
    steps = ensure(store, source, KEY)
    assert lost
    assert steps.has_adopted
    assert steps.found == []


@pytest.fixture
def ignoring() -> Iterator[QuirkServer]:
    with QuirkServer(replace(AWS, conditions=False)) as server:
        yield server


def test_a_server_that_takes_the_header_and_ignores_it_has_every_key_looked_at(
    ignoring: QuirkServer, source: SourceFile
) -> None:
    """Otherwise the object of another program would be replaced."""
    with ObjectStore(config_for(ignoring.url, BUCKET)) as store:
        prove(store, source)
        assert store.dialect.known(HEEDED_IF_NONE_MATCH) is False
        ignoring.served.clear()
        ensure(store, source, KEY)
        assert [one.operation for one in ignoring.served] == ["HeadObject", "PutObject", "HeadObject"]


def test_a_server_that_begins_to_refuse_the_header_is_sent_nothing_unseen(source: SourceFile) -> None:
    with QuirkServer(AWS) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        prove(store, source)
        server.quirks = refusing(Refusal("if-none-match", PUT, 501, "NotImplemented", "{header} is unknown."))
        server.served.clear()
        ensure(store, source, KEY)
        accepted = [one.operation for one in server.served if one.status != 501]
        assert accepted == ["HeadObject", "PutObject", "HeadObject"]
