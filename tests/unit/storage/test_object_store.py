"""Uploads, confirmation and deletion on a real server."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
import structlog

from storage import (
    Confirmation,
    ErrorKind,
    ObjectStore,
    PreconditionError,
    Sent,
    SourceChangedError,
    SourceFile,
    StorageError,
    Target,
    UploadCancelledError,
    UploadSteps,
    Verdict,
    WriteCondition,
    checksums,
    content_type,
    object_key,
    public_url,
)
from storage.dialect import PUT_ETAG
from tests.support.certificates import Certificate
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

MIB = 1024 * 1024
SMALL = random.Random(1).randbytes(300_000)
LARGE = random.Random(2).randbytes(17 * MIB + 5)
KEY = "videos/0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11/my_video_720p.mp4"
TARGET = Target(KEY, "video/mp4", {"quality": "720p"})

SourceOf = Callable[[bytes], SourceFile]


def upload(store: ObjectStore, source: SourceFile) -> Sent:
    return store.upload(source, TARGET, checksum=source.checksum())


def on(action: str, answer: Answer | None) -> Fault:
    """Every request of one kind gets this answer; None is a dropped connection."""

    def fault(request: Request, forward: Forward) -> Answer | None:
        return answer if request.action == action else forward()

    return fault


@pytest.mark.parametrize(("content", "part_size"), [(b"", None), (SMALL, None), (LARGE, 8 * MIB)])
def test_what_is_sent_arrives_with_all_that_was_said_about_it(
    store: ObjectStore, s3: S3Server, bucket: str, source_of: SourceOf, content: bytes, part_size: int | None
) -> None:
    source = source_of(content)
    sent = upload(store, source)

    stored = s3.client().get_object(Bucket=bucket, Key=KEY)
    assert stored["Body"].read() == content
    assert stored["ContentType"] == "video/mp4"
    assert stored["CacheControl"] == "max-age=60"
    assert stored["Metadata"] == {"quality": "720p"}
    assert sent == Sent(source.etags(part_size)[0], None, part_size)


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_everyone_can_fetch_an_object_by_its_public_url(
    store: ObjectStore, s3: S3Server, bucket: str, source_of: SourceOf, content: bytes
) -> None:
    source = source_of(content)
    key = object_key("videos", "0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11", "50% é+#?&=~'\" ü.b.mp4", "144p")
    store.upload(source, Target(key, content_type(key)), checksum=source.checksum())

    with urlopen(public_url(config_for(s3.url, bucket).public_base_url, key)) as response:
        assert response.read() == content
        assert response.headers["Content-Type"] == "video/mp4"


def test_without_an_acl_none_is_sent(
    proxy: FaultProxy, s3: S3Server, bucket: str, source_of: SourceOf
) -> None:
    with ObjectStore(config_for(proxy.url, bucket)) as store:
        upload(store, source_of(SMALL))
        upload(store, source_of(LARGE))
    assert not [request for request in proxy.requests if "x-amz-acl" in request.headers]


@pytest.mark.parametrize(("content", "steps"), [(b"", 1), (SMALL, 1), (LARGE, 3)])
def test_progress_grows_to_the_size_of_the_file(
    store: ObjectStore, source_of: SourceOf, content: bytes, steps: int
) -> None:
    source = source_of(content)
    accepted: list[int] = []
    store.upload(source, TARGET, checksum=source.checksum(), progress=accepted.append)
    assert accepted == sorted(accepted)
    assert accepted[-1] == len(content)
    assert len(accepted) == steps


def test_a_single_put_carries_its_full_checksum(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    source = source_of(SMALL)
    upload(store, source)
    (request,) = proxy.requests
    assert request.headers["x-amz-checksum-crc64nvme"] == source.checksum()
    assert request.headers["x-amz-sdk-checksum-algorithm"] == "CRC64NVME"
    assert request.body == SMALL


def test_each_part_and_the_whole_of_a_multipart_upload_carry_their_checksums(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    source = source_of(LARGE)
    upload(store, source)
    create, *parts, complete = proxy.requests
    assert create.action == "CreateMultipartUpload"
    assert create.headers["x-amz-checksum-algorithm"] == "CRC64NVME"
    assert create.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    parts.sort(key=lambda part: part.part_number)
    assert [part.part_number for part in parts] == [1, 2, 3]
    assert b"".join(part.body for part in parts) == LARGE
    for part in parts:
        assert part.headers["x-amz-checksum-crc64nvme"] == checksums.encode(checksums.crc(part.body))
    assert complete.action == "CompleteMultipartUpload"
    assert complete.headers["x-amz-checksum-crc64nvme"] == source.checksum()
    assert complete.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert complete.headers["x-amz-mp-object-size"] == str(len(LARGE))


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_over_tls_checksums_go_in_headers_not_in_trailers(
    s3: S3Server,
    bucket: str,
    source_of: SourceOf,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """Trailers come with aws-chunked bodies, which some servers refuse."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    source = source_of(content)
    with (
        FaultProxy(s3.url, tls=certificate.server_side) as proxy,
        ObjectStore(config_for(proxy.url, bucket)) as store,
    ):
        upload(store, source)
        confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert confirmation.verdict is Verdict.AGREES
    bodies = [request for request in proxy.requests if request.action in {"PutObject", "UploadPart"}]
    bodies.sort(key=lambda request: request.part_number if request.action == "UploadPart" else 1)
    assert b"".join(request.body for request in bodies) == content
    for request in bodies:
        assert request.headers["x-amz-checksum-crc64nvme"] == checksums.encode(checksums.crc(request.body))
        assert "x-amz-trailer" not in request.headers


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_content_other_than_what_was_hashed_never_becomes_an_object(
    store: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf, content: bytes
) -> None:
    checksum = source_of(content).checksum()
    other = source_of(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SourceChangedError):
        store.upload(other, TARGET, checksum=checksum)
    assert not {"PutObject", "CompleteMultipartUpload"} & set(proxy.actions)


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_file_whose_mtime_moves_after_it_was_hashed_never_becomes_an_object(
    store: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf, content: bytes
) -> None:
    source = source_of(content)
    checksum = source.checksum()
    os.utime(path, ns=(0, 1))
    with pytest.raises(SourceChangedError, match="mtime_ns was"):
        store.upload(source, TARGET, checksum=checksum)
    assert not {"PutObject", "CompleteMultipartUpload"} & set(proxy.actions)


