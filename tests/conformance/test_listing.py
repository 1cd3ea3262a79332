"""Listings of any length, by prefix, with any keys."""

from __future__ import annotations

from datetime import timedelta

import pytest

from storage import ErrorKind, ObjectStore, StorageError
from tests.conformance.backends import Backend
from tests.support.fault_proxy import FaultProxy, s3_error


def test_objects_below_a_prefix_are_listed_by_key_with_size_and_time_in_utc(
    backend: Backend, store: ObjectStore, prefix: str
) -> None:
    """Names that need encoding come back as they are; what merely begins alike is not below it."""
    ours = sorted([f"{prefix}/ours/a ü+%#\"'&<>.mp4", f"{prefix}/ours/b.mp4"])
    for key in (*ours, f"{prefix}/ours.mp4"):
        backend.client.put_object(Bucket=backend.bucket, Key=key, Body=b"content")
    found = list(store.objects(f"{prefix}/ours/"))
    assert [entry.key for entry in found] == ours
    assert {entry.size for entry in found} == {7}
    assert {entry.written_at.utcoffset() for entry in found} == {timedelta(0)}


def test_pages_are_asked_for_as_they_are_needed(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that stops early makes the server list no more; one that continues gets every page."""
    client = store._session.client
    real = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **asked: real(**asked, MaxKeys=2))
    for number in range(5):
        backend.client.put_object(Bucket=backend.bucket, Key=f"{prefix}/{number}.mp4", Body=b"x")
    proxy.requests.clear()
    listing = store.objects(f"{prefix}/")
    assert next(listing).key == f"{prefix}/0.mp4"
    assert len(proxy.requests) == 1
    assert [entry.key for entry in listing] == [f"{prefix}/{number}.mp4" for number in range(1, 5)]
    assert len(proxy.requests) == 3


def test_where_nothing_is_nothing_is_listed(store: ObjectStore, prefix: str) -> None:
    assert list(store.objects(f"{prefix}/")) == []


def test_a_listing_that_is_refused_says_so_in_our_words(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    with pytest.raises(StorageError) as caught:
        list(store.objects())
    assert (caught.value.kind, caught.value.status) == (ErrorKind.ENVIRONMENT, 403)
    assert "s3:ListBucket" in caught.value.hint
