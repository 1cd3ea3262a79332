"""Incomplete multipart uploads are listed and aborted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from storage import ObjectStore, OpenMultipart
from tests.conformance.backends import Backend
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own time zone is another."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


def begin(backend: Backend, key: str, parts: int = 0) -> str:
    """Begin an upload behind the store's back; returns its id."""
    upload_id = backend.client.create_multipart_upload(Bucket=backend.bucket, Key=key)["UploadId"]
    for number in range(1, parts + 1):
        backend.client.upload_part(
            Bucket=backend.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=b"a part"
        )
    return upload_id


def opened(store: ObjectStore, prefix: str) -> set[tuple[str, str]]:
    """Keys and ids of what is open."""
    return {(found.key, found.upload_id) for found in store.open_multiparts(prefix)}


def test_what_is_open_is_listed_with_its_time_in_utc(
    backend: Backend, store: ObjectStore, key: str, far_from_greenwich: None
) -> None:
    upload_id = begin(backend, key)
    (found,) = store.open_multiparts(key)
    assert isinstance(found, OpenMultipart)
    assert (found.key, found.upload_id) == (key, upload_id)
    (seen,) = backend.client.list_multipart_uploads(Bucket=backend.bucket, Prefix=key)["Uploads"]
    assert found.initiated_at == seen["Initiated"]
    assert found.initiated_at.utcoffset() == timedelta(0)


def test_only_those_below_the_prefix_are_listed(backend: Backend, store: ObjectStore, prefix: str) -> None:
    ours = f"{prefix}/ours/a ü+%#\"'.mp4"
    upload_id = begin(backend, ours)
    begin(backend, f"{prefix}/others/b.mp4")
    assert opened(store, f"{prefix}/ours/") == {(ours, upload_id)}


def test_several_of_one_key_are_distinguished(backend: Backend, store: ObjectStore, key: str) -> None:
    first, second = begin(backend, key), begin(backend, key)
    assert opened(store, key) == {(key, first), (key, second)}
    store.abort(key, first)
    assert opened(store, key) == {(key, second)}


@pytest.mark.parametrize("parts", [0, 2])
def test_what_is_aborted_is_gone_and_aborting_it_again_is_fine(
    backend: Backend, store: ObjectStore, key: str, parts: int
) -> None:
    upload_id = begin(backend, key, parts)
    store.abort(key, upload_id)
    assert opened(store, key) == set()
    store.abort(key, upload_id)
    assert backend.content(key) is None


def test_what_never_was_can_be_aborted(store: ObjectStore, key: str) -> None:
    """The ledger may remember what a server has cleaned away long ago."""
    store.abort(key, "0123456789abcdef")


def test_more_than_one_page_of_them_is_listed(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, prefix: str
) -> None:
    """A server lists at most 1,000 at once; here it is asked for two."""
    if backend.traits.checks_signatures:
        pytest.skip(f"{backend.name} checks signatures, so its questions cannot be changed on the way")
    begun = {(key, begin(backend, key)) for key in (f"{prefix}/{number}.mp4" for number in range(5))}

    def in_pages(request: Request, forward: Forward) -> Answer | None:
        if request.method == "GET" and "uploads" in request.path:
            return proxy._forward(replace(request, path=f"{request.path}&max-uploads=2"))
        return forward()

    proxy.fault = in_pages
    assert opened(store, f"{prefix}/") == begun
    if backend.traits.pages_uploads:
        assert proxy.actions.count("GET") == 3
