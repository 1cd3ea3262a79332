"""The rules of sending and confirming, on real files and a real S3 server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from db import HELD, DatabaseError, ErrorKind, State, Turn, Upload
from storage import StorageError, object_store
from storage.transfer import preconditions
from tests.support.bucket_contents import open_multiparts
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error, sent
from tests.support.harness import BUCKET, LEASE, VIDEO_ID, Harness, MakeHarness
from tests.support.peer_process import writer
from tests.support.s3_server import S3Server
from tests.support.video_files import LARGE, padded

PATH = f"{VIDEO_ID}/my video_720p.mp4"


def test_a_finished_file_becomes_a_confirmed_public_object(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    """Key, content, media type, caching, ACL and receipt are what the contract and the settings say."""
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, row.attempts) == (State.VERIFIED, "checksum", 0)
    assert row.object_key == f"videos/{VIDEO_ID}/my video_720p.mp4"
    assert (
        row.url == f"{harness.app.settings.aws_endpoint_url}/{BUCKET}/videos/{VIDEO_ID}/my%20video_720p.mp4"
    )
    assert row.verified_at is not None
    head = server.client().head_object(Bucket=BUCKET, Key=row.object_key, ChecksumMode="ENABLED")
    assert (head["ContentType"], head["CacheControl"]) == ("video/mp4", "public, max-age=3600")
    assert (head["ChecksumCRC64NVME"], head["ETag"]) == (row.checksum, f'"{row.etag}"')
    assert head["Metadata"]["video-id"] == VIDEO_ID
    grants = server.client().get_object_acl(Bucket=BUCKET, Key=row.object_key)["Grants"]
    assert any(grant["Grantee"].get("URI", "").endswith("AllUsers") for grant in grants)
    assert harness.object(row) == video


def test_a_file_that_is_held_before_it_is_found_is_not_sent(make_harness: MakeHarness, video: bytes) -> None:
    """The first attempt sees the hold, and the next quality of the video has its turn; nothing has failed."""
    harness = make_harness()
    steering = harness.app.context.orders.steering
    steering.hold(PATH)
    harness.put(PATH, video)
    larger = harness.put(f"{VIDEO_ID}/my video_1080p.mp4", video)
    (row,) = harness.step(State.PENDING, limit=1)
    assert (row.path, row.state, row.error_code, row.attempts) == (PATH, State.PENDING, HELD, 0)
    assert (row.claimed_by, harness.object(row)) == (None, None)
    assert harness.row(larger.path).turn == Turn.FIRST_SMALL
    assert steering.unhold(PATH)
    assert harness.finish(PATH).state is State.RELEASED


@pytest.mark.parametrize("size", [16 * 1024 * 1024 - 1, 16 * 1024 * 1024, LARGE])
def test_a_file_of_any_size_arrives_whole(make_harness: MakeHarness, video: bytes, size: int) -> None:
    """Below and above the border between a single PUT and a multipart upload."""
    harness = make_harness()
    content = padded(video, size)
    harness.put(PATH, content)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, row.bytes_sent) == (State.VERIFIED, "checksum", size)
    assert harness.object(row) == content


def claimed(harness: Harness, state: State) -> Upload:
    """Claim the one upload in a state, as its stage does."""
    (row,) = harness.app.ledger.claim(state, 1, lease=LEASE, horizon=LEASE)
    return row


@pytest.mark.parametrize("size", [70_000, LARGE])
def test_where_no_checksum_is_kept_the_etag_from_our_own_parts_confirms(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, size: int
) -> None:
    def keep_no_checksums(request: Request, forward: Forward) -> Answer:
        return forward().having(x_amz_checksum_crc64nvme=None, x_amz_checksum_type=None)

    proxy.fault = keep_no_checksums
    harness = make_harness()
    harness.put(PATH, padded(video, size))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by) == (State.VERIFIED, "etag")
    del proxy.requests[:]
    harness.app.ledger.advance(claimed(harness, State.VERIFIED), State.PENDING)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, sent(proxy)) == (State.VERIFIED, "etag", [])


def test_an_object_that_is_proven_by_reading_it_back_is_recorded_as_such(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    def give_no_digest(request: Request, forward: Forward) -> Answer:
        answer = forward()
        is_of_object = request.action in {"HeadObject", "GET"} and answer.status < 300
        none: dict[str, str | None] = {"x_amz_checksum_crc64nvme": None, "x_amz_checksum_type": None}
        return answer.having(**none, etag='"opaque"') if is_of_object else answer

    proxy.fault = give_no_digest
    harness = make_harness()
    harness.put(PATH, padded(video, 70_000))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.confirmed_by, row.etag) == (State.VERIFIED, "reading", "opaque")


def test_a_file_that_is_open_for_writing_is_not_settled(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    harness.write(PATH, video)
    with writer(harness.absolute(PATH), os.O_WRONLY) as process:
        process.expect("opened")
        assert harness.settle(PATH) is None
    row = harness.settle(PATH)
    assert row is not None


def test_a_file_opened_for_writing_after_it_settled_is_not_uploaded(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """A row may wait for hours; what counts is that no process writes when the bytes are read."""
    harness = make_harness()
    harness.put(PATH, video)
    with writer(harness.absolute(PATH), os.O_WRONLY) as process:
        process.expect("opened")
        (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 0, "local-changed")
    assert proxy.actions == []


def test_a_file_replaced_after_it_settled_is_examined_before_anything_is_sent(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The new content was not checked for completeness: it may be truncated."""
    harness = make_harness()
    harness.put(PATH, video)
    harness.write(PATH, video[:-100])
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "local-changed")
    assert proxy.actions == []
    assert len(harness.app.settler) == 1


