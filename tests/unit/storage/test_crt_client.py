"""Requests through the CRT: headers, conditions, concurrency, stalls, bandwidth and trust."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from storage import (
    ErrorKind,
    ObjectStore,
    PreconditionError,
    Sent,
    SourceFile,
    StorageError,
    Target,
    UploadCancelledError,
    Verdict,
    WriteCondition,
)
from storage.transfer.crt_request import CrtRequest
from tests.support.certificates import Certificate
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

MIB = 1024 * 1024
SMALL = b"small" * 1000
LARGE = bytes(17 * MIB)
KEY = "videos/a.mp4"
NOBODY_THERE = "AAAAAAAAAAA="

SourceOf = Callable[[bytes], SourceFile]


def upload(store: ObjectStore, source: SourceFile, target: Target | None = None) -> Sent:
    return store.upload(
        source,
        target or Target(KEY, "video/mp4"),
        checksum=source.checksum(),
        progress=lambda _: None,
    )


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_what_the_configuration_says_of_every_object_is_said_when_it_is_made(
    proxy: FaultProxy, bucket: str, source_of: SourceOf, content: bytes
) -> None:
    config = config_for(
        proxy.url,
        bucket,
        storage_class="STANDARD_IA",
        sse="aws:kms",
        sse_kms_key_id="key-1",
        tags={"team": "video search", "Å": "1"},
        expected_bucket_owner="123456789012",
        cache_control="max-age=1",
        acl="public-read",
    )
    with ObjectStore(config) as store:
        upload(store, source_of(content))
    create = proxy.requests[0]
    assert create.action in {"PutObject", "CreateMultipartUpload"}
    for name, value in {
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-tagging": "team=video%20search&%C3%85=1",
        "Cache-Control": "max-age=1",
        "x-amz-acl": "public-read",
    }.items():
        assert create.headers[name] == value
    for request in proxy.requests:
        assert request.headers["x-amz-expected-bucket-owner"] == "123456789012"


def test_a_refused_acl_is_sent_once_and_an_object_that_is_not_public_without_it_is_an_error(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    def refuse(request: Request, forward: Forward) -> Answer:
        if "x-amz-acl" in request.headers:
            return s3_error(400, "AccessControlListNotSupported")
        return forward()

    proxy.fault = refuse
    for _ in range(2):
        with pytest.raises(StorageError, match="three ways") as caught:
            upload(store, source_of(SMALL))
        assert caught.value.code == "AccessControlListNotSupported"
        assert caught.value.kind is ErrorKind.ENVIRONMENT
    puts = [request for request in proxy.requests if request.action == "PutObject"]
    assert ["x-amz-acl" in request.headers for request in puts] == [True, False, False]
    assert not store.is_public(KEY)


def test_an_object_is_public_if_a_head_without_credentials_succeeds(
    store: ObjectStore, source_of: SourceOf
) -> None:
    assert not store.is_public(KEY)
    upload(store, source_of(SMALL))
    assert store.is_public(KEY)


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_first_upload_replaces_nothing_and_a_replacement_replaces_only_what_was_seen(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, content: bytes
) -> None:
    """The request that makes the object carries the condition; moto does not check if-match at the end of
    a multipart upload."""
    source = source_of(content)
    upload(store, source, Target(KEY, "video/mp4", condition=WriteCondition.if_absent()))
    for condition, header, value in (
        (WriteCondition.if_absent(), "if-none-match", "*"),
        (WriteCondition.if_match("0" * 32), "if-match", f'"{"0" * 32}"'),
    ):
        del proxy.requests[:]
        target = Target(KEY, "video/mp4", condition=condition)
        if content is LARGE and header == "if-match":
            upload(store, source, target)
        else:
            with pytest.raises(PreconditionError) as caught:
                upload(store, source, target)
            assert caught.value.kind is ErrorKind.TRANSIENT
            assert caught.value.key == KEY
        (creating,) = [
            request
            for request in proxy.requests
            if request.action in {"PutObject", "CompleteMultipartUpload"}
        ]
        headers = {name.lower(): sent for name, sent in creating.headers.items()}
        assert headers[header] == value


@pytest.mark.parametrize(
    ("condition", "status", "code"),
    [
        (WriteCondition.if_absent(), 412, "PreconditionFailed"),
        (WriteCondition.if_absent(), 409, "ConditionalRequestConflict"),
        (WriteCondition.if_match("e"), 404, "NoSuchKey"),
    ],
)
@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_whatever_way_a_server_says_that_the_condition_is_not_met_it_is_looked_at_again(
    store: ObjectStore,
    proxy: FaultProxy,
    source_of: SourceOf,
    content: bytes,
    condition: WriteCondition,
    status: int,
    code: str,
) -> None:
    def refuse(request: Request, forward: Forward) -> Answer:
        conditional = {"If-None-Match", "If-Match"} & set(request.headers)
        return s3_error(status, code) if conditional else forward()

    if condition == WriteCondition.if_absent():
        upload(store, source_of(b"of another writer"))
    proxy.fault = refuse
    with pytest.raises(PreconditionError) as caught:
        upload(store, source_of(content), Target(KEY, "video/mp4", condition=condition))
    assert caught.value.code == code


def test_a_server_that_knows_no_conditions_is_asked_once(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    asked: list[str] = []

    def ignorant(request: Request, forward: Forward) -> Answer:
        if "If-None-Match" in request.headers:
            asked.append(request.action)
            return s3_error(501, "NotImplemented")
        return forward()

    proxy.fault = ignorant
    for _ in range(2):
        upload(store, source_of(SMALL), Target(KEY, "video/mp4", condition=WriteCondition.if_absent()))
    assert asked == ["PutObject"]


def test_a_server_that_asks_to_slow_down_is_sent_less_at_once_and_then_more_again(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    source = source_of(SMALL)
    most = store.concurrency
    proxy.fault = lambda _request, _forward: s3_error(503, "SlowDown")
    with structlog.testing.capture_logs() as logs, pytest.raises(StorageError):
        upload(store, source)
    assert store.concurrency == most // 2
    assert [(event["event"], event["concurrency"]) for event in logs] == [("concurrency_lowered", most // 2)]
    proxy.fault = lambda _request, forward: forward()
    for _ in range(sum(range(most // 2, most))):
        upload(store, source)
    assert store.concurrency == most


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_server_that_accepts_no_more_bytes_is_a_stall(
    s3: S3Server, bucket: str, source_of: SourceOf, content: bytes
) -> None:
    over = threading.Event()

    def fall_silent(request: Request, forward: Forward) -> Answer | None:
        if request.action not in {"PutObject", "UploadPart"}:
            return forward()
        over.wait()
        return None

    with (
        FaultProxy(s3.url, fall_silent) as proxy,
        ObjectStore(config_for(proxy.url, bucket, stall_seconds=0.5)) as store,
    ):
        source = source_of(content)
        started = time.monotonic()
        try:
            with pytest.raises(StorageError) as caught:
                upload(store, source)
            assert 0.5 < time.monotonic() - started < 5
        finally:
            over.set()
    assert caught.value.code == "stalled"
    assert caught.value.kind is ErrorKind.TRANSIENT


def test_a_question_that_is_not_answered_is_given_up(s3: S3Server, bucket: str) -> None:
    over = threading.Event()

    def fall_silent(request: Request, forward: Forward) -> Answer | None:
        over.wait()
        return None

    with (
        FaultProxy(s3.url, fall_silent) as proxy,
        ObjectStore(config_for(proxy.url, bucket, stall_seconds=0.5)) as store,
    ):
        try:
            with pytest.raises(StorageError) as caught:
                store.confirm(KEY, size=1, checksum=NOBODY_THERE, proven_etag=None)
        finally:
            over.set()
    assert caught.value.code == "timeout"
    assert caught.value.operation == "confirm"


def test_uploads_keep_to_the_bandwidth_all_together_and_it_changes_while_they_run(
    proxy: FaultProxy, bucket: str, source_of: SourceOf
) -> None:
    source = source_of(bytes(4 * MIB))
    with ObjectStore(config_for(proxy.url, bucket, max_bandwidth=4 * MIB)) as store:
        store.confirm(KEY, size=1, checksum=NOBODY_THERE, proven_etag=None)
        started = time.monotonic()
        threads = [threading.Thread(target=upload, args=(store, source)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started == pytest.approx(2, abs=0.5)
        store.set_bandwidth(None)
        started = time.monotonic()
        upload(store, source)
        assert time.monotonic() - started < 0.9


def test_stores_with_one_configuration_share_what_is_bounded(proxy: FaultProxy, bucket: str) -> None:
    config = config_for(proxy.url, bucket, tags={"a": "b"})
    with ObjectStore(config) as first:
        with ObjectStore(config_for(proxy.url, bucket, tags={"a": "b"})) as second:
            assert first._crt is second._crt
        with ObjectStore(config_for(proxy.url, bucket, tags={"a": "c"})) as other:
            assert other._crt is not first._crt
        first.close()
        first.close()
    with ObjectStore(config) as again:
        assert again._crt is not first._crt


def test_an_authority_that_cannot_be_read_is_for_the_operator(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "no-authority.pem"
    empty.write_text("nothing")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(empty))
    with (
        FaultProxy(tls=certificate.server_side) as proxy,
        ObjectStore(config_for(proxy.url, "bucket")) as store,
        pytest.raises(StorageError, match="AWS_CA_BUNDLE") as caught,
    ):
        store.confirm(KEY, size=1, checksum=NOBODY_THERE, proven_etag=None)
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def ask(store: ObjectStore) -> None:
    store.confirm(KEY, size=1, checksum=NOBODY_THERE, proven_etag=None)


def test_a_certificate_that_is_not_trusted_is_found_out_at_once(certificate: Certificate) -> None:
    started = time.monotonic()
    with (
        FaultProxy(tls=certificate.server_side) as proxy,
        ObjectStore(config_for(proxy.url, "bucket")) as store,
        pytest.raises(StorageError, match="AWS_CA_BUNDLE") as caught,
    ):
        ask(store)
    assert caught.value.code == "untrusted-certificate"
    assert time.monotonic() - started < 5


def test_a_refused_connection_is_transient() -> None:
    with FaultProxy() as gone:
        url = gone.url
    with ObjectStore(config_for(url, "bucket")) as store, pytest.raises(StorageError) as caught:
        ask(store)
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.code == "connection"
    assert caught.value.key == KEY


def test_credentials_that_come_later_are_found(
    proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(proxy.url, bucket, access_key_id=None, secret_access_key=None)
    with ObjectStore(config) as store:
        with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
            ask(store)
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        assert caught.value.operation == "confirm"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "found-later")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "found-later")
        ask(store)
    assert "Credential=found-later/" in proxy.requests[0].headers["Authorization"]


def test_a_name_that_no_bucket_can_have_is_for_the_operator() -> None:
    with (
        ObjectStore(config_for("http://127.0.0.1:9", "no bucket!")) as store,
        pytest.raises(StorageError, match="AWS_S3_BUCKET") as caught,
    ):
        ask(store)
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_clock_that_is_wrong_is_for_the_operator(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "RequestTimeTooSkewed")
    with pytest.raises(StorageError, match="clock") as caught:
        upload(store, source_of(SMALL))
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_foreign_object_is_described(store: ObjectStore, s3: S3Server, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=b"foreign")
    head = s3.client().head_object(Bucket=bucket, Key=KEY)
    confirmation = store.confirm(KEY, size=1, checksum=NOBODY_THERE, proven_etag=None)
    assert confirmation.verdict is Verdict.DIFFERS
    assert confirmation.etag == head["ETag"].strip('"')
    assert confirmation.last_modified == head["LastModified"]
    missing = store.confirm("videos/other", size=1, checksum=NOBODY_THERE, proven_etag=None)
    assert (missing.etag, missing.last_modified) == (None, None)


def test_a_single_put_that_is_cancelled_is_freed_with_the_body_that_it_holds(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    """The CRT and Python refer to each other there, which the garbage collector does not see."""
    begun, go_on = threading.Event(), threading.Event()
    of_others = weakref.WeakSet(requests_in_memory())

    def hold(request: Request, forward: Forward) -> Answer:
        begun.set()
        go_on.wait(10)
        return forward()

    proxy.fault = hold
    source = source_of(SMALL)
    try:
        with pytest.raises(UploadCancelledError):
            store.upload(source, Target(KEY, "video/mp4"), checksum=source.checksum(), cancelled=begun.is_set)
    finally:
        go_on.set()
    kept = [found for found in requests_in_memory() if found not in of_others]
    assert [found for found in kept if found.request.operation == "PutObject"] == []


def requests_in_memory() -> list[CrtRequest]:
    """Every request that something still refers to."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, CrtRequest)]


def test_a_thread_tells_that_it_waits_while_the_server_has_its_request(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    waits, seen = [0], []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits[0] += 1
        yield
        waits[0] -= 1

    def look(request: Request, forward: Forward) -> Answer:
        seen.append((request.action, waits[0]))
        return forward()

    store.tell_of_waits(waiting)
    proxy.fault = look
    upload(store, source_of(SMALL))
    store.head(KEY)
    assert ("PutObject", 1) in seen
    assert waits == [0]