def test_a_file_that_changes_is_given_up_at_once_whatever_the_server_is_doing(
    store: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf
) -> None:
    """No answer is waited for: on a slow line the rest of a part can take minutes."""
    source = source_of(LARGE)
    checksum = source.checksum()
    given_up = threading.Event()

    def hold(request: Request, forward: Forward) -> Answer | None:
        if request.action == "UploadPart":
            os.utime(path, ns=(0, 1))
            assert given_up.wait(20)
        if request.action == "AbortMultipartUpload":
            given_up.set()
        return forward()

    proxy.fault = hold
    try:
        with pytest.raises(SourceChangedError, match="mtime_ns was"):
            store.upload(source, TARGET, checksum=checksum)
        assert given_up.is_set()
    finally:
        given_up.set()
    assert "CompleteMultipartUpload" not in proxy.actions


def test_a_file_truncated_between_two_parts_is_aborted_not_completed(
    one_by_one: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf
) -> None:
    source = source_of(LARGE)

    def truncate(accepted: int) -> None:
        os.truncate(path, 1000)

    with pytest.raises(SourceChangedError, match="size was"):
        one_by_one.upload(source, TARGET, checksum=source.checksum(), progress=truncate)
    assert proxy.actions == ["CreateMultipartUpload", "UploadPart", "AbortMultipartUpload"]


def test_a_file_that_grows_while_it_is_sent_is_aborted_not_completed(
    one_by_one: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf
) -> None:
    source = source_of(LARGE)

    def grow(accepted: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceChangedError, match="size was"):
        one_by_one.upload(source, TARGET, checksum=source.checksum(), progress=grow)
    assert proxy.actions[-1] == "AbortMultipartUpload"
    assert "CompleteMultipartUpload" not in proxy.actions


