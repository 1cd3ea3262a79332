"""The rules of interrupted, replaced and foreign uploads, on real files and a real S3 server."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from db import State
from storage import PROBE_NAME
from tests.support.bucket_contents import keys, open_multiparts
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from tests.support.uploads_in_progress import FIVE_PARTS, KEY, PART, interrupted
from tests.support.video_files import FREE_BOX, PATH, padded
from watcher.stages.abandoned_multiparts import LISTING_SECONDS, PERIOD_SECONDS, AbandonedMultiparts
from watcher.supervision.backoff import Backoff

pytestmark = pytest.mark.long


def test_an_interrupted_upload_resumes_with_the_parts_in_s3(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """Also after a restart of the daemon: the ledger keeps the multipart's id and part size."""
    row = interrupted(make_harness(), proxy, video)
    kept = (
        server.client().list_parts(Bucket=BUCKET, Key=KEY, UploadId=row.multipart_id or "").get("Parts", [])
    )
    assert kept
    next_life = make_harness()
    next_life.app.ledger.release_all_claims()
    with capture_logs() as logs:
        assert next_life.app.abandoned_multiparts.adopt_or_abort()
        assert next_life.app.abandoned_multiparts.adopt_or_abort()
    assert [line["event"] for line in logs] == ["multipart_adopted"]
    (done,) = next_life.step(State.PENDING)
    assert (done.state, done.multipart_id) == (State.VERIFIED, None)
    assert "CreateMultipartUpload" not in proxy.actions
    assert proxy.actions.count("UploadPart") <= 5 - len(kept)
    assert next_life.object(done) == padded(video, FIVE_PARTS)
    assert open_multiparts(server) == []


