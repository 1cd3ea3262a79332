"""What small requests find out about a server, once, and what then proves the content of objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import structlog

from storage import (
    ObjectStore,
    SourceFile,
    StorageError,
    Target,
    UploadSteps,
    Verdict,
    object_store,
    proof_by_reading,
)
from storage.dialect import COMPARISON, PART_COMPARISON, PUT_ETAG, READ_ETAG
from storage.proof_by_reading import WRONG_CHECKSUM
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET
from tests.support.quirk_server import QuirkServer, Served
from tests.support.quirks import AWS, SINGLE, Checksums, Etag, Quirks, Refusal, refusing
from tests.support.s3_server import config_for

KEY = "videos/a/clip_720p.mp4"
CONTENT = bytes(range(256)) * 400
LARGE = CONTENT * 200
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


def test_a_part_that_was_damaged_on_the_way_is_not_confirmed_by_a_checksum_that_is_only_repeated(
    source_of: SourceOf,
) -> None:
    """A server may compare the checksum of a single PUT, and believe those of parts."""
    source = source_of(LARGE)
    with QuirkServer(SINGLE["checksums of parts believed"]) as server:

        def damage(request: Request, forward: Forward) -> Answer:
            if request.action == "UploadPart" and KEY in request.path:
                request = replace(request, body=bytes([request.body[0] ^ 1]) + request.body[1:])
                return proxy._forward(request)
            return forward()

        with FaultProxy(server.url, damage) as proxy, ObjectStore(config_for(proxy.url, BUCKET)) as store:
            with pytest.raises(StorageError, match="object-differs"):
                ensure(store, source)
            found = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
            assert found.verdict is Verdict.UNKNOWN
        assert [*server.s3.objects] == [KEY]
        assert server.s3.uploads == {}


@pytest.mark.parametrize("etag", [Etag.MD5_OF_PARTS, Etag.MD5_OF_WHOLE, Etag.OPAQUE])
@pytest.mark.parametrize("quirk", ["checksums of parts believed", "checksum of the whole believed"])
def test_where_checksums_of_parts_are_only_repeated_the_etag_proves_the_content_or_reading_back(
    source_of: SourceOf, quirk: str, etag: Etag
) -> None:
    with QuirkServer(replace(SINGLE[quirk], etag=etag)) as server:
        with ObjectStore(config_for(server.url, BUCKET)) as store:
            assert ensure(store, source_of(CONTENT)) == "checksum"
            assert ensure(store, source_of(LARGE)) == ("reading" if etag is Etag.OPAQUE else "etag")
            (believed,) = [one for one in store.dialect.unsupported if one.feature == PART_COMPARISON]
            assert believed.said == f"It took a wrong checksum, and answered {WRONG_CHECKSUM}"
            asked = len(server.served)
            with ObjectStore(config_for(server.url, BUCKET)) as later:
                later.dialect.restore(store.dialect.traits)
                assert not later.compares_checksums()
            assert len(server.served) == asked
        assert [*server.s3.objects] == [KEY]
        assert server.s3.uploads == {}


def test_a_server_that_compares_checksums_of_parts_is_asked_once_and_nothing_remains(
    source_of: SourceOf,
) -> None:
    with QuirkServer(AWS) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        for number in range(2):
            assert ensure(store, source_of(LARGE + bytes([number]))) == "checksum"
        assert [(one.operation, one.code) for one in probes(server)] == [
            ("UploadPart", "BadDigest"),
            ("CompleteMultipartUpload", "BadDigest"),
        ]
        assert [trait.feature for trait in store.dialect.traits] == [PART_COMPARISON]
        assert [*server.s3.objects] == [KEY]
        assert server.s3.uploads == {}


def test_a_wrong_checksum_that_is_refused_by_another_name_is_told_from_a_refused_header(
    source_of: SourceOf,
) -> None:
    """The same request with the right checksum is taken."""
    wrong = [
        Refusal("x-amz-checksum-crc64nvme", frozenset({name}), 400, "InvalidRequest", "No.", WRONG_CHECKSUM)
        for name in ("UploadPart", "CompleteMultipartUpload")
    ]
    with QuirkServer(refusing(wrong)) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        assert ensure(store, source_of(LARGE)) == "checksum"
        assert [*server.s3.objects] == [KEY]


def test_where_no_upload_with_wrong_checksums_may_be_begun_they_are_no_proof_and_that_is_said(
    source_of: SourceOf,
) -> None:
    source = source_of(LARGE)
    with QuirkServer(AWS) as server:

        def deny(request: Request, forward: Forward) -> Answer:
            return s3_error(403, "AccessDenied") if "-parts" in request.path else forward()

        class Denying(FaultProxy):
            def answer(self, request: Request) -> Answer | None:
                return deny(request, lambda: self._forward(request))

        with Denying(server.url) as proxy, ObjectStore(config_for(proxy.url, BUCKET)) as store:
            assert ensure(store, source) == "etag"
            assert store.dialect.said_about(PART_COMPARISON).startswith("AccessDenied")


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
        assert [one.operation for one in probes(server)] == [
            *("PutObject", "UploadPart", "CompleteMultipartUpload")
        ]


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


TWO_ETAGS = Quirks(etag_of_put=False, checksums=Checksums.IGNORED, etag_of_get=True)


def test_where_get_always_names_another_etag_than_head_the_bytes_prove_the_content(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may lag, and so is asked again; what it always does is waited for once."""
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.2)
    monkeypatch.setattr(object_store, "FIRST_LAG_SECONDS", 0.01)
    with QuirkServer(TWO_ETAGS) as server, ObjectStore(config_for(server.url, BUCKET)) as store:
        assert ensure(store, source_of(CONTENT)) == "reading"
        reads = len(server.accepted("GetObject"))
        assert reads > 3
        monkeypatch.setattr(object_store, "LAG_SECONDS", 3600)
        assert ensure(store, source_of(CONTENT + b".")) == "reading"
        assert len(server.accepted("GetObject")) == reads + 1
        assert READ_ETAG in {trait.feature for trait in store.dialect.unsupported}
        other = source_of(CONTENT[::-1] + b".")
        found = store.confirm_file(KEY, other, checksum=other.checksum(), part_size=None)
        assert found.verdict is Verdict.DIFFERS


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("replaced_before", ["bytes=0-29999", "bytes=90000-102399", "the last HEAD"])
def test_an_object_that_is_replaced_while_it_is_read_under_another_etag_is_not_proven(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch, replaced_before: str, known: bool
) -> None:
    """All pieces must come under one ETag, and HEAD must say the same before and after."""
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.05)
    monkeypatch.setattr(object_store, "FIRST_LAG_SECONDS", 0.01)
    monkeypatch.setattr(proof_by_reading, "PIECE_BYTES", 30_000)
    with QuirkServer(TWO_ETAGS) as server:
        ranges: list[str] = []

        def replacing(request: Request, forward: Forward) -> Answer:
            now = request.headers.get("range", "") or request.headers.get("Range", "")
            if request.action == "HeadObject" and ranges[-1:] == ["bytes=90000-102399"]:
                now = "the last HEAD"
            ranges.append(now)
            if now == replaced_before:
                server.s3.objects[KEY] = replace(server.s3.objects[KEY], etag=f"another {len(ranges)}")
            return forward()

        with FaultProxy(server.url, replacing) as proxy, ObjectStore(config_for(proxy.url, BUCKET)) as store:
            if known:
                store.dialect.learn(READ_ETAG, "It always does.")
            with pytest.raises(StorageError, match="incomplete-answer"):
                ensure(store, source_of(CONTENT))