def test_a_file_that_changes_after_its_last_part_is_aborted_not_completed(
    store: ObjectStore, proxy: FaultProxy, path: Path, source_of: SourceOf
) -> None:
    source = source_of(LARGE)

    def touch_at_the_end(accepted: int) -> None:
        if accepted == len(LARGE):
            os.utime(path, ns=(0, 1))

    with pytest.raises(SourceChangedError, match="mtime_ns was"):
        store.upload(source, TARGET, checksum=source.checksum(), progress=touch_at_the_end)
    assert proxy.actions[-1] == "AbortMultipartUpload"
    assert "CompleteMultipartUpload" not in proxy.actions


@pytest.mark.parametrize("action", ["UploadPart", "CompleteMultipartUpload"])
def test_a_failed_multipart_upload_is_aborted_and_leaves_no_parts(
    one_by_one: ObjectStore, proxy: FaultProxy, s3: S3Server, bucket: str, source_of: SourceOf, action: str
) -> None:
    proxy.fault = on(action, s3_error(403, "AccessDenied"))
    with pytest.raises(StorageError, match="AccessDenied"):
        upload(one_by_one, source_of(LARGE))
    assert proxy.actions[-1] == "AbortMultipartUpload"
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket)


def test_progress_that_raises_aborts_the_upload_and_its_exception_comes_through(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    def lose_the_claim(accepted: int) -> None:
        raise LookupError("another worker has the row")

    source = source_of(LARGE)
    with pytest.raises(LookupError):
        one_by_one.upload(source, TARGET, checksum=source.checksum(), progress=lose_the_claim)
    assert proxy.actions == ["CreateMultipartUpload", "UploadPart", "AbortMultipartUpload"]


def test_an_abort_that_fails_is_logged_and_hides_nothing(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        match request.action:
            case "UploadPart":
                return s3_error(400, "EntityTooLarge")
            case "AbortMultipartUpload":
                return s3_error(403, "AccessDenied")
        return forward()

    proxy.fault = fault
    with structlog.testing.capture_logs() as logs, pytest.raises(StorageError, match="EntityTooLarge"):
        upload(store, source_of(LARGE))
    (event,) = logs
    assert event["event"] == "abort_failed"
    assert event["key"] == KEY
    assert event["code"] == "AccessDenied"


def test_an_abort_of_an_upload_that_is_gone_is_no_news(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        if request.action in {"UploadPart", "AbortMultipartUpload"}:
            return s3_error(404, "NoSuchUpload")
        return forward()

    proxy.fault = fault
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(StorageError, match="NoSuchUpload") as caught,
    ):
        upload(store, source_of(LARGE))
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert logs == []


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_an_upload_that_is_cancelled_beforehand_asks_nothing_of_the_server(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, content: bytes
) -> None:
    source = source_of(content)
    with pytest.raises(UploadCancelledError) as caught:
        store.upload(source, TARGET, checksum=source.checksum(), cancelled=lambda: True)
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert proxy.actions == []


@pytest.mark.parametrize(
    "action", ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_a_connection_that_breaks_as_the_upload_is_cancelled_is_a_cancellation(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, action: str
) -> None:
    cancelled = threading.Event()

    def break_off(request: Request, forward: Forward) -> Answer | None:
        if request.action != action:
            return forward()
        cancelled.set()
        return None

    proxy.fault = break_off
    source = source_of(SMALL if action == "PutObject" else LARGE)
    with pytest.raises(UploadCancelledError):
        store.upload(source, TARGET, checksum=source.checksum(), cancelled=cancelled.is_set)


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_an_upload_cancelled_in_the_middle_of_a_request_ends_at_once_and_is_cancelled_not_broken(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, content: bytes
) -> None:
    arrived, over = threading.Event(), threading.Event()

    def never_answer(request: Request, forward: Forward) -> Answer | None:
        if request.action not in {"PutObject", "UploadPart"}:
            return forward()
        arrived.set()
        over.wait()
        return None

    proxy.fault = never_answer
    source = source_of(content)
    started = time.monotonic()
    try:
        with pytest.raises(UploadCancelledError):
            store.upload(source, TARGET, checksum=source.checksum(), cancelled=arrived.is_set)
        assert time.monotonic() - started < 5
    finally:
        over.set()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_an_upload_cancelled_after_a_part_stops_there_and_is_aborted(
    one_by_one: ObjectStore, proxy: FaultProxy, source_of: SourceOf, parts: int
) -> None:
    source = source_of(LARGE)
    accepted: list[int] = []
    with pytest.raises(UploadCancelledError):
        one_by_one.upload(
            source,
            TARGET,
            checksum=source.checksum(),
            progress=accepted.append,
            cancelled=lambda: len(accepted) == parts,
        )
    assert proxy.actions == ["CreateMultipartUpload", *["UploadPart"] * parts, "AbortMultipartUpload"]
    assert proxy.broken_off == 0


def test_a_hiccup_of_the_server_does_not_cost_the_upload(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    def first_request_fails(request: Request, forward: Forward) -> Answer:
        return s3_error(503, "SlowDown") if len(proxy.requests) == 1 else forward()

    proxy.fault = first_request_fails
    source = source_of(SMALL)
    upload(store, source)
    assert proxy.actions == ["PutObject", "PutObject"]
    assert proxy.requests[1].body == SMALL


@pytest.mark.parametrize("answer", [s3_error(503, "SlowDown"), s3_error(400, "BadDigest"), None])
def test_a_server_that_keeps_failing_is_a_transient_error(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, answer: Answer | None
) -> None:
    proxy.fault = on("PutObject", answer)
    with pytest.raises(StorageError) as caught:
        upload(store, source_of(SMALL))
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.key == KEY
    assert len(proxy.requests) <= 2


def test_a_bucket_in_another_region_is_an_error_and_not_followed(
    proxy: FaultProxy, bucket: str, source_of: SourceOf
) -> None:
    proxy.fault = on("PutObject", s3_error(301, "PermanentRedirect").having(x_amz_bucket_region="eu-west-3"))
    with (
        ObjectStore(config_for(proxy.url, bucket)) as store,
        pytest.raises(StorageError, match="AWS_REGION") as caught,
    ):
        upload(store, source_of(SMALL))
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert proxy.actions == ["PutObject"]


NOT_S3 = b"<html>Welcome to our hotel"


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("CreateMultipartUpload", Answer(200, body=NOT_S3)),
        ("CreateMultipartUpload", Answer(200, body=NOT_S3 + b"</html>")),
        ("UploadPart", Answer(200, body=NOT_S3)),
        ("CompleteMultipartUpload", Answer(200, body=NOT_S3)),
        ("CompleteMultipartUpload", s3_error(200, "InternalError")),
    ],
)
def test_a_success_that_is_not_of_s3_is_transient(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, action: str, answer: Answer
) -> None:
    proxy.fault = on(action, answer)
    with pytest.raises(StorageError) as caught:
        upload(store, source_of(LARGE))
    assert caught.value.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(("content", "part_size"), [(b"", None), (SMALL, None), (LARGE, 8 * MIB)])
def test_an_object_is_confirmed_by_its_full_checksum(
    store: ObjectStore, source_of: SourceOf, content: bytes, part_size: int | None
) -> None:
    source = source_of(content)
    upload(store, source)
    confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert confirmation.verdict is Verdict.AGREES
    assert confirmation.receipt is not None
    assert confirmation.receipt.confirmed_by == "checksum"
    assert confirmation.receipt.checksum == source.checksum()
    assert confirmation.receipt.size == len(content)
    assert confirmation.receipt.etag == source.etags(part_size)[0]


def test_one_store_serves_many_threads(store: ObjectStore, source_of: SourceOf) -> None:
    def send_and_confirm(number: int) -> Verdict:
        key = f"videos/{number}.mp4"
        store.upload(source, Target(key, "video/mp4"), checksum=checksum)
        return store.confirm(key, size=source.size, checksum=checksum, proven_etag=None).verdict

    source = source_of(SMALL)
    checksum = source.checksum()
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(send_and_confirm, range(12))) == {Verdict.AGREES}


def test_a_version_is_named_by_upload_and_confirmation_alike(s3: S3Server, source_of: SourceOf) -> None:
    bucket = s3.create_bucket("with-versions", versioned=True)
    source = source_of(SMALL)
    with ObjectStore(config_for(s3.url, bucket)) as store:
        sent = upload(store, source)
        confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert sent.version_id is not None
    assert confirmation.receipt is not None
    assert confirmation.receipt.version_id == sent.version_id


def test_an_object_that_is_not_there_is_missing(store: ObjectStore) -> None:
    confirmation = store.confirm(KEY, size=1, checksum="AAAAAAAAAAA=", proven_etag=None)
    assert confirmation.verdict is Verdict.MISSING
    assert confirmation.receipt is None


def test_an_object_of_another_writer_differs(
    store: ObjectStore, s3: S3Server, bucket: str, source_of: SourceOf
) -> None:
    source = source_of(SMALL)
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=SMALL[::-1], ChecksumAlgorithm="CRC64NVME")
    confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert confirmation.verdict is Verdict.DIFFERS


