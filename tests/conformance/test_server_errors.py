"""Every failure is a complete `StorageError`, never an exception of an underlying library."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from enum import Enum

import pytest

import storage
from storage import ErrorKind, Multipart, ObjectStore, StorageError, Target, WriteCondition
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, make_file, source_of
from tests.conformance.uploads import VIDEO, Watched
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import config_for

SMALL = 1000
LARGE = 17 * MIB
KEY = "videos/my_video_720p.mp4"
FOREIGN = ("boto3", "botocore", "s3transfer", "awscrt", "urllib3", "mypy_boto3_s3")
UNUSED_PORT = "http://127.0.0.1:1"

Call = Callable[[ObjectStore, str, str], object]


def upload(size: int, condition: WriteCondition | None = None) -> Call:
    def call(store: ObjectStore, key: str, path: str) -> object:
        with source_of(make_file(path, size)) as source:
            return Watched().send(store, source, key, condition=condition)

    return call


def resume(store: ObjectStore, key: str, path: str) -> object:
    with source_of(make_file(path, LARGE)) as source:
        return Watched().send(store, source, key, resume=Multipart("0123456789abcdef", 8 * MIB))


def confirm(store: ObjectStore, key: str, path: str) -> object:
    return store.confirm(key, size=1, checksum="AAAAAAAAAAA=", proven_etag=None)


CALLS: dict[str, Call] = {
    "put": upload(SMALL),
    "put if absent": upload(SMALL, WriteCondition.if_absent()),
    "multipart": upload(LARGE),
    "resume": resume,
    "confirm": confirm,
    "delete": lambda store, key, _path: store.delete(key),
    "abort": lambda store, key, _path: store.abort(key, "0123456789abcdef"),
    "open_multiparts": lambda store, key, _path: list(store.open_multiparts(key)),
    "is_public": lambda store, key, _path: store.is_public(key),
}
"""Every method that asks a server."""

WITHOUT_KEY = {"open_multiparts"}
"""They are about no one object."""

every_call = pytest.mark.parametrize("name", CALLS)


def failure_of(name: str, store: ObjectStore, key: str, path: str) -> StorageError | None:
    """The error that a call ends in, which has to be complete; what it returns instead has to be ours."""
    try:
        result = CALLS[name](store, key, path)
    except StorageError as error:
        ensure_complete(error, None if name in WITHOUT_KEY else key)
        return error
    ensure_ours(result)
    return None


def ensure_complete(error: StorageError, key: str | None) -> None:
    assert isinstance(error.kind, ErrorKind)
    assert error.operation
    assert error.key == key
    assert error.code
    assert error.code == error.code.strip()
    assert error.hint.endswith("."), error.hint
    assert error.code in str(error)
    assert error.hint in str(error)
    assert all(type(value).__module__.partition(".")[0] not in FOREIGN for value in vars(error).values())


def ensure_ours(value: object) -> None:
    """Neither a value nor anything within it is of a type from beneath."""
    for part in parts_of(value):
        assert type(part).__module__.partition(".")[0] in {"builtins", "datetime", "dateutil", "storage"}


def parts_of(value: object) -> Iterator[object]:
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from parts_of(getattr(value, field.name))
    elif isinstance(value, list):
        for item in value:
            yield from parts_of(item)


@every_call
def test_what_goes_well_returns_nothing_foreign(store: ObjectStore, key: str, path: str, name: str) -> None:
    assert failure_of(name, store, key, path) is None


@every_call
def test_a_missing_bucket_is_for_the_operator_to_correct(
    backend: Backend, key: str, path: str, name: str
) -> None:
    with ObjectStore(backend.config(bucket=f"{backend.bucket}-not")) as store:
        error = failure_of(name, store, key, path)
    # A HEAD has no body that could distinguish a missing bucket from a missing object.
    if error is not None:
        assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "NoSuchBucket")
    else:
        assert name in {"confirm", "is_public", "abort"}


@pytest.mark.timeout(120)
@every_call
def test_a_server_that_cannot_be_reached_is_tried_again_later(path: str, name: str) -> None:
    with ObjectStore(config_for(UNUSED_PORT, "bucket")) as store:
        error = failure_of(name, store, KEY, path)
    assert error is not None
    assert error.kind is ErrorKind.TRANSIENT


def answer(status: int, code: str) -> Callable[[Request, Forward], Answer | None]:
    return lambda _request, _forward: s3_error(status, code)


ANSWERS: dict[str, tuple[Callable[[Request, Forward], Answer | None], ErrorKind]] = {
    "denied": (answer(403, "AccessDenied"), ErrorKind.ENVIRONMENT),
    "skewed": (answer(403, "RequestTimeTooSkewed"), ErrorKind.ENVIRONMENT),
    "wrong region": (answer(301, "PermanentRedirect"), ErrorKind.ENVIRONMENT),
    "no acls": (answer(400, "AccessControlListNotSupported"), ErrorKind.ENVIRONMENT),
    "overloaded": (answer(503, "SlowDown"), ErrorKind.TRANSIENT),
    "broken": (answer(500, "InternalError"), ErrorKind.TRANSIENT),
    "unheard of": (answer(418, "Teapot"), ErrorKind.TRANSIENT),
    "no S3 at all": (
        lambda _request, _forward: Answer(200, {"content-type": "text/html"}, b"<html>"),
        ErrorKind.TRANSIENT,
    ),
    "dropped": (lambda _request, _forward: None, ErrorKind.TRANSIENT),
}


@every_call
@pytest.mark.parametrize("fault", ANSWERS)
def test_whatever_a_server_answers_is_an_error_of_ours(path: str, name: str, fault: str) -> None:
    """Also what no server here can be brought to say."""
    answered, kind = ANSWERS[fault]
    with FaultProxy(fault=answered) as server, ObjectStore(config_for(server.url, "bucket")) as store:
        error = failure_of(name, store, KEY, path)
    # A HEAD's answer has no body: some of it is no error, or no more than its status.
    if name not in {"confirm", "is_public"} and fault != "no S3 at all":
        assert error is not None
        assert error.kind is kind


@pytest.mark.parametrize("name", [name for name in CALLS if name != "is_public"])
def test_missing_credentials_are_for_the_operator_to_correct(path: str, name: str) -> None:
    no_credentials = {"access_key_id": None, "secret_access_key": None}
    with ObjectStore(config_for(UNUSED_PORT, "bucket", **no_credentials)) as store:
        error = failure_of(name, store, KEY, path)
    assert error is not None
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "no-credentials")


def test_errors_of_the_local_file_are_complete(store: ObjectStore, key: str, path: str) -> None:
    make_file(path, SMALL)
    with source_of(path) as source, pytest.raises(storage.SourceChangedError) as changed:
        store.upload(source, Target(key, VIDEO), checksum="AAAAAAAAAAA=", progress=lambda _: None)
    ensure_complete(changed.value, key)
    watched = Watched()
    watched.stop.set()
    with source_of(path) as source, pytest.raises(storage.UploadCancelledError) as cancelled:
        watched.send(store, source, key)
    ensure_complete(cancelled.value, key)


def test_the_error_of_a_key_that_is_too_long_is_complete() -> None:
    with pytest.raises(storage.KeyTooLongError) as too_long:
        storage.object_key("videos", "0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11", "a" * 1100 + ".mp4", "720p")
    ensure_complete(too_long.value, too_long.value.key)


def public_functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Everything that can be called from outside, with a name to find it by."""
    for name in storage.__all__:
        thing = getattr(storage, name)
        if inspect.isclass(thing):
            if issubclass(thing, (Enum, Exception)):
                continue
            yield name, thing.__init__
            for method, function in inspect.getmembers(thing):
                if not method.startswith("_") and inspect.unwrap(function).__class__.__name__ == "function":
                    yield f"{name}.{method}", function
        elif callable(thing):
            yield name, thing


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_no_signature_speaks_of_the_libraries_beneath(name: str, function: Callable[..., object]) -> None:
    hints = typing.get_type_hints(function)
    assert not [hint for hint in hints.values() if mentions_foreign(hint)]


def mentions_foreign(hint: object) -> bool:
    if isinstance(hint, list):
        return any(mentions_foreign(part) for part in hint)
    foreign = str(getattr(hint, "__module__", "")).partition(".")[0] in FOREIGN
    return foreign or any(mentions_foreign(part) for part in typing.get_args(hint))
