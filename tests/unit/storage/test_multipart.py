"""Multipart uploads: resuming, aborting and what is sent again."""

import gc
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import structlog

from storage import (
    Multipart,
    ObjectStore,
    SourceChangedError,
    SourceFile,
    StorageError,
    Target,
    UploadCancelledError,
    Verdict,
    WriteCondition,
    checksums,
)
from storage.transfer.crt_request import CrtRequest
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

MIB = 1024 * 1024
PART = 8 * MIB
CONTENT = random.Random(3).randbytes(3 * PART + 5)
KEY = "videos/0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11/a b_720p.mp4"
TARGET = Target(KEY, "video/mp4")

SourceOf = Callable[[bytes], SourceFile]


class PowerCut(Exception):  # noqa: N818  # what happened, not what went wrong
    """The end of one life of the daemon."""


class Attempt:
    """One upload, and what its callbacks were given."""

    def __init__(self, store: ObjectStore, source: SourceFile, *, stop_after: int | None = None) -> None:
        self._store = store
        self._source = source
        self._stop_after = stop_after
        self.multiparts: list[Multipart] = []
        self.accepted: list[int] = []

    def run(self, resume: Multipart | None = None, target: Target = TARGET) -> "Attempt":
        self._store.upload(
            self._source,
            target,
            checksum=self._source.checksum(),
            progress=self._progress,
            resume=resume,
            on_multipart=self.multiparts.append,
        )
        return self

    def _progress(self, accepted: int) -> None:
        self.accepted.append(accepted)
        if len(self.accepted) == self._stop_after:
            raise PowerCut


def cut_after(store: ObjectStore, source: SourceFile, parts: int) -> Multipart:
    """Begin an upload that is given up after so many parts; returns what is left of it."""
    attempt = Attempt(store, source, stop_after=parts)
    with pytest.raises(PowerCut):
        attempt.run()
    return attempt.multiparts[0]


def sent_parts(proxy: FaultProxy) -> list[int]:
    return sorted(request.part_number for request in proxy.requests if request.action == "UploadPart")


def is_confirmed(store: ObjectStore, source: SourceFile) -> bool:
    confirmation = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=PART)
    return confirmation.verdict is Verdict.AGREES


@pytest.fixture
def source(source_of: SourceOf) -> SourceFile:
    return source_of(CONTENT)