def head(**headers: str | None) -> Fault:
    """HEAD answers with other headers than the server's."""

    def fault(request: Request, forward: Forward) -> Answer:
        answer = forward()
        return answer.having(**headers) if request.action == "HeadObject" else answer

    return fault


NO_CHECKSUM: dict[str, str | None] = {"x_amz_checksum_crc64nvme": None, "x_amz_checksum_type": None}
MALFORMED: dict[str, str | None] = {"x_amz_checksum_crc64nvme": "AAAAAA=="}
OF_PARTS: dict[str, str | None] = {"x_amz_checksum_type": "COMPOSITE"}


@pytest.mark.parametrize(
    "headers",
    [
        {"content_length": "299999"},
        {"x_amz_checksum_crc64nvme": "AAAAAAAAAAA="},
        NO_CHECKSUM | {"etag": f'"{hashlib.md5(b"other").hexdigest()}"'},
        NO_CHECKSUM | {"content_length": "1"},
    ],
)
def test_a_head_that_says_anything_else_than_the_local_file_is_a_difference(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, headers: dict[str, str | None]
) -> None:
    source = source_of(SMALL)
    upload(store, source)
    proxy.fault = head(**headers)
    store.dialect.accept(PUT_ETAG)
    confirmation = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=None)
    assert confirmation.verdict is Verdict.DIFFERS
    assert confirmation.receipt is None


