"""Malformed dates, numbers and fields in answers are transient errors of one code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from storage import Distribution, ErrorKind, ObjectStore, StorageError
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request
from tests.support.s3_server import config_for

KEY = "videos/key"
Ask = Callable[[ObjectStore], object]


def confirm(store: ObjectStore) -> object:
    return store.confirm(KEY, size=1, checksum="", proven_etag=None)


def is_public(store: ObjectStore) -> object:
    return store.is_public(KEY)


def open_multiparts(store: ObjectStore) -> object:
    return list(store.open_multiparts())


def objects(store: ObjectStore) -> object:
    return list(store.objects())


def listed(root: str, fields: str) -> Answer:
    inner = "Upload" if root == "ListMultipartUploadsResult" else "Contents"
    return Answer(200, body=f"<{root}><{inner}>{fields}</{inner}></{root}>".encode())


def always(answer: Answer) -> Fault:
    def give(request: Request, forward: Forward) -> Answer:
        return answer

    return give


@pytest.fixture
def answering() -> Iterator[FaultProxy]:
    with FaultProxy() as server:
        yield server


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (confirm, Answer(200, {"last-modified": "Wed, 25 Nox 2026 03:00:00 GMT"})),
        (confirm, Answer(200, {"x-amz-mp-parts-count": "3z"})),
        (confirm, Answer(200, {"etag": '"an answer without a length"'})),
        (is_public, Answer(200, {"last-modified": "Wed, 25 Nox 2026 03:00:00 GMT"})),
        (open_multiparts, listed("ListMultipartUploadsResult", "<Initiated>2026-11-2x</Initiated>")),
        (open_multiparts, listed("ListMultipartUploadsResult", "<Key>k</Key><Key>l</Key>")),
        (open_multiparts, listed("ListMultipartUploadsResult", "<Key>k</Key><UploadId>u</UploadId>")),
        (open_multiparts, listed("ListMultipartUploadsResult", "<Kex>k</Kex>")),
        (objects, listed("ListBucketResult", "<Key>k</Key><Size>1O</Size>")),
        (objects, listed("ListBucketResult", "<Key>k</Key><Size>10</Size>")),
    ],
)
def test_it_is_transient_and_says_what_to_check(answering: FaultProxy, ask: Ask, answer: Answer) -> None:
    answering.fault = always(answer)
    with ObjectStore(config_for(answering.url, "bucket")) as store, pytest.raises(StorageError) as caught:
        ask(store)
    assert (caught.value.kind, caught.value.code) in {
        (ErrorKind.TRANSIENT, "unreadable-answer"),
        (ErrorKind.TRANSIENT, "incomplete-answer"),
    }
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_an_error_with_two_codes_is_judged_by_its_status(answering: FaultProxy) -> None:
    answering.fault = always(Answer(409, body=b"<Error><Code>A</Code><Code>B</Code></Error>"))
    with ObjectStore(config_for(answering.url, "bucket")) as store, pytest.raises(StorageError) as caught:
        store.abort(KEY, "upload")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "http-409")


def test_it_is_so_at_a_cdn_too(answering: FaultProxy) -> None:
    body = b"<Invalidation><Id>I</Id><CreateTime>never</CreateTime></Invalidation>"
    answering.fault = always(Answer(201, body=body))
    config = dataclasses.replace(
        config_for(answering.url, "bucket"),
        cloudfront_distribution_id="E2EXAMPLE",
        cloudfront_endpoint_url=answering.url,
    )
    with Distribution(config) as distribution, pytest.raises(StorageError) as caught:
        distribution.invalidate(["/videos/key"], reference="r")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "unreadable-answer")