@pytest.mark.parametrize("size", [70_000, LARGE])
def test_a_file_that_grows_while_it_is_sent_is_not_verified(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, size: int
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, size))

    def grow(request: Request, forward: Forward) -> Answer:
        if request.action in {"PutObject", "UploadPart"}:
            with open(harness.absolute(PATH), "ab") as file:
                file.write(b"\0\0\0\x08free")
        return forward()

    proxy.fault = grow
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "local-changed")
    proxy.fault = lambda _request, forward: forward()
    harness.settle(PATH)
    final = harness.finish(PATH)
    assert final.id != row.id
    assert final.state is State.RELEASED
    stored = harness.object(final)
    assert stored is not None
    assert len(stored) > size


def test_a_file_that_another_one_replaces_while_it_is_sent_is_not_verified(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The open file does not show it: only the path does."""
    harness = make_harness()
    harness.put(PATH, video)

    def replace(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == "PutObject":
            harness.write(f"{PATH}.part", padded(video, 70_000))
            os.replace(harness.absolute(f"{PATH}.part"), harness.absolute(PATH))
        return answer

    proxy.fault = replace
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "local-changed")
    proxy.fault = lambda _request, forward: forward()
    harness.settle(PATH)
    assert harness.object(harness.finish(PATH)) == padded(video, 70_000)


def test_a_file_truncated_in_the_middle_never_becomes_an_object(
    make_harness: MakeHarness,
    proxy: FaultProxy,
    server: S3Server,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compressor truncates in place when it compresses again; the multipart upload is aborted."""
    # The content tells, not the look at the path, after which the upload is aborted within a minute.
    monkeypatch.setattr("watcher.stages.upload.PATH_SECONDS", 3600)
    harness = make_harness()
    harness.put(PATH, padded(video, LARGE))

    def truncate(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart" and request.part_number == 1:
            os.truncate(harness.absolute(PATH), 1000)
        return forward()

    proxy.fault = truncate
    (row,) = harness.step(State.PENDING)
    assert row.state is State.PENDING
    assert "CompleteMultipartUpload" not in proxy.actions
    # A part that was on its way may arrive after that.
    assert proxy.actions.count("AbortMultipartUpload") == 1
    assert open_multiparts(server) == []
    assert harness.object(row) is None


def test_a_truncated_mp4_is_rejected_and_nothing_is_sent(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    row = harness.put(PATH, video[:-100])
    assert (row.state, row.error_code) == (State.REJECTED, "incomplete")
    assert harness.step(State.PENDING) == []
    assert proxy.actions == []
    assert os.path.exists(harness.absolute(PATH))
    assert harness.catalog_urls() == []


@pytest.mark.parametrize("level", ["file", "directory"])
def test_nothing_behind_a_symbolic_link_is_ever_uploaded(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str, level: str
) -> None:
    """Neither a link to a file outside, nor a file below a directory that is a link."""
    harness = make_harness()
    outside = os.path.join(place, "outside")
    os.makedirs(outside)
    with open(os.path.join(outside, os.path.basename(PATH)), "wb") as file:
        file.write(video)
    if level == "file":
        os.makedirs(harness.absolute(VIDEO_ID))
        os.symlink(os.path.join(outside, os.path.basename(PATH)), harness.absolute(PATH))
    else:
        os.symlink(outside, harness.absolute(VIDEO_ID))
    assert harness.settle(PATH) is None
    harness.app.scanner.scan()
    assert len(harness.app.settler) == 0
    assert proxy.actions == []


def test_a_file_exchanged_for_a_symbolic_link_after_it_settled_is_not_uploaded(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    os.rename(harness.absolute(PATH), os.path.join(place, "secret"))
    os.symlink(os.path.join(place, "secret"), harness.absolute(PATH))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, "not-ours")
    assert proxy.actions == []


def test_a_second_name_of_a_file_keeps_it_from_being_uploaded(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str
) -> None:
    harness = make_harness()
    harness.write(PATH, video)
    os.link(harness.absolute(PATH), os.path.join(place, "second name"))
    assert harness.settle(PATH) is None
    assert proxy.actions == []


def test_a_file_with_a_second_name_is_uploaded_where_that_is_allowed(
    make_harness: MakeHarness, video: bytes, place: str
) -> None:
    harness = make_harness(ALLOW_HARD_LINKS=True)
    harness.write(PATH, video)
    os.link(harness.absolute(PATH), os.path.join(place, "second name"))
    row = harness.settle(PATH)
    assert row is not None
    assert harness.object(harness.finish(PATH)) == video


Change = Callable[[Answer], Answer]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda answer: answer.having(content_length="5"), "object-differs"),
        (lambda answer: answer.having(x_amz_checksum_crc64nvme="AAAAAAAAAAA="), "object-differs"),
    ],
    ids=["another size", "another checksum"],
)
def test_an_object_that_is_not_the_file_is_never_published(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, change: Change, code: str
) -> None:
    def lie(request: Request, forward: Forward) -> Answer:
        answer = forward()
        return change(answer) if request.action == "HeadObject" and answer.status == 200 else answer

    proxy.fault = lie
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code, row.attempts) == (State.PENDING, code, 1)
    assert harness.step(State.VERIFIED) == []
    assert [url for url in harness.catalog_urls() if not url.startswith("file:")] == []
    assert os.path.exists(harness.absolute(PATH))


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_object_that_is_read_under_another_etag_than_head_says_is_published_if_its_bytes_are_the_files(
    make_harness: MakeHarness,
    proxy: FaultProxy,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
    is_damaged: bool,
) -> None:
    """The server keeps no checksum; it is asked again first, because it may lag."""
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.1)

    def lie(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == "HeadObject" and answer.status == 200:
            return answer.having(x_amz_checksum_crc64nvme=None, etag='"0123456789abcdef0123456789abcdef"')
        if request.action == "GET" and answer.status == 206 and is_damaged:
            return replace(answer, body=bytes([answer.body[0] ^ 1]) + answer.body[1:])
        return answer

    proxy.fault = lie
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    expected = (State.PENDING, "object-differs") if is_damaged else (State.VERIFIED, None)
    assert (row.state, row.error_code) == expected
    if is_damaged:
        assert harness.step(State.VERIFIED) == []
        assert [url for url in harness.catalog_urls() if not url.startswith("file:")] == []
    assert os.path.exists(harness.absolute(PATH))


def test_an_object_of_unknown_origin_is_not_replaced_where_nothing_proves_its_content(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The server's ETags are no digests, it keeps no checksums, and reading back is switched off."""

    def opaque(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action != "HeadObject" or answer.status != 200:
            return answer
        return answer.having(
            x_amz_checksum_crc64nvme=None,
            etag='"opaque"',
            last_modified="Fri, 01 Jan 2100 00:00:00 GMT",
        )

    proxy.fault = opaque
    harness = make_harness(AWS_S3_PROVE_BY_READING=False)
    foreign = video[::-1]
    harness.server.client().put_object(Bucket=BUCKET, Key=f"videos/{PATH}", Body=foreign)
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, "foreign-object")
    stored = harness.server.client().get_object(Bucket=BUCKET, Key=f"videos/{PATH}")["Body"].read()
    assert stored == foreign


def test_a_file_that_is_sent_without_a_look_replaces_no_object_of_unknown_origin(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file has the server prove that it keeps what is there; then S3 is asked where it refuses."""
    monkeypatch.setattr(preconditions, "PROOF_AFTER", 1)
    harness = make_harness()
    harness.put(f"{VIDEO_ID}/earlier_720p.mp4", video)
    harness.step(State.PENDING)
    foreign = video[::-1]
    harness.server.client().put_object(Bucket=BUCKET, Key=f"videos/{PATH}", Body=foreign)

    def as_newer(request: Request, forward: Forward) -> Answer:
        answer = forward()
        is_there = request.action == "HeadObject" and answer.status == 200
        return answer.having(last_modified="Fri, 01 Jan 2100 00:00:00 GMT") if is_there else answer

    proxy.fault = as_newer
    proxy.requests.clear()
    harness.put(PATH, video)
    harness.step(State.PENDING)
    row = harness.row(PATH)
    assert (row.state, row.error_code) == (State.FAILED, "foreign-object")
    assert proxy.actions[0] == "PutObject"
    stored = harness.server.client().get_object(Bucket=BUCKET, Key=f"videos/{PATH}")["Body"].read()
    assert stored == foreign


def test_an_upload_that_was_tried_before_is_looked_for(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its object may be there: the process was killed, or the answer lost."""
    monkeypatch.setattr(preconditions, "PROOF_AFTER", 1)
    harness = make_harness()
    harness.put(f"{VIDEO_ID}/earlier_720p.mp4", video)
    harness.step(State.PENDING)
    harness.put(PATH, video)
    proxy.fault = lambda _request, _forward: s3_error(500, "InternalError")
    harness.step(State.PENDING)
    assert harness.row(PATH).state is State.PENDING
    harness.app.ledger.end_backoff([harness.row(PATH).id])
    proxy.fault = no_fault
    proxy.requests.clear()
    harness.step(State.PENDING)
    assert harness.row(PATH).state is State.VERIFIED
    assert sent(proxy) == ["PutObject"]
    assert "HeadObject" in proxy.actions[: proxy.actions.index("PutObject")]


def test_an_object_that_is_not_there_after_it_was_sent_is_never_published(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.0)
    proxy.fault = lambda request, forward: Answer(404) if request.action == "HeadObject" else forward()
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "object-missing")


def test_a_403_is_unknown_so_it_is_sent_and_then_pauses_the_stage(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """Before sending the object counts as missing; after sending it is an environment error."""
    proxy.fault = lambda request, forward: Answer(403) if request.action == "HeadObject" else forward()
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert sent(proxy) == ["PutObject"]
    (put,) = [request for request in proxy.requests if request.action == "PutObject"]
    assert not {"If-Match", "If-None-Match"} & set(put.headers)
    assert (row.state, row.attempts) == (State.PENDING, 0)
    failure = harness.app.runners[State.PENDING].breaker.failure
    assert failure is not None
    assert "s3:GetObject" in failure.sentence


def test_a_sent_object_is_not_sent_again_while_its_state_is_unknown(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """In a bucket that is writable but not readable every probe of the stage would send the file again."""
    proxy.fault = lambda request, forward: Answer(403) if request.action == "HeadObject" else forward()
    harness = make_harness()
    harness.put(PATH, video)
    for _ in range(3):
        (row,) = harness.step(State.PENDING)
        assert (row.state, row.error_code) == (State.PENDING, "object-unknown")
    proxy.fault = no_fault
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert sent(proxy) == ["PutObject"]


def test_a_confirmation_is_recorded_as_soon_as_the_database_is_back(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is neither sent nor confirmed again."""
    harness = make_harness()
    harness.put(PATH, video)
    advance = harness.app.ledger.advance
    failures = iter([DatabaseError(ErrorKind.TRANSIENT, "make an upload verified", "it is gone", "Wait.")])

    def fail_once(upload: Upload, to: State, **facts: Any) -> Upload:
        for failure in failures:
            raise failure
        return advance(upload, to, **facts)

    monkeypatch.setattr(harness.app.ledger, "advance", fail_once)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts, len(harness.waited)) == (State.VERIFIED, 0, 1)
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]


def test_an_object_that_is_in_place_already_is_adopted(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """The daemon was killed after the object was completed and before that was recorded."""
    harness = make_harness()
    harness.put(PATH, video)
    harness.step(State.PENDING)
    os.remove(os.path.join(os.path.dirname(harness.app.tree.root), "state", "ledger.sqlite3"))
    del proxy.requests[:]
    second = make_harness(DATABASE_URL=f"sqlite://{os.path.dirname(harness.app.tree.root)}/second.sqlite3")
    second.settle(PATH)
    (row,) = second.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert sent(proxy) == []
    assert "adopted" in second.events(PATH)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (403, "InvalidAccessKeyId")]
)
def test_an_environment_error_pauses_the_stage_and_fails_no_upload(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, status: int, code: str
) -> None:
    def refuse(request: Request, forward: Forward) -> Answer:
        return s3_error(status, code) if request.action == "PutObject" else forward()

    proxy.fault = refuse
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 0, code)
    breaker = harness.app.runners[State.PENDING].breaker
    assert breaker.failure is not None
    proxy.fault = lambda _request, forward: forward()
    assert harness.finish(PATH).state is State.RELEASED
    assert breaker.failure is None


def test_a_transient_error_postpones_the_row_and_counts_the_attempt(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    proxy.fault = lambda request, forward: (
        s3_error(503, "SlowDown") if request.action == "PutObject" else forward()
    )
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts, row.error_code) == (State.PENDING, 1, "SlowDown")
    assert harness.app.runners[State.PENDING].breaker.failure is None


def test_a_file_too_large_for_the_server_fails_with_a_sentence(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    proxy.fault = lambda request, forward: (
        s3_error(400, "EntityTooLarge") if request.action == "PutObject" else forward()
    )
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, "EntityTooLarge")
    assert row.last_error
    assert os.path.exists(harness.absolute(PATH))


def test_two_files_for_one_key_do_not_overwrite_each_other(make_harness: MakeHarness, video: bytes) -> None:
    """`clip.mp4` is the original of the same key that `clip_original.mp4` has; the first one keeps it."""
    harness = make_harness()
    first = harness.put(f"{VIDEO_ID}/clip.mp4", video)
    second = harness.put(f"{VIDEO_ID}/clip_original.mp4", video + b"\0\0\0\x08free")
    assert first.object_key == second.object_key
    harness.step(State.PENDING)
    assert harness.row(first.path).state is State.VERIFIED
    failed = harness.row(second.path)
    assert (failed.state, failed.error_code) == (State.FAILED, "key-taken")
    assert first.path in (failed.last_error or "")
    assert harness.object(first) == video


def test_a_stop_in_the_middle_gives_the_row_back_at_once(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, LARGE))

    def stop(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart":
            harness.stop_requested = True
        return forward()

    proxy.fault = stop
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts, row.claimed_by) == (State.PENDING, 0, None)
    assert row.due_at <= harness.app.ledger.now()
    assert harness.object(row) is None
    harness.stop_requested = False
    proxy.fault = lambda _request, forward: forward()
    assert harness.finish(PATH).state is State.RELEASED


def test_content_that_arrives_during_an_upload_supersedes_it(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """Compressed again: the old upload loses its claim and the object ends with the new content."""
    harness = make_harness()
    old = harness.put(PATH, video)
    fresh = padded(video, 90_000)
    rows: list[Upload | None] = []

    def replace(request: Request, forward: Forward) -> Answer:
        if request.action == "PutObject" and not rows:
            harness.write(PATH, fresh)
            rows.append(harness.settle(PATH))
        return forward()

    proxy.fault = replace
    harness.step(State.PENDING, limit=1)
    assert harness.app.ledger.uploads(ids=[old.id])[0].state is State.SUPERSEDED
    final = harness.finish(PATH)
    assert (final.state, final.size) == (State.RELEASED, len(fresh))
    assert harness.object(final) == fresh


def test_a_changed_mtime_alone_is_not_new_content(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, place: str
) -> None:
    """`shutil.copy2` sets the source's mtime after the close: the row is kept and nothing is sent twice."""
    harness = make_harness()
    first = harness.put(PATH, video)
    harness.step(State.PENDING)
    os.utime(harness.absolute(PATH), ns=(0, 1_000_000_000))
    second = harness.settle(PATH)
    assert second is not None
    assert (second.id, second.state) == (first.id, State.VERIFIED)
    assert second.mtime_ns == 1_000_000_000
    assert sent(proxy) == ["PutObject"]
    assert harness.finish(PATH).state is State.RELEASED


def test_a_file_that_disappears_before_it_is_confirmed_is_gone_until_it_comes_back(
    make_harness: MakeHarness, video: bytes, place: str
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    shutil.move(harness.absolute(PATH), os.path.join(place, "elsewhere"))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.GONE, "local-missing")
    shutil.move(os.path.join(place, "elsewhere"), harness.absolute(PATH))
    back = harness.settle(PATH)
    assert back is not None
    assert (back.id, back.state) == (row.id, State.PENDING)
    assert harness.finish(PATH).state is State.RELEASED


def test_an_empty_directory_makes_no_upload_gone(make_harness: MakeHarness, video: bytes, place: str) -> None:
    """An unmounted file system leaves an empty directory: the stage pauses and no row is gone."""
    harness = make_harness()
    harness.put(PATH, video)
    os.rename(harness.absolute(VIDEO_ID), os.path.join(place, "unmounted"))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "root-unavailable")
    os.rename(os.path.join(place, "unmounted"), harness.absolute(VIDEO_ID))
    assert harness.finish(PATH).state is State.RELEASED


def test_requests_and_database_operations_are_counted_with_their_errors(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    """Of botocore and the CRT alike; an object that is looked for and missing is no error."""
    harness = make_harness()
    harness.put(PATH, video)
    harness.put(f"{VIDEO_ID}/large_1080p.mp4", padded(video, LARGE))
    assert {row.state for row in harness.step(State.PENDING)} == {State.VERIFIED}
    store, registry = harness.app.context.store, harness.app.context.metrics.registry

    def counted(name: str, operation: str) -> float:
        return registry.get_sample_value(f"video_uploader_{name}", {"operation": operation}) or 0.0

    for operation in ("HeadObject", "PutObject", "UploadPart", "CompleteMultipartUpload"):
        assert counted("store_request_seconds_count", operation) >= 1, operation
        assert counted("store_request_seconds_sum", operation) > 0, operation
    assert counted("store_request_errors_total", "HeadObject") == 0
    for operation in ("read", "claim", "write"):
        assert counted("database_operation_seconds_count", operation) >= 1, operation
    before = counted("store_request_errors_total", "ListObjectsV2")
    server.forget_everything()
    with pytest.raises(StorageError):
        list(store.objects("videos/"))
    assert counted("store_request_errors_total", "ListObjectsV2") == before + 1
    with (
        pytest.raises(DatabaseError),
        harness.app.context.database.operation("fail") as connected,
    ):
        connected.execute_sql("SELECT no_such_column FROM uploads")
    assert counted("database_operation_errors_total", "read") == 1
