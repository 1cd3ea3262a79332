"""What small requests find out about a server, once, and what then proves the content of objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import structlog

from storage import ObjectStore, SourceFile, StorageError, Target, UploadSteps, Verdict
from storage.dialect import COMPARISON
from storage.proof_by_reading import WRONG_CHECKSUM
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET
from tests.support.quirk_server import QuirkServer, Served
from tests.support.quirks import AWS, SINGLE, Checksums, Etag, Quirks, Refusal, refusing
from tests.support.s3_server import config_for

KEY = "videos/a/clip_720p.mp4"
CONTENT = bytes(range(256)) * 400
SourceOf = Callable[..., SourceFile]
BELIEVING = SINGLE["checksums believed"]


def ensure(store: ObjectStore, source: SourceFile) -> str:
    """Which proof was found."""
    target = Target(KEY, "video/mp4")
    return store.ensure(source, target, checksum=source.checksum(), steps=UploadSteps()).confirmed_by


def probes(server: QuirkServer) -> list[Served]:
    return [one for one in server.served if WRONG_CHECKSUM in one.headers.values()]


def damaging(server: QuirkServer) -> FaultProxy:
    """A line on which a bit of every body of a file is flipped."""

    def fault(request: Request, forward: Forward) -> Answer:
        if request.action == "PutObject" and KEY in request.path:
            request = replace(request, body=bytes([request.body[0] ^ 1]) + request.body[1:])
            return proxy._forward(request)
        return forward()

    proxy = FaultProxy(server.url, fault)
    return proxy


def test_a_body_that_was_damaged_on_the_way_is_not_confirmed_by_a_checksum_that_is_only_repeated(
    source_of: SourceOf,
) -> None:
    source = source_of(CONTENT)
    with QuirkServer(BELIEVING) as server, damaging(server) as proxy:
        with ObjectStore(config_for(proxy.url, BUCKET)) as store:
            with pytest.raises(StorageError, match="object-differs"):
                ensure(store, source)
            checksum = source.checksum()
            found = store.confirm(KEY, size=source.size, checksum=checksum, proven_etag=None)
            assert found.verdict is Verdict.UNKNOWN
        assert [*server.s3.objects] == [KEY]
        assert len(probes(server)) == 1


@pytest.mark.parametrize("etag_of_put", [True, False])
def test_where_checksums_are_only_repeated_the_etag_proves_the_content_or_reading_back(
    source_of: SourceOf, etag_of_put: bool
) -> None:
    with QuirkServer(replace(BELIEVING, etag_of_put=etag_of_put)) as server:
        with ObjectStore(config_for(server.url, BUCKET)) as store:
            assert ensure(store, source_of(CONTENT)) == ("etag" if etag_of_put else "reading")
        assert [*server.s3.objects] == [KEY]


def test_a_server_that_compares_pays_one_refused_request_for_all_files_and_restarts(
    source_of: SourceOf,
) -> None:
    with QuirkServer(AWS) as server:
        with ObjectStore(config_for(server.url, BUCKET)) as store:
            for number in range(3):
                assert ensure(store, source_of(CONTENT + bytes([number]))) == "checksum"
            known = store.dialect.traits
            assert [(trait.feature, trait.said) for trait in known] == [(COMPARISON, "")]
            assert not store.dialect.unsupported
        with ObjectStore(config_for(server.url, BUCKET)) as later:
            later.dialect.restore(known)
            assert ensure(later, source_of(CONTENT)) == "checksum"
        assert [(one.status, one.code) for one in probes(server)] == [(400, "BadDigest")]


def test_threads_that_need_to_know_at_once_ask_once(source_of: SourceOf) -> None:
    with QuirkServer(AWS) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(lambda _: store.compares_checksums(), range(8))) == {True}
        assert len(probes(server)) == 1


def test_where_no_probe_may_be_stored_the_checksum_is_no_proof_and_that_is_said(source_of: SourceOf) -> None:
    denied = Refusal("x-amz-checksum-crc64nvme", frozenset({"PutObject"}), 403, "AccessDenied", "No.")
    with QuirkServer(refusing(replace(denied, value=WRONG_CHECKSUM))) as server:
        with ObjectStore(config_for(server.url, BUCKET)) as store, structlog.testing.capture_logs() as logs:
            assert [ensure(store, source_of(CONTENT + more)) for more in (b"", b".")] == ["etag"] * 2
        assert len(probes(server)) == 1
    (learned,) = [line for line in logs if line["event"] == "dialect_learned"]
    assert (learned["feature"], learned["said"].partition(":")[0]) == (COMPARISON, "AccessDenied")


def test_an_outage_is_no_answer(source_of: SourceOf) -> None:
    def away(request: Request, forward: Forward) -> Answer | None:
        return Answer(503) if WRONG_CHECKSUM in request.headers.values() else Answer(404)

    with FaultProxy(fault=away) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        with pytest.raises(StorageError, match="SlowDown"):
            store.compares_checksums()
        assert not store.dialect.traits


def test_a_probe_that_cannot_be_removed_tells_all_the_same() -> None:
    """Otherwise every look would leave another one behind."""
    quirks = Quirks(etag=Etag.OPAQUE, etag_of_put=False, checksums=Checksums.IGNORED)
    with QuirkServer(quirks) as server:

        def keep(request: Request, forward: Forward) -> Answer:
            return Answer(403) if request.method == "DELETE" else forward()

        with (
            FaultProxy(server.url, keep) as proxy,
            ObjectStore(config_for(proxy.url, BUCKET)) as store,
            structlog.testing.capture_logs() as logs,
        ):
            assert [store.makes_etags_of_md5s() for _ in range(2)] == [False, False]
        (left,) = [line for line in logs if line["event"] == "probe_left"]
        assert [*server.s3.objects] == [left["key"]]
