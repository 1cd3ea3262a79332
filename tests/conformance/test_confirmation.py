"""An object is confirmed only with proof that it is the same as the file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from boto3.s3.transfer import TransferConfig

from storage import Confirmation, ErrorKind, ObjectStore, SourceFile, StorageError, Verdict, part_size_for
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, content_of, make_file, source_of
from tests.conformance.uploads import Watched, send
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, no_fault

SMALL = 300_000
LARGE = 17 * MIB + 5
PART = 8 * MIB
CLOCKS_DIFFER = timedelta(minutes=5)

both_ways = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["put", "multipart"])


def confirm(store: ObjectStore, source: SourceFile, key: str) -> Confirmation:
    """As before sending: in the parts that would be sent."""
    return store.confirm_file(key, source, checksum=source.checksum(), part_size=part_size_for(source.size))


def corrupting(proxy: FaultProxy, action: str, *, times: int) -> Fault:
    """Flips one bit of some bodies; each keeps its length, so that only a checksum reveals it."""
    left = times

    def fault(request: Request, forward: Forward) -> Answer | None:
        nonlocal left
        if request.action != action or not left:
            return forward()
        left -= 1
        body = bytes([request.body[0] ^ 1]) + request.body[1:]
        return proxy._forward(replace(request, body=body))

    return fault


@both_ways
def test_an_object_that_is_there_already_is_recognised_before_anything_is_sent(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str, size: int
) -> None:
    """An earlier life sent it and never heard so."""
    make_file(path, size)
    with ObjectStore(backend.config()) as earlier:
        sent = send(earlier, path, key)
    with source_of(path) as source:
        found = confirm(store, source, key)
    assert found.verdict is Verdict.AGREES, found.detail
    assert found.receipt is not None
    assert found.receipt.etag == found.etag
    assert sent.etag == found.etag or not backend.traits.answers_etag
    assert found.last_modified is not None
    assert abs(datetime.now(UTC) - found.last_modified) < CLOCKS_DIFFER
    assert [request.action for request in proxy.requests if key in request.path] == ["HeadObject"]


@both_ways
def test_an_object_of_another_writer_with_the_same_content_is_recognised(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int
) -> None:
    """It was uploaded by a client that knows no CRC64NVME, in the parts that most clients use."""
    make_file(path, size)
    backend.client.upload_file(
        path,
        backend.bucket,
        key,
        Config=TransferConfig(
            multipart_threshold=16 * MIB, multipart_chunksize=PART, preferred_transfer_client="classic"
        ),
    )
    with source_of(path) as source:
        found = confirm(store, source, key)
    assert found.verdict is Verdict.AGREES, found.detail


@both_ways
def test_other_content_of_the_same_size_is_distinguished_and_described(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int
) -> None:
    make_file(path, size, seed="of another writer")
    sent = send(store, path, key)
    make_file(path, size)
    with source_of(path) as source:
        found = confirm(store, source, key)
    assert found.verdict is Verdict.DIFFERS
    assert found.receipt is None
    assert sent.etag == found.etag or not backend.traits.answers_etag
    assert found.last_modified is not None


def test_content_of_another_size_is_distinguished(
    backend: Backend, store: ObjectStore, key: str, path: str
) -> None:
    send(store, make_file(path, SMALL), key)
    make_file(path, SMALL + 1)
    with source_of(path) as source:
        assert confirm(store, source, key).verdict is Verdict.DIFFERS


def test_what_is_not_there_is_missing(store: ObjectStore, key: str, path: str) -> None:
    make_file(path, SMALL)
    with source_of(path) as source:
        found = confirm(store, source, key)
    assert found.verdict is Verdict.MISSING
    assert (found.receipt, found.etag, found.last_modified) == (None, None, None)


def test_what_was_deleted_is_missing_and_deleting_it_again_is_fine(
    backend: Backend, store: ObjectStore, key: str, path: str
) -> None:
    send(store, make_file(path, SMALL), key)
    store.delete(key)
    store.delete(key)
    with source_of(path) as source:
        assert confirm(store, source, key).verdict is Verdict.MISSING
    assert backend.content(key) is None


def send_over(
    store: ObjectStore, source: SourceFile, key: str, proxy: FaultProxy
) -> tuple[StorageError | None, Confirmation]:
    """Send over a line that spoils something; returns how the server refused it and what it has now."""
    refused = None
    try:
        Watched().send(store, source, key)
    except StorageError as error:
        refused = error
    proxy.fault = no_fault
    return refused, confirm(store, source, key)


def ensure_found_out(backend: Backend, refused: StorageError | None, found: Confirmation) -> None:
    """By the server, if it is one that compares, else by the confirmation."""
    if backend.traits.refuses_corruption is not None:
        assert (refused is not None) == backend.traits.refuses_corruption
    if refused is None:
        assert found.verdict is Verdict.DIFFERS
    else:
        assert (refused.kind, refused.code) == (ErrorKind.TRANSIENT, "BadDigest")
        assert found.verdict is Verdict.MISSING


def test_a_wrong_checksum_is_refused_or_found_out(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    if backend.traits.checks_signatures:
        pytest.skip(f"{backend.name} checks signatures, so its questions cannot be changed on the way")

    def lie(request: Request, forward: Forward) -> Answer | None:
        if request.action != "PutObject":
            return forward()
        headers = {**request.headers, "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}
        return proxy._forward(replace(request, headers=headers))

    proxy.fault = lie
    with source_of(make_file(path, SMALL)) as source:
        ensure_found_out(backend, *send_over(store, source, key, proxy))


def is_of_parts(request: Request) -> bool:
    return "-parts" in request.path


def test_whether_a_server_compares_checksums_is_found_out_once(
    backend: Backend, proxy: FaultProxy, prefix: str
) -> None:
    """Nothing of it remains there."""
    with ObjectStore(backend.config(proxy.url, prefix=prefix)) as store:
        found = [store.compares_checksums() for _ in range(3)]
        expected = backend.traits.compares_checksums
        assert set(found) == {found[0] if expected is None else expected}
        assert not list(store.objects(prefix))
        assert not list(store.open_multiparts(prefix))
    asked = [request.action for request in proxy.probes if not is_of_parts(request)]
    assert asked == ["PutObject"]
    of_parts = [request.action for request in proxy.probes if is_of_parts(request)]
    assert of_parts.count("CreateMultipartUpload") == (1 if found[0] else len(of_parts[:1]))


@pytest.mark.parametrize(("action", "size"), [("PutObject", SMALL), ("UploadPart", LARGE)])
def test_bytes_that_change_on_the_way_are_never_confirmed(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str, action: str, size: int
) -> None:
    proxy.fault = corrupting(proxy, action, times=-1)
    with source_of(make_file(path, size)) as source:
        ensure_found_out(backend, *send_over(store, source, key, proxy))


def test_one_part_that_was_spoilt_on_the_way_is_sent_again_by_itself(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    """The others are not, and what was sent twice does not count twice."""
    if not backend.traits.refuses_corruption:
        pytest.skip(f"{backend.name} is not known to refuse what does not fit its checksum")
    proxy.fault = corrupting(proxy, "UploadPart", times=1)
    watched = Watched()
    make_file(path, LARGE)
    with source_of(path) as source:
        watched.send(store, source, key)
        assert confirm(store, source, key).verdict is Verdict.AGREES
    assert proxy.actions.count("UploadPart") == 4
    assert len(watched.progress) == 3
    assert watched.progress[-1] == LARGE
    assert backend.content(key) == content_of(path)


@pytest.mark.parametrize("header", ["x-amz-checksum-crc64nvme", "x-amz-mp-object-size"])
def test_parts_that_do_not_make_up_the_whole_are_refused_at_the_end(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str, header: str
) -> None:
    """The checksum and the length of the whole object go along with the last request."""
    if not backend.traits.refuses_corruption:
        pytest.skip(f"{backend.name} is not known to refuse what does not fit its checksum")
    other = {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA=", "x-amz-mp-object-size": "1"}[header]

    def lie(request: Request, forward: Forward) -> Answer | None:
        if request.action != "CompleteMultipartUpload":
            return forward()
        assert header in request.headers
        return proxy._forward(replace(request, headers={**request.headers, header: other}))

    proxy.fault = lie
    with pytest.raises(StorageError):
        send(store, make_file(path, LARGE), key)
    assert backend.content(key) is None