@pytest.mark.parametrize("headers", [NO_CHECKSUM, MALFORMED, OF_PARTS])
@pytest.mark.parametrize(("content", "part_size"), [(SMALL, None), (LARGE, 8 * MIB)])
def test_where_no_checksum_is_kept_the_etag_of_our_own_parts_decides(
    store: ObjectStore,
    proxy: FaultProxy,
    source_of: SourceOf,
    headers: dict[str, str | None],
    content: bytes,
    part_size: int | None,
) -> None:
    source = source_of(content)
    upload(store, source)
    proxy.fault = head(**headers)
    confirmation = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=part_size)
    assert confirmation.verdict is Verdict.AGREES
    assert confirmation.receipt is not None
    assert confirmation.receipt.confirmed_by == "etag"
    assert confirmation.receipt.checksum is None


def test_size_alone_is_never_enough(store: ObjectStore, proxy: FaultProxy, source_of: SourceOf) -> None:
    source = source_of(SMALL)
    upload(store, source)
    proxy.fault = head(**NO_CHECKSUM)
    confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert confirmation.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amz_server_side_encryption": "aws:kms"},
        {"x_amz_server_side_encryption_customer_algorithm": "AES256"},
        {"etag": '"not-an-md5"'},
        {"etag": None},
    ],
)
def test_an_etag_that_is_no_digest_proves_neither_sameness_nor_difference(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, headers: dict[str, str | None]
) -> None:
    source = source_of(SMALL)
    upload(store, source)
    proxy.fault = head(**NO_CHECKSUM | headers)
    confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag="0" * 32)
    assert confirmation.verdict is Verdict.UNKNOWN


def test_the_etag_is_not_computed_where_a_checksum_decides(
    store: ObjectStore, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_expensive(*_: object) -> tuple[str, ...]:
        raise AssertionError("the whole file would be read again")

    source = source_of(SMALL)
    upload(store, source)
    monkeypatch.setattr(SourceFile, "etags", too_expensive)
    confirmation = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=None)
    assert confirmation.verdict is Verdict.AGREES


