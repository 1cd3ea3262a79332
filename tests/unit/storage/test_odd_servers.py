"""Servers that lag, contradict themselves, refuse ACLs or give no digest: files arrive and are proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import structlog

from storage import (
    ErrorKind,
    ObjectStore,
    PreconditionError,
    SourceFile,
    StorageError,
    Target,
    UploadSteps,
    WriteCondition,
    object_store,
)
from storage.transfer import preconditions
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

pytestmark = pytest.mark.long

KEY = "videos/a/clip_720p.mp4"
TARGET = Target(KEY, "video/mp4", {"quality": "720p"})
SMALL = bytes(range(256)) * 400
LARGE = bytes(range(256)) * 4096 * 17
SourceOf = Callable[[bytes], SourceFile]


class Absent(UploadSteps):
    """Writes where nothing is, and replaces what is found."""

    def condition(self, found: object) -> WriteCondition:
        etag = getattr(found, "etag", None)
        return WriteCondition.if_match(etag) if etag else WriteCondition.if_absent()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_LAG_SECONDS", 0.01)
    monkeypatch.setattr(preconditions, "CONFLICT_SECONDS", 0.01)


@pytest.fixture
def store(proxy: FaultProxy, bucket: str) -> Iterator[ObjectStore]:
    with ObjectStore(config_for(proxy.url, bucket)) as store:
        yield store


def ensure(store: ObjectStore, source: SourceFile) -> str:
    """Which proof was found."""
    return store.ensure(source, TARGET, checksum=source.checksum(), steps=Absent()).confirmed_by


def writes(proxy: FaultProxy) -> int:
    return sum(action in {"PutObject", "UploadPart"} for action in proxy.actions)


@pytest.mark.parametrize("older", [False, True])
def test_a_server_that_shows_an_object_late_is_asked_again_and_sent_nothing_twice(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, older: bool
) -> None:
    if older:
        ensure(store, source_of(b"of an earlier encode"))
    before: list[Answer] = []
    asked = 0

    def lag(request: Request, forward: Forward) -> Answer:
        nonlocal asked
        if request.action != "HeadObject":
            return forward()
        if not before:
            before.append(forward())
        if "PutObject" in proxy.actions:
            asked += 1
        return before[0] if asked < 4 else forward()

    proxy.fault = lag
    proxy.requests.clear()
    with structlog.testing.capture_logs() as logs:
        assert ensure(store, source_of(SMALL)) == "checksum"
    assert writes(proxy) == 1
    assert [event["event"] for event in logs] == ["object_not_visible_yet"] * 3


def test_a_server_that_never_shows_an_object_is_a_transient_error(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.05)
    proxy.fault = lambda request, forward: Answer(404) if request.action == "HeadObject" else forward()
    with pytest.raises(StorageError) as caught:
        ensure(store, source_of(SMALL))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "object-missing")
    assert writes(proxy) == 1


@pytest.mark.parametrize("content", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")]
)
def test_a_condition_that_is_refused_although_it_is_met_is_dropped_after_another_look(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, content: bytes, status: int, code: str
) -> None:
    proxy.fault = lambda request, forward: (
        s3_error(status, code) if "If-None-Match" in request.headers else forward()
    )
    with structlog.testing.capture_logs() as logs:
        assert ensure(store, source_of(content)) in {"checksum", "etag"}
    (dropped,) = [event for event in logs if event["event"] == "condition_dropped"]
    assert dropped["condition"] == "If-None-Match"
    conditional = [request for request in proxy.requests if "If-None-Match" in request.headers]
    assert len(conditional) <= 2
    parts = [request.part_number for request in proxy.requests if request.action == "UploadPart"]
    assert len(parts) == len(set(parts))


def test_a_conflict_that_passes_leaves_the_condition_in_force(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    refused: list[Request] = []

    def once(request: Request, forward: Forward) -> Answer:
        if "If-None-Match" in request.headers and not refused:
            refused.append(request)
            return s3_error(409, "ConditionalRequestConflict")
        return forward()

    proxy.fault = once
    assert ensure(store, source_of(SMALL)) == "checksum"
    puts = [request for request in proxy.requests if request.action == "PutObject"]
    assert ["If-None-Match" in request.headers for request in puts] == [True, True]


def test_an_object_that_appears_at_the_second_look_is_not_overwritten(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, s3: S3Server, bucket: str
) -> None:
    def refuse(request: Request, forward: Forward) -> Answer:
        if "If-None-Match" in request.headers:
            return s3_error(412, "PreconditionFailed")
        looks = proxy.actions.count("HeadObject")
        if request.action == "HeadObject" and looks == 3:
            s3.client().put_object(Bucket=bucket, Key=KEY, Body=b"of another writer")
        return forward()

    proxy.fault = refuse
    with pytest.raises(PreconditionError):
        ensure(store, source_of(SMALL))
    assert s3.client().get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"of another writer"


def test_a_server_that_compares_if_match_without_quotes_is_sent_none(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    ensure(store, source_of(b"of an earlier encode"))

    def like_ceph(request: Request, forward: Forward) -> Answer:
        if request.headers.get("If-Match", "").startswith('"'):
            return s3_error(412, "PreconditionFailed")
        return forward()

    proxy.fault = like_ceph
    for content in (SMALL, SMALL[::-1]):
        ensure(store, source_of(content))
    sent = [request.headers["If-Match"] for request in proxy.requests if "If-Match" in request.headers]
    assert [value.startswith('"') for value in sent] == [True, False, False]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidRequest"), (400, "NotImplemented"), (501, "NotImplemented"), (403, "AccessDenied")],
)
@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_refused_acl_ends_in_the_policy_or_in_one_error_that_names_the_ways_out(
    s3: S3Server, bucket: str, source_of: SourceOf, content: bytes, status: int, code: str
) -> None:
    is_public = True

    def refuse(request: Request, forward: Forward) -> Answer:
        if "x-amz-acl" in request.headers or "?acl" in request.path:
            return s3_error(status, code, "No ACLs here.")
        if request.action == "HeadObject" and "Authorization" not in request.headers:
            return Answer(200 if is_public else 403)
        return forward()

    with (
        FaultProxy(s3.url, refuse) as proxy,
        ObjectStore(config_for(proxy.url, bucket, acl="public-read")) as store,
    ):
        assert ensure(store, source_of(content)) in {"checksum", "etag"}
        is_public = False
        for other in (content[::-1], content):
            with pytest.raises(StorageError, match="three ways") as caught:
                ensure(store, source_of(other))
            assert caught.value.kind is ErrorKind.ENVIRONMENT
            assert "No ACLs here" in caught.value.hint
    writing = [request for request in proxy.requests if request.action != "PutObjectAcl"]
    assert sum("x-amz-acl" in request.headers for request in writing) == 1


def test_an_acl_that_was_denied_is_set_and_sent_again_once_it_is_allowed(
    s3: S3Server, bucket: str, source_of: SourceOf
) -> None:
    is_allowed = False

    def deny(request: Request, forward: Forward) -> Answer:
        if ("x-amz-acl" in request.headers or "?acl" in request.path) and not is_allowed:
            return s3_error(403, "AccessDenied", "s3:PutObjectAcl is missing")
        return forward()

    with (
        FaultProxy(s3.url, deny) as proxy,
        ObjectStore(config_for(proxy.url, bucket, acl="public-read")) as store,
    ):
        told: list[list[str]] = []
        store.dialect.on_changed = lambda found: told.append([each.feature for each in found if each.said])
        with pytest.raises(StorageError, match="s3:PutObjectAcl"):
            ensure(store, source_of(SMALL))
        is_allowed = True
        store.ensure_public(KEY)
        assert store.is_public(KEY)
        ensure(store, source_of(SMALL[::-1]))
        assert store.is_public(KEY)
        assert [now for before, now in pairwise([[], *told]) if now != before] == [["x-amz-acl"], []]
    assert proxy.requests[-3].headers["x-amz-acl"] == "public-read"


OPAQUE = ['"an-opaque-word"', f'"{"0123456789abcdef" * 2}"', f'"{"0123456789abcdef" * 2}-5"']


@pytest.mark.parametrize("etag", OPAQUE)
@pytest.mark.parametrize("content", [SMALL, LARGE])
@pytest.mark.parametrize("reading", [False, True])
def test_where_the_etag_is_no_digest_the_object_is_read_back_or_never_called_proven(
    s3: S3Server, bucket: str, source_of: SourceOf, content: bytes, etag: str, reading: bool
) -> None:
    def opaque(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action not in {"HeadObject", "GET", "PutObject", "CompleteMultipartUpload"}:
            return answer
        if answer.status >= 300:
            return answer
        none: dict[str, str | None] = {"x_amz_checksum_crc64nvme": None, "x_amz_checksum_type": None}
        return answer.having(**none, etag=etag)

    with (
        FaultProxy(s3.url, opaque) as proxy,
        ObjectStore(config_for(proxy.url, bucket, prove_by_reading=reading)) as store,
    ):
        source = source_of(content)
        if reading:
            assert ensure(store, source) == "reading"
            # Ours and identical: it is adopted, and its ETag proves that it is the same object still.
            assert ensure(store, source) == "reading"
            confirmation = store.confirm(
                KEY, size=source.size, checksum=source.checksum(), proven_etag=etag.strip('"')
            )
            assert confirmation.receipt is not None
        else:
            with pytest.raises(StorageError, match="AWS_S3_PROVE_BY_READING") as caught:
                ensure(store, source)
            assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "object-unknown")
    of_file = [request for request in proxy.requests if KEY in request.path]
    sent = [request for request in of_file if request.action in {"PutObject", "UploadPart"}]
    assert len(sent) == (1 if content is SMALL else 3)
    assert any(request.action == "GET" for request in of_file) == reading
    left = s3.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert [found["Key"] for found in left] == [KEY]


def test_other_content_under_an_opaque_etag_is_told_by_reading(
    s3: S3Server, bucket: str, source_of: SourceOf
) -> None:
    def opaque(request: Request, forward: Forward) -> Answer:
        answer = forward()
        none: dict[str, str | None] = {"x_amz_checksum_crc64nvme": None, "x_amz_checksum_type": None}
        is_read = request.action in {"HeadObject", "GET"} and answer.status < 300
        return answer.having(**none, etag='"opaque"') if is_read else answer

    s3.client().put_object(Bucket=bucket, Key=KEY, Body=SMALL[::-1])
    with FaultProxy(s3.url, opaque) as proxy, ObjectStore(config_for(proxy.url, bucket)) as store:
        source = source_of(SMALL)
        found = store.confirm_file(KEY, source, checksum=source.checksum(), part_size=None)
    assert found.verdict == "differs"


WEB_PAGE = Answer(200, {"content-type": "text/html", "content-length": "20"}, b"<html>Log in</html>")
TO_PORTAL = Answer(302, {"location": "http://portal.example/login"})
IN_CIRCLES = Answer(307, {"location": "http://127.0.0.1/again"})
LATE_ERROR = Answer(200, {}, b"<Error><Code>InternalError</Code></Error>")
ASKS = ("head", "put", "complete", "list")


@pytest.mark.parametrize(
    ("answer", "code", "ask"),
    [
        *((WEB_PAGE, "web-page", ask) for ask in ASKS),
        *((TO_PORTAL, "redirected", ask) for ask in ASKS),
        *((IN_CIRCLES, "redirected", ask) for ask in ASKS),
        # A HEAD has no body, and a listing with an error in its place is no listing.
        *((LATE_ERROR, "InternalError", ask) for ask in ("put", "complete")),
    ],
)
def test_what_answers_in_place_of_the_server_is_transient_under_a_code_of_its_own(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf, answer: Answer, code: str, ask: str
) -> None:
    action = {
        "head": "HeadObject",
        "put": "PutObject",
        "complete": "CompleteMultipartUpload",
        "list": "GET",
    }[ask]
    proxy.fault = lambda request, forward: answer if request.action == action else forward()
    source = source_of(LARGE if ask == "complete" else SMALL)
    with pytest.raises(StorageError) as caught:
        _ = list(store.objects()) if ask == "list" else ensure(store, source)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, code)


def test_every_environment_error_carries_the_words_of_the_server(
    store: ObjectStore, proxy: FaultProxy, source_of: SourceOf
) -> None:
    said = "Bad \x1b[31mthing " + "x" * 1000
    proxy.fault = lambda request, forward: (
        s3_error(400, "InvalidArgument", said.replace("\x1b", "&#x85;"))
        if request.action == "PutObject"
        else forward()
    )
    with pytest.raises(StorageError) as caught:
        ensure(store, source_of(SMALL))
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert "The server said: InvalidArgument: Bad" in caught.value.hint
    assert len(caught.value.hint) < 500
    assert caught.value.hint.isprintable()
    assert "AWS_S3_STORAGE_CLASS" not in caught.value.hint
    assert "Renew the session" not in caught.value.hint