def test_an_upload_whose_claim_is_lost_with_its_last_part_is_not_completed(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """Another daemon may complete it by now, or have given it other content."""
    harness = make_harness()
    harness.put(PATH, padded(video, 2 * PART))
    database = harness.app.context.database

    def lose_the_claim(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == "UploadPart":
            with database.transaction():
                uploads = database.tables.uploads
                uploads.update(claim=uploads.claim + 1).execute()
        return answer

    proxy.fault = lose_the_claim
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.expected_etag, harness.object(row)) == (State.PENDING, None, None)
    assert "CompleteMultipartUpload" not in proxy.actions


def test_new_content_aborts_the_multipart_of_the_old_one(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    old = interrupted(harness, proxy, video)
    fresh = padded(video, FIVE_PARTS) + FREE_BOX
    harness.put(PATH, fresh)
    assert harness.app.abandoned_multiparts.abort_abandoned() == 1
    assert open_multiparts(server) == []
    assert "aborted" in [event.event for event in harness.app.ledger.events(old.id)]
    assert harness.object(harness.finish(PATH)) == fresh


def test_an_abort_that_fails_is_repeated_until_it_is_done(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes, place: str
) -> None:
    """The file is gone, and the server fails when the parts are to be aborted."""
    harness = make_harness()
    interrupted(harness, proxy, video)
    harness.write(f"{VIDEO_ID}/other.txt", b"")
    os.unlink(harness.absolute(PATH))
    (gone,) = harness.step(State.PENDING)
    assert gone.state is State.GONE
    proxy.fault = lambda request, forward: (
        s3_error(503, "SlowDown") if request.method == "DELETE" else forward()
    )
    with pytest.raises(Exception, match="SlowDown"):
        harness.app.abandoned_multiparts.abort_abandoned()
    assert open_multiparts(server) == [KEY]
    proxy.fault = lambda _request, forward: forward()
    assert harness.app.abandoned_multiparts.abort_abandoned() == 1
    assert open_multiparts(server) == []
    assert harness.app.abandoned_multiparts.abort_abandoned() == 0


def test_at_the_start_only_what_this_ledger_knows_is_aborted(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    """A crash between the response and its record leaves one of our keys; another host's is not ours."""
    harness = make_harness()
    harness.put(PATH, video)
    foreign = f"videos/{VIDEO_ID}/of_another_host_720p.mp4"
    for key in (KEY, foreign):
        server.client().create_multipart_upload(Bucket=BUCKET, Key=key)
    assert harness.app.abandoned_multiparts.adopt_or_abort()
    assert open_multiparts(server) == [foreign]


def test_a_multipart_whose_response_was_lost_is_aborted_within_the_hour(
    make_harness: MakeHarness, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """While an upload of the key is claimed, the multipart may belong to it and is left alone."""
    harness = make_harness()
    ledger, now = harness.app.ledger, 0.0
    abandoned_multiparts = AbandonedMultiparts(
        ledger=ledger,
        store=harness.app.context.store,
        prefix="videos",
        backoff=Backoff(),
        supervisor=harness.app.supervisor,
        clock=lambda: now,
    )
    assert abandoned_multiparts.adopt_or_abort()
    harness.put(PATH, padded(video, FIVE_PARTS))

    def lose_the_answer(request: Request, forward: Forward) -> Answer | None:
        answer = forward()
        return None if request.action == "CreateMultipartUpload" else answer

    proxy.fault = lose_the_answer
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.multipart_id) == (State.PENDING, None)
    leftover = open_multiparts(server)
    assert set(leftover) == {KEY}
    proxy.fault = no_fault
    now = LISTING_SECONDS - 1
    abandoned_multiparts.run_due()
    assert open_multiparts(server) == leftover
    held = ledger.claim_one(row.id, lease=timedelta(minutes=1))
    assert held is not None
    now = LISTING_SECONDS
    abandoned_multiparts.run_due()
    assert open_multiparts(server) == leftover
    ledger.release_claim(held)
    now += PERIOD_SECONDS
    abandoned_multiparts.run_due()
    assert open_multiparts(server) == []


def test_a_server_that_cannot_be_asked_does_not_keep_the_daemon_from_starting_and_is_told_once(
    make_harness: MakeHarness, proxy: FaultProxy
) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    abandoned_multiparts = make_harness().app.abandoned_multiparts
    with capture_logs() as logs:
        assert not abandoned_multiparts.adopt_or_abort()
        assert not abandoned_multiparts.adopt_or_abort()
    assert [line["event"] for line in logs] == ["multiparts_unlisted"]


def test_what_a_killed_daemon_had_stored_to_find_something_out_is_removed_after_an_hour(
    make_harness: MakeHarness, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, client = make_harness(), server.client()
    mine, others = f"videos/{PROBE_NAME}1", f"videos/{PROBE_NAME.removesuffix('-')}"
    for key in (mine, others):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    # Its age does not matter here: moto gives all of them the same time.
    client.create_multipart_upload(Bucket=BUCKET, Key=mine)
    abandoned_multiparts = harness.app.abandoned_multiparts
    for kept in (timedelta(hours=1), timedelta(hours=-1)):
        assert keys(server) == {mine, others}
        monkeypatch.setattr("watcher.stages.abandoned_multiparts.PROBES_KEPT", kept)
        assert abandoned_multiparts.adopt_or_abort()
        assert abandoned_multiparts.adopt_or_abort()
    assert keys(server) == {others}
    assert open_multiparts(server) == []


def test_a_foreign_object_that_is_newer_than_the_file_is_never_replaced(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=b"somebody else's")
    # The server tells times in whole seconds: the file's row is made older than any rounding.
    age(harness, PATH, timedelta(seconds=-5))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.FAILED, "foreign-object")
    assert "newer" in (row.last_error or "")
    assert harness.object(row) == b"somebody else's"


def test_a_foreign_object_that_is_older_than_the_file_is_replaced_on_condition(
    make_harness: MakeHarness, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    """`If-Match` with the ETag that was seen: what another client writes meanwhile survives."""
    harness = make_harness()
    etag = server.client().put_object(Bucket=BUCKET, Key=KEY, Body=b"somebody else's")["ETag"]
    harness.put(PATH, video)
    age(harness, PATH, timedelta(seconds=5))
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert [r.headers.get("If-Match") for r in proxy.requests if r.action == "PutObject"] == [etag]
    assert harness.object(row) == video


def test_our_own_earlier_object_is_replaced_even_if_new(make_harness: MakeHarness, video: bytes) -> None:
    """Compressed again within the second: the ledger knows the object's ETag."""
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    harness.put(PATH, video)
    harness.step(State.PENDING)
    harness.put(PATH, video + FREE_BOX)
    age(harness, PATH, timedelta(seconds=-5))
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert harness.object(row) == video + FREE_BOX


def test_an_object_that_appears_meanwhile_is_not_overwritten(
    make_harness: MakeHarness, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    """The first upload of a key goes with `If-None-Match: *`."""
    harness = make_harness()
    harness.put(PATH, video)

    def appear(request: Request, forward: Forward) -> Answer:
        if request.action == "PutObject":
            assert request.headers["If-None-Match"] == "*"
            server.client().put_object(Bucket=BUCKET, Key=KEY, Body=b"somebody else's")
        return forward()

    proxy.fault = appear
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.attempts) == (State.PENDING, 1)
    assert harness.object(row) == b"somebody else's"


def test_a_bucket_without_acls_whose_policy_is_public_is_good_enough(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    """moto judges anonymous requests by ACLs alone, so the proxy answers them as a public policy would."""

    def let_strangers_in(request: Request, forward: Forward) -> Answer:
        if is_anonymous(request):
            return Answer(200, {"content-length": str(len(video))})
        return refuse_acls(request, forward)

    proxy.fault = let_strangers_in
    harness = make_harness()
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    harness.put(f"{VIDEO_ID}/second_720p.mp4", video)
    del proxy.requests[:]
    harness.step(State.PENDING)
    assert [request.headers.get("x-amz-acl") for request in proxy.requests] == [None] * len(proxy.requests)


def test_a_bucket_without_acls_that_is_not_public_pauses_with_the_three_ways_out(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    def refuse_strangers(request: Request, forward: Forward) -> Answer:
        if is_anonymous(request):
            return Answer(403)
        return refuse_acls(request, forward)

    proxy.fault = refuse_strangers
    harness = make_harness()
    harness.put(PATH, video)
    for _ in range(2):
        (row,) = harness.step(State.PENDING)
        assert (row.state, row.attempts, row.error_code) == (
            State.PENDING,
            0,
            "AccessControlListNotSupported",
        )
    failure = harness.app.runners[State.PENDING].breaker.failure
    assert failure is not None
    for way in ("policy", "Object Ownership", "AWS_S3_ACL=none"):
        assert way in failure.sentence


def test_without_an_acl_nothing_is_sent_and_nothing_is_asked(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness(AWS_S3_ACL="none")
    harness.put(PATH, video)
    harness.step(State.PENDING)
    assert proxy.actions == ["HeadObject", "PutObject", "HeadObject"]
    assert all("x-amz-acl" not in request.headers for request in proxy.requests)


def test_the_options_of_every_object_are_sent_with_it(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness(
        AWS_S3_STORAGE_CLASS="STANDARD_IA",
        AWS_S3_SSE="AES256",
        AWS_S3_TAGS="team=video&kind=a b",
        AWS_S3_EXPECTED_BUCKET_OWNER="123456789012",
        AWS_S3_CACHE_CONTROL="no-cache",
    )
    harness.put(PATH, padded(video, FIVE_PARTS))
    harness.put(f"{VIDEO_ID}/small_720p.mp4", video)
    harness.step(State.PENDING)
    creates = [r for r in proxy.requests if r.action in {"PutObject", "CreateMultipartUpload"}]
    assert len(creates) == 2
    for request in creates:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-server-side-encryption"] == "AES256"
        assert headers["x-amz-tagging"] == "team=video&kind=a%20b"
        assert headers["x-amz-expected-bucket-owner"] == "123456789012"
        assert headers["cache-control"] == "no-cache"


def refuse_acls(request: Request, forward: Forward) -> Answer:
    """A bucket that has ACLs disabled, as AWS answers."""
    if "x-amz-acl" in request.headers:
        return s3_error(400, "AccessControlListNotSupported", "The bucket does not allow ACLs")
    return forward()


def is_anonymous(request: Request) -> bool:
    """Whether a request has no credentials."""
    return "authorization" not in {name.lower() for name in request.headers}


def age(harness: Harness, path: str, by: timedelta) -> None:
    """Make a path's row newer by this much (older, if negative)."""
    row = harness.row(path)
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction():
        uploads.update(discovered_at=row.discovered_at + by).where(uploads.id == row.id).execute()