def test_the_multipart_is_passed_on_before_any_part_is_sent(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    seen: list[Sequence[str]] = []
    store.upload(
        source,
        TARGET,
        checksum=source.checksum(),
        progress=lambda _: None,
        on_multipart=lambda _: seen.append(list(proxy.actions)),
    )
    assert seen == [["CreateMultipartUpload"]]


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_a_resumed_upload_sends_only_the_parts_that_are_missing(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile, parts: int
) -> None:
    multipart = cut_after(one_by_one, source, parts)
    already = len(sent_parts(proxy))
    proxy.requests.clear()
    attempt = Attempt(one_by_one, source).run(multipart)
    assert sent_parts(proxy) == list(range(already + 1, 5))
    assert attempt.multiparts == []
    assert attempt.accepted == [PART, 2 * PART, 3 * PART, len(CONTENT)]
    assert is_confirmed(one_by_one, source)


def test_parts_of_which_the_server_keeps_no_checksum_are_known_by_their_md5(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    def forget(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.method != "GET":
            return answer
        assert b"<ETag>" in answer.body
        body = answer.body.replace(b"ChecksumCRC64NVME>", b"Forgotten>")
        return Answer(answer.status, answer.headers, body)

    multipart = cut_after(one_by_one, source, 2)
    proxy.requests.clear()
    proxy.fault = forget
    Attempt(one_by_one, source).run(multipart)
    assert sent_parts(proxy) == [3, 4]
    assert is_confirmed(one_by_one, source)


def listing(parts: str, *, more: int | None = None) -> Answer:
    next_marker = "" if more is None else f"<NextPartNumberMarker>{more}</NextPartNumberMarker>"
    truncated = "false" if more is None else "true"
    body = f"{next_marker}<IsTruncated>{truncated}</IsTruncated>{parts}"
    return Answer(200, body=f"<ListPartsResult>{body}</ListPartsResult>".encode())


def listed(number: int, content: bytes, *, checksum: str = "", etag: str = '"x"') -> str:
    return (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{len(content)}</Size>"
        f"<ChecksumCRC64NVME>{checksum}</ChecksumCRC64NVME></Part>"
    )


def test_a_part_that_is_not_what_is_on_disk_is_sent_again(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    first, second, third = (CONTENT[index * PART : (index + 1) * PART] for index in range(3))

    def lie(request: Request, forward: Forward) -> Answer:
        if request.method != "GET":
            return forward()
        return listing(
            listed(1, first, checksum=checksums.encode(checksums.crc(first[::-1])))
            + listed(2, second[:-1], checksum=checksums.encode(checksums.crc(second)))
            + listed(3, third, checksum="AAAAAA==", etag='"not-its-md5"')
            + listed(77, third)
        )

    multipart = cut_after(one_by_one, source, 3)
    proxy.requests.clear()
    proxy.fault = lie
    Attempt(one_by_one, source).run(multipart)
    assert sent_parts(proxy) == [1, 2, 3, 4]
    assert is_confirmed(one_by_one, source)


def test_a_long_list_of_parts_is_read_page_by_page(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    def page(request: Request, forward: Forward) -> Answer:
        if request.method != "GET":
            return forward()
        number = int(request.path.partition("part-number-marker=")[2].partition("&")[0]) + 1
        content = CONTENT[(number - 1) * PART : number * PART]
        part = listed(number, content, checksum=checksums.encode(checksums.crc(content)))
        return listing(part, more=number if number < 3 else None)

    multipart = cut_after(one_by_one, source, 1)
    proxy.requests.clear()
    proxy.fault = page
    attempt = Attempt(one_by_one, source)
    attempt.run(multipart)
    assert proxy.actions.count("GET") == 3
    # The server never got the parts that it was made to list, and so the upload began anew.
    assert next(each.part_number for each in proxy.requests if each.action == "UploadPart") == 4
    assert sent_parts(proxy) == [1, 2, 3, 4, 4]
    assert is_confirmed(one_by_one, source)


def test_an_upload_that_the_server_has_forgotten_is_begun_anew(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    multipart = cut_after(one_by_one, source, 2)
    one_by_one.abort(KEY, multipart.upload_id)
    proxy.requests.clear()
    attempt = Attempt(one_by_one, source).run(multipart)
    assert len(attempt.multiparts) == 1
    assert attempt.multiparts[0] != multipart
    assert sent_parts(proxy) == [1, 2, 3, 4]
    assert is_confirmed(one_by_one, source)


def test_a_part_size_with_which_the_file_cannot_be_sent_is_given_up_with_its_upload(
    one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    multipart = cut_after(one_by_one, source, 1)
    attempt = Attempt(one_by_one, source).run(Multipart(multipart.upload_id, 1))
    assert len(attempt.multiparts) == 1
    assert list(one_by_one.open_multiparts()) == []


@pytest.mark.parametrize("action", ["UploadPart", "CompleteMultipartUpload"])
def test_a_failure_leaves_a_recorded_multipart_open(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile, action: str
) -> None:
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied") if request.action == action else forward()
    )
    attempt = Attempt(store, source)
    with pytest.raises(StorageError, match="AccessDenied"):
        attempt.run()
    assert "AbortMultipartUpload" not in proxy.actions
    (found,) = store.open_multiparts()
    assert (found.key, found.upload_id) == (KEY, attempt.multiparts[0].upload_id)
    proxy.fault = lambda _, forward: forward()
    Attempt(store, source).run(attempt.multiparts[0])
    assert is_confirmed(store, source)


def refuse_checksums_of_parts(request: Request, forward: Forward) -> Answer:
    """As of a multipart that was begun with AWS_S3_CHECKSUM=md5."""
    if request.action == "UploadPart" and "x-amz-checksum-crc64nvme" in request.headers:
        return s3_error(400, "InvalidRequest", "Checksum Type mismatch occurred")
    return forward()


def test_a_resumed_upload_that_was_begun_without_checksums_goes_on_without_and_teaches_nothing(
    store: ObjectStore, one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    multipart = cut_after(one_by_one, source, 1)
    proxy.fault = refuse_checksums_of_parts
    Attempt(store, source).run(multipart)
    assert not store.dialect.unsupported
    assert is_confirmed(store, source)


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("UploadPart", s3_error(501, "NotImplemented", "part 2 cannot be replaced with different contents")),
        ("UploadPart", s3_error(400, "InvalidRequest", "Checksum Type mismatch occurred")),
        ("CompleteMultipartUpload", s3_error(400, "InvalidPart")),
    ],
)
def test_a_resumed_upload_that_the_server_does_not_let_go_on_begins_anew_at_once(
    store: ObjectStore,
    one_by_one: ObjectStore,
    proxy: FaultProxy,
    source: SourceFile,
    path: Path,
    action: str,
    answer: Answer,
) -> None:
    """As rclone's server, which replaces no part; the new upload is the only one that is left to resume."""
    multipart = cut_after(one_by_one, source, 2)
    with open(path, "r+b") as file:
        file.seek(PART + 5)
        file.write(b"other content")

    def refuse(request: Request, forward: Forward) -> Answer:
        is_old = multipart.upload_id in request.path and request.action == action
        return answer if is_old else forward()

    proxy.fault = refuse
    changed = SourceFile(os.open(path, os.O_RDONLY))
    attempt = Attempt(store, changed)
    with structlog.testing.capture_logs() as logs:
        attempt.run(multipart)
    (begun,) = attempt.multiparts
    assert begun.upload_id != multipart.upload_id
    assert not list(store.open_multiparts())
    assert not store.dialect.unsupported
    assert attempt.accepted[-1] == len(CONTENT)
    assert is_confirmed(store, changed)
    (said,) = [line for line in logs if line["event"] == "upload_begun_anew"]
    assert said["multipart_id"] == multipart.upload_id


def test_a_missing_permission_leaves_an_upload_to_be_resumed(
    store: ObjectStore, one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    multipart = cut_after(one_by_one, source, 1)
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied") if request.action == "UploadPart" else forward()
    )
    with pytest.raises(StorageError, match="AccessDenied"):
        Attempt(store, source).run(multipart)
    assert [found.upload_id for found in store.open_multiparts()] == [multipart.upload_id]


def test_a_resumed_upload_whose_parts_are_refused_as_others_are_not_is_begun_anew(
    store: ObjectStore, one_by_one: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    Attempt(store, source).run()
    multipart = cut_after(one_by_one, source, 1)
    proxy.fault = refuse_checksums_of_parts
    with pytest.raises(StorageError, match="Checksum Type mismatch"):
        Attempt(store, source).run(multipart)
    assert not list(store.open_multiparts())
    proxy.fault = lambda _, forward: forward()
    Attempt(store, source).run(multipart)
    assert is_confirmed(store, source)


def test_a_cancelled_upload_can_be_resumed(store: ObjectStore, proxy: FaultProxy, source: SourceFile) -> None:
    multiparts: list[Multipart] = []
    accepted: list[int] = []
    with pytest.raises(UploadCancelledError):
        store.upload(
            source,
            TARGET,
            checksum=source.checksum(),
            progress=accepted.append,
            cancelled=lambda: bool(accepted),
            on_multipart=multiparts.append,
        )
    assert "AbortMultipartUpload" not in proxy.actions
    Attempt(store, source).run(multiparts[0])
    assert is_confirmed(store, source)


def test_the_requests_of_a_cancelled_upload_are_freed_with_the_parts_that_they_hold(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart":
            begun.set()
            go_on.wait(10)
        return forward()

    proxy.fault = hold
    try:
        with pytest.raises(UploadCancelledError):
            store.upload(source, TARGET, checksum=source.checksum(), cancelled=begun.is_set)
    finally:
        go_on.set()
    gc.collect()
    kept = [found for found in gc.get_objects() if isinstance(found, CrtRequest)]
    assert [found for found in kept if found.request.operation == "UploadPart"] == []


def test_a_file_that_changes_has_its_multipart_aborted(
    one_by_one: ObjectStore, path: Path, source: SourceFile
) -> None:
    def rewrite(_: int) -> None:
        os.utime(path, ns=(0, 1))

    multiparts: list[Multipart] = []
    with pytest.raises(SourceChangedError):
        one_by_one.upload(
            source,
            TARGET,
            checksum=source.checksum(),
            progress=rewrite,
            on_multipart=multiparts.append,
        )
    assert len(multiparts) == 1
    assert list(one_by_one.open_multiparts()) == []


def test_a_multipart_that_could_not_be_recorded_is_aborted(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    def fail(_: Multipart) -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        store.upload(source, TARGET, checksum=source.checksum(), progress=lambda _: None, on_multipart=fail)
    assert proxy.actions == ["CreateMultipartUpload", "AbortMultipartUpload"]


def test_a_part_that_fails_is_sent_again_and_counts_once(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile
) -> None:
    failed: set[int] = set()
    lock = threading.Lock()

    def fail_twice(request: Request, forward: Forward) -> Answer | None:
        if request.action != "UploadPart":
            return forward()
        with lock:
            tries = [each.part_number for each in proxy.requests if each.action == "UploadPart"]
            if tries.count(request.part_number) <= 2:
                failed.add(request.part_number)
                return s3_error(500, "InternalError")
        return forward()

    proxy.fault = fail_twice
    attempt = Attempt(store, source).run()
    assert failed == {1, 2, 3, 4}
    assert attempt.accepted == sorted(set(attempt.accepted))
    assert attempt.accepted[-1] == len(CONTENT)
    assert is_confirmed(store, source)


def test_several_parts_are_under_way_at_once_and_no_more_than_allowed(
    s3: S3Server, bucket: str, source: SourceFile
) -> None:
    together = threading.Barrier(2, timeout=10)
    under_way: list[int] = []
    most: list[int] = []

    def meet(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart":
            under_way.append(1)
            most.append(len(under_way))
            together.wait()
            under_way.pop()
        return forward()

    with (
        FaultProxy(s3.url) as proxy,
        ObjectStore(config_for(proxy.url, bucket, parts_in_flight=2)) as store,
    ):
        Attempt(store, source).run()
        proxy.fault = meet
        Attempt(store, source).run()
        assert is_confirmed(store, source)
    assert max(most) == 2


def test_open_multiparts_are_listed_by_prefix_and_gone_when_aborted(
    store: ObjectStore, s3: S3Server, bucket: str
) -> None:
    ids = {
        key: s3.client().create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        for key in ("videos/a", "videos/b", "other/c")
    }
    found = {multipart.key: multipart for multipart in store.open_multiparts("videos/")}
    assert {key: multipart.upload_id for key, multipart in found.items()} == {
        key: ids[key] for key in ("videos/a", "videos/b")
    }
    assert found["videos/a"].initiated_at.tzinfo is not None
    store.abort("videos/a", ids["videos/a"])
    assert {multipart.key for multipart in store.open_multiparts()} == {"other/c", "videos/b"}


def test_aborting_what_is_not_there_is_fine(store: ObjectStore) -> None:
    store.abort(KEY, "no-such-upload")


def test_an_abort_that_is_refused_is_an_error(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    with pytest.raises(StorageError, match="AccessDenied") as caught:
        store.abort(KEY, "some-upload")
    assert caught.value.operation == "abort the upload of"
    assert caught.value.key == KEY


def test_a_condition_that_fails_at_the_end_leaves_the_parts_for_another_try(
    store: ObjectStore, proxy: FaultProxy, source: SourceFile, s3: S3Server, bucket: str
) -> None:
    proxy.fault = lambda request, forward: (
        s3_error(412, "PreconditionFailed") if "If-None-Match" in request.headers else forward()
    )
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=b"of another writer")
    attempt = Attempt(store, source)
    with pytest.raises(StorageError, match="PreconditionFailed"):
        attempt.run(target=Target(KEY, "video/mp4", condition=WriteCondition.if_absent()))
    proxy.requests.clear()
    with structlog.testing.capture_logs() as logs:
        Attempt(store, source).run(attempt.multiparts[0])
    assert sent_parts(proxy) == []
    (event,) = logs
    assert event["event"] == "upload_resumed"
    assert event["parts_kept"] == 4
    assert is_confirmed(store, source)