def test_a_403_is_neither_missing_nor_there(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fault = on("HeadObject", Answer(403))
    confirmation = store.confirm(KEY, size=1, checksum="AAAAAAAAAAA=", proven_etag=None)
    assert confirmation.verdict is Verdict.UNKNOWN
    assert "s3:ListBucket" in confirmation.detail


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, ErrorKind.TRANSIENT), (301, ErrorKind.ENVIRONMENT), (400, ErrorKind.ENVIRONMENT)],
)
def test_any_other_answer_to_a_confirmation_is_an_error(
    store: ObjectStore, proxy: FaultProxy, status: int, kind: ErrorKind
) -> None:
    proxy.fault = on("HeadObject", Answer(status))
    with pytest.raises(StorageError) as caught:
        store.confirm(KEY, size=1, checksum="AAAAAAAAAAA=", proven_etag=None)
    assert caught.value.kind is kind
    assert caught.value.operation == "confirm"


def test_a_deleted_object_is_gone_and_deleting_it_again_is_fine(
    store: ObjectStore, source_of: SourceOf
) -> None:
    source = source_of(SMALL)
    upload(store, source)
    store.delete(KEY)
    store.delete(KEY)
    confirmation = store.confirm(KEY, size=source.size, checksum=source.checksum(), proven_etag=None)
    assert confirmation.verdict is Verdict.MISSING


def test_what_a_header_cannot_carry_is_refused_as_metadata() -> None:
    with pytest.raises(ValueError, match="percent-encode"):
        Target(KEY, "video/mp4", {"name": "é.mp4"})
    with pytest.raises(ValueError, match="percent-encode"):
        Target(KEY, "video/mp4", {"name": "a\r\nx-amz-acl: public-read"})


class RecordedSteps(UploadSteps):
    """Writes only where nothing is, and records the steps in their order."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    def adopted(self, found: Confirmation) -> None:
        self.steps.append(("adopted", found.verdict))

    def condition(self, found: Confirmation) -> WriteCondition:
        self.steps.append(("condition", found.verdict))
        return WriteCondition.if_absent()

    @contextmanager
    def sending(self) -> Iterator[None]:
        self.steps.append("sending")
        yield

    def progress(self, accepted: int) -> None:
        self.steps.append(("progress", accepted))

    def sent(self, sent: Sent) -> None:
        self.steps.append(("sent", sent.part_size))


def test_ensure_adopts_an_identical_object_without_sending(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    steps = RecordedSteps()
    source = source_of(SMALL)
    upload(store, source)
    proxy.requests.clear()
    receipt = store.ensure(source, TARGET, checksum=source.checksum(), steps=steps)
    assert (receipt.size, receipt.checksum) == (source.size, source.checksum())
    assert proxy.actions == ["HeadObject"]
    assert steps.steps == [("adopted", Verdict.AGREES)]


def test_ensure_sends_what_is_missing_and_confirms_it(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    steps = RecordedSteps()
    source = source_of(SMALL)
    store.ensure(source, TARGET, checksum=source.checksum(), steps=steps)
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]
    assert proxy.requests[1].headers["If-None-Match"] == "*"
    assert steps.steps[:2] == [("condition", Verdict.MISSING), "sending"]
    assert steps.steps[2:] == [("progress", source.size), ("sent", None)]


def test_ensure_replaces_another_object_only_on_the_condition_of_its_caller(
    store: ObjectStore, source_of: SourceOf
) -> None:
    upload(store, source_of(b"other"))
    steps = RecordedSteps()
    source = source_of(SMALL)
    with pytest.raises(PreconditionError):
        store.ensure(source, TARGET, checksum=source.checksum(), steps=steps)
    assert steps.steps == [("condition", Verdict.DIFFERS), "sending"]
    receipt = store.ensure(source, TARGET, checksum=source.checksum(), steps=UploadSteps())
    assert receipt.checksum == source.checksum()


def test_head_describes_an_object_and_distinguishes_missing_from_forbidden(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    assert store.head(KEY) is None
    upload(store, source_of(SMALL))
    head = store.head(KEY)
    assert head is not None
    assert head.size == len(SMALL)
    proxy.fault = on("HeadObject", Answer(403))
    with pytest.raises(StorageError) as caught:
        store.head(KEY)
    assert (caught.value.code, caught.value.kind) == ("object-unknown", ErrorKind.ENVIRONMENT)