def test_etags_that_come_to_agree_prove_the_content_as_usual(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "FIRST_LAG_SECONDS", 0.01)
    with QuirkServer(replace(TWO_ETAGS, etag_of_get=False)) as server:
        left = 3

        def lag(request: Request, forward: Forward) -> Answer:
            nonlocal left
            answer = forward()
            if request.method != "GET" or not left:
                return answer
            left -= 1
            return answer.having(etag='"of the object before"')

        with FaultProxy(server.url, lag) as proxy, ObjectStore(config_for(proxy.url, BUCKET)) as store:
            assert ensure(store, source_of(CONTENT)) == "reading"
            assert READ_ETAG not in {trait.feature for trait in store.dialect.unsupported}


def test_the_error_of_a_probe_is_raised_although_its_upload_cannot_be_aborted(source_of: SourceOf) -> None:
    refused = Refusal("content-length", frozenset({"CompleteMultipartUpload"}), 400, "InvalidArgument", "No.")
    with QuirkServer(refusing(refused)) as server:

        def keep(request: Request, forward: Forward) -> Answer:
            return s3_error(500, "InternalError") if request.method == "DELETE" else forward()

        with (
            FaultProxy(server.url, keep) as proxy,
            ObjectStore(config_for(proxy.url, BUCKET)) as store,
            structlog.testing.capture_logs() as logs,
        ):
            store.dialect.accept(PUT_ETAG)
            with pytest.raises(StorageError, match="InvalidArgument"):
                store.makes_etags_of_md5s()
    (left,) = [line for line in logs if line["event"] == "probe_left"]
    assert left["code"] == "InternalError"
