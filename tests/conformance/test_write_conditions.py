"""The server enforces the condition of a write, so that no object is replaced unseen."""

from __future__ import annotations

import pytest

from storage import ErrorKind, ObjectStore, PreconditionError, WriteCondition
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, content_of, make_file
from tests.conformance.uploads import send

SMALL = 1000
LARGE = 16 * MIB
NOBODYS = "0" * 32

both_ways = pytest.mark.parametrize(
    ("size", "operation"), [(SMALL, "PutObject"), (LARGE, "CompleteMultipartUpload")]
)


def refuse(
    backend: Backend, store: ObjectStore, path: str, key: str, operation: str, condition: WriteCondition
) -> None:
    """The server must not do it, and the error must say so."""
    assert condition.header is not None
    if (operation, condition.header[0]) in backend.traits.conditions_unheeded:
        pytest.skip(f"{backend.name} does not look at {condition.header[0]} of {operation}")
    before = backend.content(key)
    with pytest.raises(PreconditionError) as caught:
        send(store, path, key, condition)
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.key == key
    assert backend.content(key) == before


@both_ways
def test_where_nothing_is_a_first_upload_may_go(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    send(store, make_file(path, size), key, WriteCondition.if_absent())
    assert backend.content(key) == content_of(path)


@both_ways
def test_where_something_is_a_first_upload_is_refused(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    send(store, make_file(path, size, "of another writer"), key)
    refuse(backend, store, make_file(path, size), key, operation, WriteCondition.if_absent())


@both_ways
def test_what_was_seen_may_be_replaced(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    seen = send(store, make_file(path, size, "of another writer"), key)
    send(store, make_file(path, size), key, WriteCondition.if_match(seen.etag))
    assert backend.content(key) == content_of(path)


@both_ways
def test_what_was_not_seen_is_not_replaced(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    send(store, make_file(path, size, "of another writer"), key)
    refuse(backend, store, make_file(path, size), key, operation, WriteCondition.if_match(NOBODYS))


@both_ways
def test_what_has_gone_meanwhile_is_not_replaced(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    refuse(backend, store, make_file(path, size), key, operation, WriteCondition.if_match(NOBODYS))


@both_ways
def test_without_a_condition_anything_is_replaced(
    backend: Backend, store: ObjectStore, key: str, path: str, size: int, operation: str
) -> None:
    send(store, make_file(path, size, "of another writer"), key)
    send(store, make_file(path, size), key)
    assert backend.content(key) == content_of(path)
